"""Scores for people and for programs: a table of runs side by side, and the JSON objects it is made of."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xseg.scores.layouts import LAYOUTS
from xseg.scores.layouts.cells import Run
from xseg.scores.result import SegmentationResult


def segmentation_run(
    result: SegmentationResult,
    *,
    split: str | None,
    labels_given: bool | None,
    tuned_on: str | None = None,
    foreground_share: float | None = None,
) -> dict[str, Any]:
    """One run as a JSON-able object; what was not scored is None, never NaN.

    Args:
        result: the scores.
        split: name of the split scored; None for all images.
        labels_given: whether the predictions were limited to the classes truly in each image; None if unknown.
        tuned_on: the split whose masks chose `background_threshold`; None if it was fixed beforehand.
        foreground_share: the prior share that chose it; None if none did.
    """
    best = result.best
    return {
        "protocol": "segmentation",
        "split": split,
        "images": result.images,
        "missing": result.missing,
        "labels_given": labels_given,
        "classes": list(result.classes),
        "miou": result.miou,
        "miou_interval": _pair(result.interval),
        "per_class_iou": dict(result.per_class_iou),
        "background_threshold": result.background_threshold,
        "tuned_on": tuned_on,
        "foreground_share": foreground_share,
        "best": None
        if best is None
        else {
            "background_threshold": best.background_threshold,
            "miou": best.miou,
            "miou_interval": _pair(best.interval),
        },
        "pixel_accuracy": result.pixel_accuracy,
        "unknown": result.unknown,
        "false_positive": result.mean_false_positive,
        "false_negative": result.mean_false_negative,
        "per_class_false_positive": dict(result.false_positive),
        "per_class_false_negative": dict(result.false_negative),
        "sweep": [list(point) for point in result.sweep],
        "average": result.average,
        "bootstrap": {"replicates": result.replicates, "seed": result.seed, "level": 0.95, "over": "images"},
    }


def report(runs: Sequence[tuple[str, Run]], several: bool | None = None) -> dict[str, Any]:
    """The one JSON object of `evaluate`: the run itself, or `{protocol, runs: [{input, ...}]}` for several.

    Args:
        runs: (input, object of one run, such as `segmentation_run` makes) in the order given.
        several: whether several were asked for; None: as many as there are.

    Raises:
        ValueError: no run, or runs of different protocols.
    """
    protocols = {run["protocol"] for _, run in runs}
    if len(protocols) != 1:
        raise ValueError(f"runs of the protocols {sorted(protocols)}, needed one")
    if not (len(runs) > 1 if several is None else several):
        return {**runs[0][1], "input": runs[0][0]}
    return {"protocol": protocols.pop(), "runs": [{"input": name, **run} for name, run in runs]}


def print_table(runs: Sequence[tuple[str, Run]], console: Console) -> None:
    """Print runs of one protocol side by side, one column each.

    Args:
        runs: (heading, object of one run).
        console: where to; the caller's, on stderr.
    """
    objects = [run for _, run in runs]
    title, sections = LAYOUTS[objects[0]["protocol"]](objects)
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name, _ in runs:
        # Text, not str: a name with [brackets] is no markup
        table.add_column(Text(name, overflow="fold"), justify="right")
    for rows in sections:
        for label, cells in rows:
            table.add_row(Text(label, style="bold" if label == "mIoU" else ""), *map(Text, cells))
        table.add_section()
    console.print(table)


def _pair(pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None else list(pair)
