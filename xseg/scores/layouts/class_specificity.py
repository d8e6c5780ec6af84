"""The table of `evaluate --protocol class-specificity`."""

from collections.abc import Sequence

from xseg.scores.layouts.cells import Layout, Rows, Run, images_row, labels_given_row, number, span, split_row


def class_specificity(runs: Sequence[Run]) -> Layout:
    """Correlations, shares of energy, and what the numbers leave out."""
    counts = [
        split_row(runs),
        images_row(runs),
        ("  with fewer than two classes", [str(run["images_with_fewer_classes"]) for run in runs]),
        labels_given_row(runs),
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
