"""The table of `evaluate --protocol perturbation`."""

from collections.abc import Sequence

from xseg.scores.layouts.cells import Layout, Rows, Run, images_row, number, span, split_row


def perturbation(runs: Sequence[Run]) -> Layout:
    """What was measured; then for each curve its area, interval, difference to the first run, and its points."""
    first = runs[0]
    head = [
        split_row(runs),
        images_row(runs),
        ("  without map", [str(run["images_without_map"]) for run in runs]),
        ("maps", [str(run["maps"]) for run in runs]),
        ("method", [str(run["method"] or "-") for run in runs]),
        ("targets", [_targets(run) for run in runs]),
        *([("maps of", [str(run["maps_of"]) for run in runs])] if first.get("maps_of") else []),
        ("pixels that tie at a cut", [number(run["tie_fraction"]) for run in runs]),
    ]
    sections = [head, *(_curve(runs, name) for name in first["curves"])]
    if "road_difference" in first:
        sections.append(_measure(runs, "ROAD (LeRF - MoRF) / 2", "road_difference"))
    height, width = first["frame"]
    title = f"perturbation: {width}x{height} pixels, filled with {first['fill']}, against {first['score_against']}"
    return f"{title} ({first['activation']})", sections


def _targets(run: Run) -> str:
    return str(run["targets"] or ("labels" if run["labels_given"] else "predicted" if run["method"] else "-"))


def _curve(runs: Sequence[Run], name: str) -> Rows:
    better = "higher" if name in _HIGHER else "lower"
    rows = _measure(runs, f"{name} area ({better} is better)", f"auc_{name}")
    if runs[0]["steps"][name][-1] != 1:
        rows.append(("  normalised", [number(run[f"auc_normalised_{name}"]) for run in runs]))
        rows.append(("  of the probability", [number(run[f"probability_auc_{name}"]) for run in runs]))
    shares = runs[0]["steps"][name]
    shown = range(len(shares)) if len(shares) <= 11 else []
    return [*rows, *((f"  at {shares[k]:g}", [number(run["curves"][name][k]) for run in runs]) for k in shown)]


_HIGHER = ("negative", "insertion", "road-lerf")


def _measure(runs: Sequence[Run], label: str, key: str) -> Rows:
    rows = [
        (label, [number(run[key]) for run in runs]),
        ("  95 % interval", [span(run[f"{key}_interval"]) for run in runs]),
    ]
    if len(runs) > 1:
        apart = [run["differences"][0] if run["differences"] else None for run in runs]
        rows.append(("  minus the first", [number(one[key]) if one else "-" for one in apart]))
        rows.append(("  95 % interval", [span(one[f"{key}_interval"]) if one else "-" for one in apart]))
    return rows
