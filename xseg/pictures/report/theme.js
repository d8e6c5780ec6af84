"use strict";
// Light or dark: what the system asks for, until the button says otherwise.
{
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
  const tell = () => { button.textContent = chosen() === "dark" ? "Light colours" : "Dark colours"; };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = chosen() === "dark" ? "light" : "dark";
    tell();
  });
  dark.addEventListener("change", tell);
  button.hidden = false;
  tell();
}
