"""The table of `evaluate --protocol sanity`."""

from collections.abc import Sequence

from xseg.scores.layouts.cells import Layout, Run, images_row, number, split_row


def sanity(runs: Sequence[Run]) -> Layout:
    """One section per measure, one row per stage."""
    head = [
        split_row(runs),
        images_row(runs),
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


def _compared(stage: Run | None, key: str) -> str:
    if stage is None or stage[key] is None:
        return "-"
    low, high = stage[f"{key}_interval"]
    undefined = stage["undefined"][key]
    return f"{number(stage[key])} ({low:.2f}..{high:.2f})" + (f", {undefined} without" if undefined else "")
