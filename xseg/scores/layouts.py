"""Which rows the table of each protocol has."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Run = Mapping[str, Any]
Rows = list[tuple[str, list[str]]]
Layout = tuple[str, list[Rows]]
"""A title, and sections of rows: a label and one cell per run."""


def number(value: float | None) -> str:
    """A fraction with three decimals; "-" for None."""
    return "-" if value is None else f"{value:.3f}"


def span(pair: Sequence[float] | None) -> str:
    """An interval with three decimals; "-" for None."""
    return "-" if pair is None else f"{pair[0]:.3f} .. {pair[1]:.3f}"


def segmentation(runs: Sequence[Run]) -> Layout:
    """The mIoU with its interval, threshold, error rates; then the IoU of every class."""
    rows = [
        _first(runs),
        ("images (missing)", [f"{run['images']} ({run['missing']})" for run in runs]),
        ("labels given", _labels_given(runs)),
        ("mIoU", [number(run["miou"]) for run in runs]),
        ("  95 % interval", [span(run["miou_interval"]) for run in runs]),
        ("  background threshold", [_threshold(run) for run in runs]),
        ("pixel accuracy", [number(run["pixel_accuracy"]) for run in runs]),
        ("false positive, negative", [_both(run, "false_positive", "false_negative") for run in runs]),
    ]
    if any(run["unknown"] for run in runs):
        rows.append(("unknown, counted as missed", [number(run["unknown"]) for run in runs]))
    if any(run["best"] for run in runs):
        best = [run["best"] or {} for run in runs]
        rows.append(("best mIoU, swept on the truth", [number(entry.get("miou")) for entry in best]))
        rows.append(("  at threshold", [number(entry.get("background_threshold")) for entry in best]))
    names = dict.fromkeys(name for run in runs for name in run["per_class_iou"])
    classes = [(name, [number(run["per_class_iou"].get(name)) for run in runs]) for name in names]
    return "segmentation: mIoU over the set, as fractions", [rows, classes]


def class_specificity(runs: Sequence[Run]) -> Layout:
    """Correlations, shares of energy, and what the numbers leave out."""
    counts = [
        _first(runs),
        ("images (missing)", [f"{run['images']} ({run['missing']})" for run in runs]),
        ("  with fewer than two classes", [str(run["images_with_fewer_classes"]) for run in runs]),
        ("labels given", _labels_given(runs)),
        ("pairs of classes", [str(run["pairs"]) for run in runs]),
        ("  correlation undefined", [str(run["undefined_correlations"]) for run in runs]),
        ("maps without energy", [str(run["empty_maps"]) for run in runs]),
    ]
    wanted = (
        ("correlation of two classes' maps", "pearson"),
        ("rank correlation", "spearman"),
        ("energy in the own mask", "own_share"),
        ("energy in the other's mask", "other_share"),
        ("own - other", "share_difference"),
        ("own / (own + other)", "own_fraction"),
        ("pairs with own > other", "own_above_other"),
    )
    measures: Rows = []
    for label, key in wanted:
        measures.append((label, [number(run[key]) for run in runs]))
        measures.append(("  95 % interval", [span(run[f"{key}_interval"]) for run in runs]))
        if key in runs[0]["uniform_map"]:
            measures.append(("  a uniform map", [number(run["uniform_map"][key]) for run in runs]))
    return "class specificity: means over images with two classes or more", [counts, measures]


def sanity(runs: Sequence[Run]) -> Layout:
    """One section per measure, one row per stage."""
    head = [
        _first(runs),
        ("images (missing)", [f"{run['images']} ({run['missing']})" for run in runs]),
        ("maps", [str(run["maps"]) for run in runs]),
        ("method", [run["method"] + ("" if run["needs_model"] else " (no model)") for run in runs]),
        ("randomised", [str(run["randomised"]) for run in runs]),
    ]
    sections = [head]
    stages = dict.fromkeys(stage["stage"] for run in runs for stage in run["stages"])
    for label, key in (
        ("rank correlation", "spearman"),
        ("rank correlation, absolute", "spearman_absolute"),
        ("SSIM", "ssim"),
        ("HOG correlation", "hog"),
    ):
        rows = [(label, [""] * len(runs))]
        for name in stages:
            found = [next((stage for stage in run["stages"] if stage["stage"] == name), None) for run in runs]
            rows.append((f"  {name}", [_compared(stage, key) for stage in found]))
        sections.append(rows)
    return "sanity: likeness to the maps of the unchanged classifier, 1 for equal ones", sections


LAYOUTS: dict[str, Callable[[Sequence[Run]], Layout]] = {
    "segmentation": segmentation,
    "class-specificity": class_specificity,
    "sanity": sanity,
}


def _compared(stage: Run | None, key: str) -> str:
    if stage is None or stage[key] is None:
        return "-"
    low, high = stage[f"{key}_interval"]
    undefined = stage["undefined"][key]
    return f"{number(stage[key])} ({low:.2f}..{high:.2f})" + (f", {undefined} without" if undefined else "")


def _first(runs: Sequence[Run]) -> tuple[str, list[str]]:
    return "split", [str(run["split"] or "all") for run in runs]


def _labels_given(runs: Sequence[Run]) -> list[str]:
    return [{True: "yes", False: "no", None: "-"}[run["labels_given"]] for run in runs]


def _threshold(run: Run) -> str:
    if run["background_threshold"] is None:
        return "argmax"
    source = f"tuned on {run['tuned_on']}" if run["tuned_on"] else "fixed"
    return f"{run['background_threshold']:g} {source}"


def _both(run: Run, first: str, second: str) -> str:
    return f"{number(run[first])}, {number(run[second])}"
