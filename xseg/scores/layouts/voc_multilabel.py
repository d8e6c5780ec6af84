"""The table of `evaluate --protocol voc-multilabel`."""

from collections.abc import Sequence

from xseg.scores.layouts.cells import (
    Layout,
    Rows,
    Run,
    frame_row,
    images_row,
    labels_given_row,
    measured,
    number,
    split_row,
)


def voc_multilabel(runs: Sequence[Run]) -> Layout:
    """Pixel accuracy and mean average precision, and the same of predicting nothing."""
    head = [
        split_row(runs),
        images_row(runs),
        ("  without a predicted class", [str(run["images_without_prediction"]) for run in runs]),
        labels_given_row(runs),
        ("maps", [str(run["maps"]) for run in runs]),
        ("  without a positive value", [str(run["maps_without_positive_value"]) for run in runs]),
        ("mean subtracted", ["yes" if run["mean_subtracted"] else "no" for run in runs]),
        frame_row(runs),
    ]
    measures: Rows = []
    for label, key in (("pixel accuracy", "pixel_accuracy"), ("mAP, mean over images", "ap")):
        measures += measured(runs, label, key)
        measures.append(("  all background", [number(run["all_background"][key]) for run in runs]))
    return "voc-multilabel: maps of the predicted classes as one segmentation", [head, measures]
