"""The table of `evaluate --protocol segmentation`."""

from collections.abc import Sequence

from xseg.scores.layouts.cells import Layout, Run, images_row, labels_given_row, number, span, split_row


def segmentation(runs: Sequence[Run]) -> Layout:
    """The mIoU with its interval, threshold, error rates; then the IoU of every class."""
    rows = [
        split_row(runs),
        images_row(runs),
        labels_given_row(runs),
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


def _threshold(run: Run) -> str:
    if run["background_threshold"] is None:
        return "argmax"
    source = f"tuned on {run['tuned_on']}" if run["tuned_on"] else "fixed"
    if run.get("foreground_share"):
        source = f"of a share of {run['foreground_share']:g}"
    return f"{run['background_threshold']:g} {source}"


def _both(run: Run, first: str, second: str) -> str:
    return f"{number(run[first])}, {number(run[second])}"
