"""What artifacts hold, read for comparisons."""

from pathlib import Path

import numpy as np

from xseg.artifacts.decode import Part
from xseg.artifacts.record import Failure, Record


def content(path: Path) -> str:
    """The attribute `content`, after checking it against the data."""
    with Part(path, str(path)) as part:
        assert part.content() == part.stored_content()
        return part.stored_content()


def records(path: Path) -> list[Record]:
    with Part(path, str(path)) as part:
        return list(part.records())


def failures(path: Path) -> list[Failure]:
    with Part(path, str(path)) as part:
        return list(part.failures)


def weights(path: Path) -> dict[str, np.ndarray]:
    with Part(path, str(path)) as part:
        return {name: np.array(array) for name, array in part.weights().items()}


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
