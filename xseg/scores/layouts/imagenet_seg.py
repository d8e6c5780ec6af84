"""The table of `evaluate --protocol imagenet-seg`."""

from collections.abc import Sequence

from xseg.scores.layouts.cells import Layout, Rows, Run, frame_row, images_row, labels_given_row, measured, split_row

_RULES = {"positive": "above 0", "above-mean": "above the mean"}


def imagenet_seg(runs: Sequence[Run]) -> Layout:
    """Accuracy, both average precisions, mIoU and F1; then what the numbers leave out."""
    head = [
        split_row(runs),
        images_row(runs),
        ("  left out, not of one class", [str(run["images_left_out"]) for run in runs]),
        labels_given_row(runs),
        ("foreground", [f"{_RULES[run['foreground']]} ({run['preset']})" for run in runs]),
        frame_row(runs),
    ]
    wanted = (
        ("pixel accuracy", "pixel_accuracy"),
        ("mAP of the hard mask (AGF)", "ap_hard"),
        ("mAP of the soft map (Chefer)", "ap_soft"),
        ("mIoU", "miou"),
        ("F1 of the foreground", "f1"),
    )
    measures: Rows = [row for label, key in wanted for row in measured(runs, label, key)]
    counts = [
        (label, [str(run[key]) for run in runs])
        for label, key in (
            ("maps that are the same everywhere", "constant_maps"),
            ("maps that are not finite", "maps_not_finite"),
            ("images without a map", "images_without_map"),
            ("maps of another class", "maps_of_another_class"),
        )
        if any(run[key] for run in runs)
    ]
    return "imagenet-seg: foreground and background", [head, measures, *([counts] if counts else [])]
