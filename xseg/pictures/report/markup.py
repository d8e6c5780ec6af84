"""HTML and SVG in which whatever came from outside is text, never markup."""

import html
import json
from collections.abc import Iterable


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: object) -> Markup:
    """An element; children that are not `Markup`, and all attributes, are escaped.

    Args:
        name: of the element.
        children: text or markup, in order.
        attributes: `class_` is `class`, `stroke_width` is `stroke-width`; None leaves one out, True gives it no value.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        spelled = key.rstrip("_").replace("_", "-")
        words.append(spelled if value is True else f'{spelled}="{html.escape(str(value))}"')
    return Markup(f"<{' '.join(words)}>{joined(children)}</{name}>")


def joined(children: Iterable[str]) -> Markup:
    """Text and markup one after the other."""
    return Markup("".join(child if isinstance(child, Markup) else html.escape(child) for child in children))


def embedded_json(value: object) -> Markup:
    """JSON for a script element that is data: no character in it can end the element or begin another."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
