"""How the artifacts of a report were made: a drawing of the steps, and under it every parameter in words."""

import json
import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from xseg.pictures.report.chain import Node
from xseg.pictures.report.markup import Markup, element

Place = tuple[float, float]
"""From the left and from the top, in pixels."""

_WIDE, _HIGH, _APART, _GAP = 168, 62, 44, 14
_LANE = 8  # height of the room that an arrow has beside the boxes of a column that it passes
_LETTERS = 23  # of a line in a box
_DIGITS = 12  # of a content that tell artifacts apart


def drawing(nodes: Sequence[Node]) -> Markup:
    """Boxes from left to right, an arrow from each artifact to what was made of it."""
    places, lanes, (width, height) = _layout(nodes)
    arrows = []
    for k, node in enumerate(nodes):
        for parent in node.parents:
            between = [lanes[parent, depth] for depth in range(nodes[parent].depth + 1, node.depth)]
            arrows.append(_arrow(places[parent], between, places[k]))
    boxes = [_box(node, *places[k]) for k, node in enumerate(nodes)]
    tip = element("path", d="M0,0 L7,3.5 L0,7 Z", class_="tip")
    marker = element("marker", tip, id="tip", markerWidth=7, markerHeight=7, refX=7, refY=3.5, orient="auto")
    return element(
        "svg", element("defs", marker), *arrows, *boxes, class_="chain", role="img",
        aria_label="Which artifact was made from which; the same in words below.",
        viewBox=f"0 0 {width:g} {height:g}", width=f"{width:g}", height=f"{height:g}",
    )  # fmt: skip


def _layout(nodes: Sequence[Node]) -> tuple[dict[int, Place], dict[tuple[int, int], Place], Place]:
    """Upper left corners of the boxes; of the lanes, by parent and column, in which arrows pass columns; the size."""
    last = [max((node.depth for node in nodes if k in node.parents), default=0) for k in range(len(nodes))]
    places: dict[int, Place] = {}
    lanes: dict[tuple[int, int], Place] = {}
    columns = max((node.depth for node in nodes), default=0) + 1
    tallest = 0.0
    for depth in range(columns):
        boxes = [(_mean_height(nodes[k], places), _HIGH, k) for k, node in enumerate(nodes) if node.depth == depth]
        passing = [(places[k][1], _LANE, k) for k in places if last[k] > depth]
        top = 1.0
        for _, high, k in sorted([*boxes, *passing], key=lambda entry: (entry[0], entry[2])):
            place = (1.0 + depth * (_WIDE + _APART), top)
            if high == _HIGH:
                places[k] = place
            else:
                lanes[k, depth] = place
            top += high + _GAP
        tallest = max(tallest, top - _GAP)
    return places, lanes, (columns * (_WIDE + _APART) - _APART + 2, tallest + 1)


def _mean_height(node: Node, places: dict[int, Place]) -> float:
    heights = [places[parent][1] for parent in node.parents if parent in places]
    return sum(heights) / len(heights) if heights else 0.0


def _arrow(start: Place, lanes: Sequence[Place], stop: Place) -> Markup:
    x, y = start[0] + _WIDE, start[1] + _HIGH / 2
    path = f"M{x:g},{y:g}"
    for end, high in [*((lane, _LANE) for lane in lanes), (stop, _HIGH)]:
        middle, to = (x + end[0]) / 2, end[1] + high / 2
        path += f" C{middle:g},{y:g} {middle:g},{to:g} {end[0]:g},{to:g}"
        x, y = end[0] + _WIDE, to
        path += f" H{x:g}" if high == _LANE else ""
    return element("path", d=path, class_="arrow", marker_end="url(#tip)")


def _box(node: Node, x: float, y: float) -> Markup:
    known = node.known
    lines = [
        element("text", node.kind, x=x + 10, y=y + 19, class_="kind"),
        element("text", _short(title_of(node)), x=x + 10, y=y + 36),
        element("text", _short(_made_by(node)), x=x + 10, y=y + 52, class_="made"),
    ]
    style = "box" if known else "box outside"
    rectangle = element("rect", x=x, y=y, width=_WIDE, height=_HIGH, rx=6, class_=style)
    return element("g", element("title", f"{node.kind} {title_of(node)}"), rectangle, *lines)


def title_of(node: Node) -> str:
    """The name of its file, or the beginning of its content."""
    return PurePath(node.known.name).name if node.known else node.identity.removeprefix("run:")[:_DIGITS]


def _made_by(node: Node) -> str:
    if node.known is None:
        return "not among the inputs"
    header = node.known.header
    what = header.params.get("method") or header.params.get("model") or header.params.get("protocol") or ""
    return f"{header.command} {what}".strip()


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"


def in_words(nodes: Sequence[Node]) -> Markup:
    """Every step that is among the inputs: what it was made from, by which command, with which parameters."""
    return element("div", *(_step(node, nodes) for node in nodes if node.known), class_="steps")


def _step(node: Node, nodes: Sequence[Node]) -> Markup:
    assert node.known is not None
    header = node.known.header
    made_from = [f"{nodes[parent].kind} {title_of(nodes[parent])}" for parent in node.parents]
    facts: list[tuple[str, object]] = [
        ("file", node.known.name),
        ("made from", ", ".join(made_from) or "nothing that is recorded"),
        ("command", shlex.join(header.argv)),
        ("made by", f"xseg {header.xseg_version}, {header.created}"),
        *([("images", header.work.total)] if header.work else []),
        *header.extra.items(),
        *_flat("", header.params),
        *_flat("", header.provenance),
        ("content", node.identity),
        ("run", header.run),
    ]
    rows = [element("div", element("dt", name), element("dd", _text(value))) for name, value in facts]
    summary = element("summary", element("b", node.kind), " ", title_of(node), " ", element("span", _made_by(node)))
    return element("details", summary, element("dl", *rows))


def _flat(prefix: str, values: Any) -> list[tuple[str, object]]:  # noqa: ANN401 - JSON
    rows: list[tuple[str, object]] = []
    for name, value in values.items():
        if value is None:  # an option that plays no part
            continue
        rows += _flat(f"{prefix}{name} ", value) if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return rows


def _text(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):  # a history, which the artifact keeps
        return f"{len(value)} entries, the last: {_text(value[-1])}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
