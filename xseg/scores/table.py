"""Scores for people and for programs: a table of runs side by side, and the JSON objects it is made of."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xseg.scores.result import SegmentationResult

Run = Mapping[str, Any]


def segmentation_run(
    result: SegmentationResult, *, split: str | None, labels_given: bool | None, tuned_on: str | None = None
) -> dict[str, Any]:
    """One run as a JSON-able object; what was not scored is None, never NaN.

    Args:
        result: the scores.
        split: name of the split scored; None for all images.
        labels_given: whether the predictions were limited to the classes truly in each image; None if unknown.
        tuned_on: the split whose masks chose `background_threshold`; None if it was fixed beforehand.
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


def report(runs: Sequence[tuple[str, Run]]) -> dict[str, Any]:
    """The one JSON object of `evaluate`: the run itself, or `{protocol, runs: [{input, ...}]}` for several.

    Args:
        runs: (input, object of `segmentation_run`) in the order given.

    Raises:
        ValueError: no run, or runs of different protocols.
    """
    protocols = {run["protocol"] for _, run in runs}
    if len(protocols) != 1:
        raise ValueError(f"runs of the protocols {sorted(protocols)}, needed one")
    if len(runs) == 1:
        return {**runs[0][1], "input": runs[0][0]}
    return {"protocol": protocols.pop(), "runs": [{"input": name, **run} for name, run in runs]}


def print_table(runs: Sequence[tuple[str, Run]], console: Console) -> None:
    """Print segmentation runs side by side, one column each: mIoU with its interval, threshold, classes.

    Args:
        runs: (heading, object of `segmentation_run`).
        console: where to; the caller's, on stderr.
    """
    table = Table(title="segmentation: mIoU over the set, as fractions", title_justify="left")
    table.add_column("")
    for name, _ in runs:
        # Text, not str: a name with [brackets] is no markup
        table.add_column(Text(name, overflow="fold"), justify="right")
    for row, values in _summary(runs):
        table.add_row(Text(row, style="bold" if row == "mIoU" else ""), *values)
    table.add_section()
    for name in _class_names(runs):
        table.add_row(Text(name), *(number(run["per_class_iou"].get(name)) for _, run in runs))
    console.print(table)


def number(value: float | None) -> str:
    """A fraction with three decimals; "-" for None."""
    return "-" if value is None else f"{value:.3f}"


def _summary(runs: Sequence[tuple[str, Run]]) -> list[tuple[str, list[str]]]:
    objects = [run for _, run in runs]
    rows = [
        ("split", [str(run["split"] or "all") for run in objects]),
        ("images (missing)", [f"{run['images']} ({run['missing']})" for run in objects]),
        ("labels given", [{True: "yes", False: "no", None: "-"}[run["labels_given"]] for run in objects]),
        ("mIoU", [number(run["miou"]) for run in objects]),
        ("  95 % interval", [_span(run["miou_interval"]) for run in objects]),
        ("  background threshold", [_threshold(run) for run in objects]),
        ("pixel accuracy", [number(run["pixel_accuracy"]) for run in objects]),
        ("false positive, negative", [_both(run["false_positive"], run["false_negative"]) for run in objects]),
    ]
    if any(run["unknown"] for run in objects):
        rows.append(("unknown, counted as missed", [number(run["unknown"]) for run in objects]))
    if any(run["best"] for run in objects):
        best = [run["best"] or {} for run in objects]
        rows.append(("best mIoU, swept on the truth", [number(entry.get("miou")) for entry in best]))
        rows.append(("  at threshold", [number(entry.get("background_threshold")) for entry in best]))
    return rows


def _threshold(run: Run) -> str:
    if run["background_threshold"] is None:
        return "argmax"
    source = f"tuned on {run['tuned_on']}" if run["tuned_on"] else "fixed"
    return f"{run['background_threshold']:g} {source}"


def _class_names(runs: Sequence[tuple[str, Run]]) -> list[str]:
    return list(dict.fromkeys(name for _, run in runs for name in run["per_class_iou"]))


def _both(first: float | None, second: float | None) -> str:
    return f"{number(first)}, {number(second)}"


def _span(pair: Sequence[float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.3f} .. {pair[1]:.3f}"


def _pair(pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None else list(pair)
