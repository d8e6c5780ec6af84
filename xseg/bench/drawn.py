"""Drawn pictures in files, for cases that read them."""

import tempfile
from functools import cache
from pathlib import Path

from xseg.datasets.synthetic import write_synthetic


@cache
def _directory(images: int, size: int) -> "tempfile.TemporaryDirectory[str]":
    directory = tempfile.TemporaryDirectory(prefix="xseg-bench-")
    write_synthetic(Path(directory.name) / "data", images=images, size=size)
    return directory


def drawn(images: int, size: int) -> Path:
    """A directory whose `data` is a data set of so many pictures of `size` pixels; removed when Python ends."""
    return Path(_directory(images, size).name)
