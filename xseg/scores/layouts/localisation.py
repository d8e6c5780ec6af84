"""The table of `evaluate --protocol localisation`."""

from collections.abc import Sequence

from xseg.scores.layouts.cells import Layout, Rows, Run, images_row, labels_given_row, number, span, split_row


def localisation(runs: Sequence[Run]) -> Layout:
    """Counts; then what was compared with the reference, and with the true masks."""
    sections = [[split_row(runs), images_row(runs), labels_given_row(runs)]]
    if runs[0]["against_reference"]:
        sections.append(_reference([run["against_reference"] for run in runs]))
    if runs[0]["against_truth"]:
        sections.append(_truth([run["against_truth"] for run in runs]))
    return "localisation: share of a map's positive values inside the object, means over images", sections


def _reference(parts: Sequence[Run]) -> Rows:
    rows = [("against the reference", [str(part["reference"]) for part in parts])]
    rows += _counts(parts, ("of classes without reference", "maps_without_reference"))
    rows.append(("  with empty reference", [str(part["empty_references"]) for part in parts]))
    rows += _measure(parts, f"score at {parts[0]['threshold']:g}", "score")
    for at, point in enumerate(parts[0]["sweep"]):
        found = [part["sweep"][at] for part in parts]
        cells = [f"{number(one['score'])} ({number(one['uniform_map']['score'])})" for one in found]
        rows.append((f"  at {point['threshold']:g} (a uniform map)", cells))
    return rows


def _truth(parts: Sequence[Run]) -> Rows:
    rows: Rows = [("against the true mask", [""] * len(parts))]
    rows += _counts(parts, ("of classes not in the mask", "maps_of_absent_classes"))
    rows += _measure(parts, "energy inside", "energy")
    tolerance = parts[0]["tolerance"]
    rows += _measure(parts, f"maximum inside{f' or within {tolerance} px' if tolerance else ''}", "pointing")
    return rows


def _counts(parts: Sequence[Run], without: tuple[str, str]) -> Rows:
    wanted = (
        ("maps scored", "maps"),
        ("images with one", "images"),
        ("without positive values", "empty_maps"),
        without,
    )
    return [(f"  {label}", [str(part[key]) for part in parts]) for label, key in wanted]


def _measure(parts: Sequence[Run], label: str, key: str) -> Rows:
    return [
        (label, [number(part[key]) for part in parts]),
        ("  95 % interval", [span(part[f"{key}_interval"]) for part in parts]),
        ("  a uniform map", [number(part["uniform_map"][key]) for part in parts]),
    ]
