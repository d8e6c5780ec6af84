"""The table of `evaluate --protocol classification`."""

from collections.abc import Sequence

from xseg.scores.layouts.cells import Layout, Rows, Run, images_row, number, span, split_row

MOST_CLASSES = 100  # of more, the table would be all there is to see; the JSON has them


def classification(runs: Sequence[Run]) -> Layout:
    """Ranking, decisions, calibration; then the average precision of every class."""
    head = [
        split_row(runs),
        images_row(runs),
        ("activation", [run["activation"] for run in runs]),
        ("image size", [_size(run["size"]) for run in runs]),
    ]
    head += _measure(runs, "mAP", "map")
    sections = [head]
    if any(run["accuracy"] for run in runs):
        parts = [run["accuracy"] or {} for run in runs]
        rows = [("images with one class", [str(part.get("images", "-")) for part in parts])]
        sections.append([*rows, *_measure(parts, "top-1 accuracy", "top1"), *_measure(parts, "top-5 accuracy", "top5")])
    if any(run["decisions"] for run in runs):
        sections.append(_decisions([run["decisions"] or {} for run in runs]))
    if any(run["calibration"] for run in runs):
        sections.append(_calibration([run["calibration"] or {} for run in runs]))
    names = dict.fromkeys(name for run in runs for name in run["per_class_ap"])
    if len(names) <= MOST_CLASSES:
        sections.append([(name, [number(run["per_class_ap"].get(name)) for run in runs]) for name in names])
        return "classification: average precision of every class below, as fractions", sections
    return "classification, as fractions; --json has the average precision of every class", sections


def _size(size: int | Sequence[int] | None) -> str:
    if size is None:
        return "as it is"
    return f"long side {size}" if isinstance(size, int) else "x".join(map(str, size))


def _decisions(parts: Sequence[Run]) -> Rows:
    rows: Rows = [("classes above the probability", [f"{part['threshold']:g}" if part else "-" for part in parts])]
    for name in ("f1", "precision", "recall"):
        for kind in ("macro", "micro"):
            label = f"{'F1' if name == 'f1' else name}, {kind}"
            rows.append((label, [number(part.get(f"{kind}_{name}")) for part in parts]))
    return rows


def _calibration(parts: Sequence[Run]) -> Rows:
    rows: Rows = [("calibration over", [str(part.get("over", "-")) for part in parts])]
    for label, key in (
        ("calibration error, 15 even bins", "ece"),
        ("calibration error, 15 equal masses", "adaptive_ece"),
        ("Brier score", "brier"),
        ("negative log-likelihood", "nll"),
    ):
        rows += _measure(parts, label, key, digits=4)
    return rows


def _measure(parts: Sequence[Run], label: str, key: str, digits: int = 3) -> Rows:
    values = [part.get(key) for part in parts]
    spans = [part.get(f"{key}_interval") for part in parts]
    if digits == 3:
        return [(label, [number(value) for value in values]), ("  95 % interval", [span(pair) for pair in spans])]
    cells = ["-" if value is None else f"{value:.{digits}f}" for value in values]
    wide = ["-" if pair is None else f"{pair[0]:.{digits}f} .. {pair[1]:.{digits}f}" for pair in spans]
    return [(label, cells), ("  95 % interval", wide)]
