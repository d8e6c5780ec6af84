"""The picture of `evaluate --protocol perturbation --curve`: a panel for each curve, a line for each run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xseg.artifacts.publish import check_writable
from xseg.errors import CannotCreate, UsageError
from xseg.runs.runtime import Runtime
from xseg.scores.runs import Row

if TYPE_CHECKING:
    from xseg.pictures.line_chart import Panel

_AXIS = {"hits": "share of right decisions", "probability": "probability of the class"}


def check_picture(path: Path | None, run: str, inputs: Sequence[str], runtime: Runtime) -> None:
    """Find out before the work begins that the picture cannot be written.

    Raises:
        UsageError: its name is not that of a PNG, or an input or the output has it.
        CannotCreate: it is there, not of this run, and may not be replaced, or its directory cannot be written.
    """
    from xseg.pictures.line_chart import run_of

    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise UsageError(f"--curve {path}: needed a name that ends in .png", "for example --curve curves.png")
    others = [*inputs, *([] if runtime.target.path is None else [str(runtime.target.path)])]
    if path.resolve() in {Path(name).resolve() for name in others if name != "-"}:
        raise UsageError(f"--curve {path} is an input or the output of this command", "give another --curve")
    check_writable(path)
    if path.exists() and not runtime.overwrite and run_of(path) != run:
        raise CannotCreate(
            f"{path} exists and is not a picture of this run", "choose another --curve, or use --overwrite"
        )


def draw(rows: Sequence[Row], path: Path, run: str) -> None:
    """Write the curves as a PNG that names its run: a panel for each curve and choice of maps.

    Raises:
        CannotCreate, OutputFailed: see `xseg.exchange.png.write_whole`.
    """
    from xseg.exchange.png import write_whole
    from xseg.pictures.line_chart import line_charts, png

    write_whole(path, png(line_charts(panels_of(rows)), run))


def panels_of(rows: Sequence[Row]) -> "list[Panel]":
    """The curves of runs of one evaluation: a panel for each curve and choice of maps, a line for each run."""
    from xseg.pictures.line_chart import Line, Panel

    panels = []
    choices = dict.fromkeys(one["maps_of"] for _, one in rows)
    runs = {(heading.removesuffix(f" ({one['maps_of']})"), one["maps_of"]): one for heading, one in rows}
    names = dict.fromkeys(name for name, _ in runs)  # a line for each in every panel, so that colours mean the same
    for curve, shares in rows[0][1]["steps"].items():
        measure = rows[0][1]["scores"][curve]
        changed = "inserted" if curve == "insertion" else "removed"
        nothing: dict[str, Any] = {"curves": {curve: [None] * len(shares)}}
        for choice in choices:
            lines = [Line(name, shares, runs.get((name, choice), nothing)["curves"][curve]) for name in names]
            title = f"{curve}, maps of {choice}" if choice else curve
            panels.append(Panel(title, f"share of pixels {changed}", _AXIS[measure], lines))
    return panels
