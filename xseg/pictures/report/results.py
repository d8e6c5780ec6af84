"""What was scored, for the page: a table with a column per run, bars per class, and curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xseg.artifacts.header import canonical
from xseg.errors import BadInput
from xseg.pictures.line_chart import Line, Panel
from xseg.pictures.report.chart import bar, curves, key, legend
from xseg.pictures.report.markup import Markup, element
from xseg.pictures.report.names import short_names
from xseg.scores.layouts import LAYOUTS
from xseg.scores.layouts.cells import Layout, number
from xseg.scores.perturbation_picture import panels_of

_PER_CLASS = {"per_class_iou": "IoU of each class", "per_class_ap": "average precision of each class"}
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError)
Row = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Scored:
    """Runs that were scored together.

    Attributes:
        origin: what says so: the name of a scores artifact.
        params: how they were scored; runs scored alike stand in one table.
        rows: (heading, object of one run).
    """

    origin: str
    params: Mapping[str, Any]
    rows: Sequence[Row]


def scored_of(name: str, params: Mapping[str, Any], result: Mapping[str, Any]) -> Scored:
    """The runs of a scores artifact, whose result is one object for one run, `{protocol, runs}` for several."""
    runs = result.get("runs", [result])
    try:
        return Scored(
            name, params, [(str(run.get("input", name)), {"protocol": result["protocol"], **run}) for run in runs]
        )
    except _MALFORMED as error:
        raise _malformed(name) from error


def side_by_side(scored: Sequence[Scored]) -> list[Scored]:
    """Scores of the same protocol and options together; but not those that name their differences to a run."""
    groups: dict[str, list[Scored]] = {}
    for place, one in enumerate(scored):  # a difference to the first run is one to the first of the same evaluation
        apart = place if any(run.get("differences") for _, run in one.rows) else -1
        groups.setdefault(canonical([apart, one.rows[0][1].get("protocol"), dict(one.params)]), []).append(one)
    return [
        Scored(
            ", ".join(dict.fromkeys(one.origin for one in group)),
            group[0].params,
            [row for one in group for row in one.rows],
        )
        for group in groups.values()
    ]


def section(scored: Scored) -> Markup:
    """Everything about runs that were scored together.

    Raises:
        BadInput: an object that is not the result of its protocol.
    """
    try:
        title, sections = LAYOUTS[scored.rows[0][1]["protocol"]]([run for _, run in scored.rows])
        classes = [_bars(scored.rows, name) for name in _PER_CLASS if any(run.get(name) for _, run in scored.rows)]
        drawn = _curves(scored.rows)
    except _MALFORMED as error:
        raise _malformed(scored.origin) from error
    named = {name for key in _PER_CLASS for _, run in scored.rows for name in run.get(key) or ()}
    kept = [rows for rows in sections if not {label for label, _ in rows} <= named]
    source = element("p", f"From {scored.origin}.", class_="note")
    table = element("div", _table(scored.rows, (title, kept)), source)
    return element("div", table, *classes, *drawn, class_="scored")


def _malformed(name: str) -> BadInput:
    return BadInput(
        f"{name}: its result is not that of a protocol of xseg", "make it with: xseg evaluate INPUTS -o PATH"
    )


def _heads(rows: Sequence[Row]) -> Markup:
    names = (element("th", key(k), " ", name, scope="col") for k, name in enumerate(_names(rows)))
    return element("thead", element("tr", element("td"), *names))


def _table(rows: Sequence[Row], layout: Layout) -> Markup:
    title, sections = layout
    bodies = [
        element("tbody", *(_line(label, cells) for label, cells in section if label or any(cells)))
        for section in sections
    ]
    return _scrolled(title, element("table", element("caption", title), _heads(rows), *bodies))


def _line(label: str, cells: Sequence[str]) -> Markup:
    style = "sub" if label.startswith(" ") else None
    head = element("th", label.strip(), scope="row", class_=style)
    return element("tr", head, *(element("td", cell, class_=style) for cell in cells))


def _bars(rows: Sequence[Row], name: str) -> Markup:
    """A row per class that has a number in any run, and a bar per run."""
    numbers = [run.get(name) or {} for _, run in rows]
    known = dict.fromkeys(found for own in numbers for found in own)
    classes = [found for found in known if any(own.get(found) is not None for own in numbers)]
    lines = []
    for found in classes:
        cells = [_bar(own.get(found), k) for k, own in enumerate(numbers)]
        lines.append(element("tr", element("th", found, scope="row"), *cells))
    absent = f", {len(known) - len(classes)} more have none" if len(classes) < len(known) else ""
    title = f"{_PER_CLASS[name]}{absent}"
    table = element("table", element("caption", title), _heads(rows), element("tbody", *lines), class_="bars")
    return _scrolled(title, table, tall=True)


def _bar(value: float | None, run: int) -> Markup:
    if value is None:
        return element("td", "-")
    return element("td", bar(min(1.0, max(0.0, float(value))), run), element("span", number(value)))


def _curves(rows: Sequence[Row]) -> list[Markup]:
    """Perturbation curves, and the mIoU at every background threshold."""
    protocol = rows[0][1]["protocol"]
    panels = (
        panels_of(list(zip(_names(rows), (run for _, run in rows), strict=True))) if protocol == "perturbation" else []
    )
    if protocol == "segmentation" and any(run.get("sweep") for _, run in rows):
        lines = [_sweep(name, run.get("sweep") or ()) for name, (_, run) in zip(_names(rows), rows, strict=True)]
        panels = [Panel("sweep", "background threshold", "mIoU", lines)]
    if not panels:
        return []
    return [element("div", element("div", *map(curves, panels), class_="panels"), legend(panels))]


def _names(rows: Sequence[Row]) -> list[str]:
    return short_names([name for name, _ in rows])


def _sweep(name: str, points: Sequence[Sequence[float]]) -> Line:
    return Line(name, [float(threshold) for threshold, _ in points], [score for _, score in points])


def _scrolled(title: str, table: Markup, tall: bool = False) -> Markup:
    """A table that scrolls by itself where it is wider than the page, also by keyboard."""
    return element(
        "div", table, class_="scroll tall" if tall else "scroll", role="region", aria_label=title, tabindex=0
    )
