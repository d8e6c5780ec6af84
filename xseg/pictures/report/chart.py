"""Bars and curves as SVG that reads on light and dark paper."""

from collections.abc import Sequence
from itertools import groupby

from xseg.pictures.line_chart import COLOURS, Line, Panel, stroke_of
from xseg.pictures.report.markup import Markup, element

_SIDE, _LEFT, _BOTTOM, _TOP = 220, 36, 38, 8
_WIDTH = 2.0


def colour_of(number: int) -> str:
    """Colour of the run with this number; the darkest is the ink of the page, which is light on dark paper."""
    colour, _ = stroke_of(number)
    return "currentColor" if colour == COLOURS[-1] else "#{:02x}{:02x}{:02x}".format(*colour)


def bar(value: float, run: int) -> Markup:
    """A horizontal bar; `value` in [0, 1] is its share of the width."""
    filled = element("rect", width=round(100 * value, 2), height=8, fill=colour_of(run))
    return element("svg", filled, class_="bar", viewBox="0 0 100 8", preserveAspectRatio="none", aria_hidden="true")


def key(run: int) -> Markup:
    """A short piece of the run's line, for legends."""
    line = element("line", x1=0, y1=5, x2=28, y2=5, **_stroke(run))
    return element("svg", line, class_="key", viewBox="0 0 28 10", width=28, height=10, aria_hidden="true")


def curves(panel: Panel) -> Markup:
    """Curves over axes from 0 to 1, with a title, a grid and names of the axes."""
    width, height = _LEFT + _SIDE + 10, _TOP + _SIDE + _BOTTOM
    drawn = [*_axes(panel), *(_curve(line, number) for number, line in enumerate(panel.lines))]
    picture = element(
        "svg", *drawn, viewBox=f"0 0 {width} {height}", class_="curves", role="img",
        aria_label=f"{panel.title}: {panel.y_label} over {panel.x_label}",
    )  # fmt: skip
    return element("figure", element("figcaption", element("b", panel.title), f": {panel.y_label}"), picture)


def _axes(panel: Panel) -> list[Markup]:
    parts = []
    for tenth in range(0, 11, 2):
        x, y, text = _x(tenth / 10), _y(tenth / 10), f"{tenth / 10:g}"
        parts += [
            element("line", x1=x, y1=_y(0), x2=x, y2=_y(1), class_="grid"),
            element("line", x1=_x(0), y1=y, x2=_x(1), y2=y, class_="grid"),
            element("text", text, x=x, y=_y(0) + 14, text_anchor="middle"),
            element("text", text, x=_LEFT - 5, y=y + 4, text_anchor="end"),
        ]
    return [*parts, element("text", panel.x_label, x=_x(0.5), y=_y(0) + 31, text_anchor="middle")]


def _curve(line: Line, number: int) -> Markup:
    """The points that there are; a gap where one is missing."""
    points = zip(line.x, line.y, strict=True)
    pieces = [list(group) for there, group in groupby(points, lambda point: point[1] is not None) if there]
    drawn = []
    for piece in pieces:
        places = " ".join(f"{_x(x)},{_y(min(1.0, max(0.0, y or 0.0)))}" for x, y in piece)
        drawn.append(element("polyline", points=places, fill="none", **_stroke(number)))
    return element("g", element("title", line.name), *drawn)


def legend(panels: Sequence[Panel]) -> Markup:
    """The names of the lines that are drawn in any of the panels, each with a piece of it."""
    drawn = {
        k: line.name for panel in panels for k, line in enumerate(panel.lines) if any(y is not None for y in line.y)
    }
    return element("ul", *(element("li", key(k), " ", drawn[k]) for k in sorted(drawn)), class_="legend")


def _stroke(number: int) -> dict[str, object]:
    _, dash = stroke_of(number)
    dashes = f"{dash * _WIDTH:g}" if dash else None
    return {"stroke": colour_of(number), "stroke_width": _WIDTH, "stroke_dasharray": dashes}


def _x(share: float) -> float:
    return round(_LEFT + share * _SIDE, 1)


def _y(share: float) -> float:
    return round(_TOP + (1 - share) * _SIDE, 1)
