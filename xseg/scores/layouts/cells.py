"""Cells and rows that the tables of all protocols have."""

from collections.abc import Mapping, Sequence
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


def split_row(runs: Sequence[Run]) -> tuple[str, list[str]]:
    """Name of the split."""
    return "split", [str(run["split"] or "all") for run in runs]


def images_row(runs: Sequence[Run]) -> tuple[str, list[str]]:
    """How many images were scored, and how many are missing."""
    return "images (missing)", [f"{run['images']} ({run['missing']})" for run in runs]


def labels_given_row(runs: Sequence[Run]) -> tuple[str, list[str]]:
    """Whether predictions were limited to the classes truly in each image."""
    return "labels given", [{True: "yes", False: "no", None: "-"}[run["labels_given"]] for run in runs]


def frame_row(runs: Sequence[Run]) -> tuple[str, list[str]]:
    """Height and width that was scored at."""
    frames = (run["frame"] for run in runs)
    return "frame", ["the image's own" if frame == "image" else "x".join(map(str, frame)) for frame in frames]


def measured(runs: Sequence[Run], label: str, key: str) -> Rows:
    """A number and, below it, its interval."""
    return [
        (label, [number(run[key]) for run in runs]),
        ("  95 % interval", [span(run[f"{key}_interval"]) for run in runs]),
    ]
