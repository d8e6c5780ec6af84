// The gallery. Names come from files: they only ever become text (textContent), never markup.
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 48; // cards that are made at once
  const STRENGTH = { heatmap: 0.65, mask: 0.7, truth: 0.7 }; // opacity of a layer where the slider is on it
  const at = (id) => document.getElementById(id);
  const LAYERS = ["heatmap", "mask", "truth"];
  const has = {
    heatmap: data.images.some((image) => image.runs.some((run) => run && run.heatmaps.length)),
    mask: data.images.some((image) => image.runs.some((run) => run && run.mask !== null)),
    truth: data.images.some((image) => image.truth !== null),
  };
  const stops = ["photograph", ...LAYERS.filter((layer) => has[layer])];
  const scored = data.images.some((image) => image.runs.some((run) => run && run.iou != null));

  function make(name, properties = {}, ...children) {
    const made = document.createElement(name);
    Object.assign(made, properties);
    made.append(...children);
    return made;
  }

  const className = (id) => (id === 0 ? "background" : id < 0 ? "any class" : data.classes[id - 1]);
  const percent = (value) => (value == null ? "-" : value.toFixed(3));

  // The slider: each stop is a layer, between two stops one fades into the other.
  function opacities(position) {
    return Object.fromEntries(LAYERS.map((layer) => {
      const stop = stops.indexOf(layer);
      return [layer, stop < 0 ? 0 : STRENGTH[layer] * Math.max(0, 1 - Math.abs(position - stop))];
    }));
  }

  function describe(position) {
    const below = Math.floor(position + 1e-6);
    const share = Math.round((position - below) * 100);
    return share === 0 ? stops[below] : `${100 - share} % ${stops[below]}, ${share} % ${stops[below + 1]}`;
  }

  function slider(input, holder, target) {
    function show() {
      const position = Number(input.value);
      for (const [layer, opacity] of Object.entries(opacities(position))) target.style.setProperty(`--${layer}`, opacity);
      input.setAttribute("aria-valuetext", describe(position));
      for (const [k, stop] of [...holder.children].entries()) {
        stop.setAttribute("aria-pressed", Math.abs(position - k) < 0.05);
      }
    }
    const go = (position) => { input.value = position; show(); };
    input.max = stops.length - 1;
    input.disabled = stops.length < 2;
    holder.replaceChildren(...stops.map((name, k) => {
      const stop = make("button", { type: "button", textContent: name });
      stop.addEventListener("click", () => go(k));
      return stop;
    }));
    input.addEventListener("input", show);
    go(Math.min(1, stops.length - 1));
    return go;
  }

  // Photograph below, layers on top; `wanted` is the class whose heatmap is shown, the strongest if there is none.
  function stack(image, view, wanted) {
    const box = make("span", { className: "stack" });
    box.style.aspectRatio = `${image.width} / ${image.height}`;
    box.style.setProperty("--aspect", image.width / image.height);
    const chosen = view && (view.heatmaps.find(([id]) => id === wanted) || view.heatmaps[0]);
    const layers = { photograph: image.photograph, heatmap: chosen && chosen[1], mask: view && view.mask, truth: image.truth };
    for (const [layer, place] of Object.entries(layers)) {
      if (place != null) box.append(make("img", { className: layer, alt: "", src: data.pictures[place], decoding: "async" }));
    }
    return box;
  }

  function swatch(id) {
    const mark = make("i", { className: "swatch" });
    mark.style.backgroundColor = id > 0 ? data.colours[id] : "transparent";
    return mark;
  }

  const classList = (ids, text = className) => make("span", { className: "classes" },
    ...ids.map((id) => make("span", {}, swatch(id), text(id))));

  function card(place) {
    const image = data.images[place], view = image.runs[state.run];
    const button = make("button", { type: "button", className: "picture" }, stack(image, view, state.class));
    button.setAttribute("aria-label", `Enlarge ${image.id}`);
    button.addEventListener("click", () => open(place));
    const words = [make("span", { className: "id", textContent: image.id, title: image.id })];
    if (view && view.iou != null) words.push(make("span", { className: "iou", textContent: `IoU ${percent(view.iou)}` }));
    if (!view) words.push(make("span", { className: "iou", textContent: "not in this run" }));
    const shown = image.classes.slice(0, 6);
    const rest = image.classes.length - shown.length;
    const found = make("li", { className: "card" }, button, make("div", { className: "caption" }, ...words), classList(shown));
    if (rest) found.lastChild.append(`and ${rest} more`);
    found.dataset.image = image.id;
    return found;
  }

  // Which images, and in which order.
  const state = { run: 0, class: 0, order: scored ? "worst" : "listed", search: "", shown: PAGE, found: [] };
  const iou = (image) => { const view = image.runs[state.run]; return view && view.iou != null ? view.iou : null; };
  function spread(image) {
    const known = image.runs.filter((run) => run && run.iou != null).map((run) => run.iou);
    return known.length > 1 ? Math.max(...known) - Math.min(...known) : null;
  }
  const ORDERS = {
    worst: { name: "worst first", use: scored, key: iou, sign: 1 },
    best: { name: "best first", use: scored, key: iou, sign: -1 },
    apart: { name: "runs differ most", use: scored && data.runs.length > 1, key: spread, sign: -1 },
    listed: { name: "as listed", use: true, key: () => 0, sign: 1 },
  };

  function find() {
    const { key, sign } = ORDERS[state.order], text = state.search.toLowerCase();
    const rows = data.images.map((image, place) => ({ place, image, value: key(image) }))
      .filter(({ image }) => (!state.class || image.classes.includes(state.class)) && image.id.toLowerCase().includes(text));
    // What has no score comes last in any order; equal ones as listed.
    rows.sort((a, b) => (a.value === null) - (b.value === null) || sign * (a.value - b.value) || a.place - b.place);
    return rows.map((row) => row.place);
  }

  function draw() {
    state.found = find();
    state.shown = PAGE;
    at("cards").replaceChildren();
    extend(0);
  }

  function extend(from) {
    at("cards").append(...state.found.slice(from, state.shown).map(card));
    const all = state.found.length, shown = Math.min(state.shown, all);
    const one = data.images.length === 1 ? "image" : "images";
    at("count").textContent = all ? `${all} of ${data.images.length} ${one}${shown < all ? `, ${shown} shown` : ""}` : "No image fits.";
    at("more").hidden = shown === all;
    at("more").textContent = `Show ${Math.min(PAGE, all - shown)} more`;
  }

  at("more").addEventListener("click", () => {
    const from = state.shown;
    state.shown += PAGE;
    extend(from);
    at("cards").children[from].querySelector("button").focus(); // the button may be gone; go on where the new ones begin
  });

  function options(select, rows, value) {
    select.replaceChildren(...rows.map(([key, name]) => make("option", { value: key, textContent: name })));
    select.value = value;
    select.closest(".field").hidden = rows.length < 2;
  }

  const used = [...new Set(data.images.flatMap((image) => image.classes))].sort((a, b) => a - b);
  options(at("run"), data.runs.map((name, k) => [k, name]), 0);
  options(at("class"), [[0, "all classes"], ...used.map((id) => [id, className(id)])], 0);
  options(at("order"), Object.entries(ORDERS).filter(([, order]) => order.use).map(([key, order]) => [key, order.name]), state.order);
  for (const name of ["run", "class"]) at(name).addEventListener("change", (event) => { state[name] = Number(event.target.value); draw(); });
  at("order").addEventListener("change", (event) => { state.order = event.target.value; draw(); });
  at("search").addEventListener("input", (event) => { state.search = event.target.value; draw(); });
  at("tools").addEventListener("submit", (event) => event.preventDefault());

  // One image, large, all runs side by side.
  const viewer = at("viewer");
  const viewerGo = slider(at("viewer-blend"), at("viewer-stops"), viewer);
  let current = 0; // among state.found

  function open(place) {
    current = state.found.indexOf(place);
    viewerGo(at("blend").value);
    fill();
    viewer.showModal();
    at("viewer-blend").focus();
  }

  function fill() {
    const image = data.images[state.found[current]];
    const mapped = [...new Set(image.runs.flatMap((run) => (run ? run.heatmaps.map(([id]) => id) : [])))];
    at("viewer-id").textContent = image.id;
    at("viewer-place").textContent = `${current + 1} of ${state.found.length}`;
    at("previous").disabled = current === 0;
    at("next").disabled = current === state.found.length - 1;
    options(at("viewer-class"), mapped.map((id) => [id, className(id)]), mapped.includes(state.class) ? state.class : mapped[0]);
    fillRuns();
  }

  function fillRuns() {
    const image = data.images[state.found[current]], wanted = Number(at("viewer-class").value);
    at("viewer-runs").replaceChildren(...image.runs.map((view, k) => {
      const caption = make("figcaption", {}, make("b", { textContent: data.runs[k] }));
      if (!view) caption.append(" has not this image");
      if (view && view.iou != null) {
        const each = new Map(view.ious);
        caption.append(` IoU ${percent(view.iou)}`, classList([...each.keys()], (id) => `${className(id)} ${percent(each.get(id))}`));
      } else if (view) {
        caption.append(classList(image.classes));
      }
      return make("figure", {}, stack(image, view, wanted), caption);
    }));
  }

  function step(by) {
    current = Math.min(state.found.length - 1, Math.max(0, current + by));
    fill();
  }

  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  at("close").addEventListener("click", () => viewer.close());
  at("viewer-class").addEventListener("change", fillRuns);

  slider(at("blend"), at("stops"), at("cards"));
  at("gallery").hidden = false;
  draw();
}
