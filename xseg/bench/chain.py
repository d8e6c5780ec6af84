"""A case about the chain: two commands in a pipe, against the same commands in turn with a file between them.

Each command has one thread, so a pipe needs a second core; what is compared is wall time, which other work on the
machine disturbs. Both ways pay for the start of two processes.
"""

import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from xseg.artifacts.decode import Part
from xseg.bench.drawn import drawn
from xseg.bench.measure import Case

_SIZE = 224
_EXPLAIN = ("explain", "cls.h5", "data", "--split", "train", "--scales", "1,2", "--flip", "--workers", "1")
_CRF = ("crf", "--masks", "--workers", "1")


def chain_case(images: int) -> Case:
    """`explain | crf` over `images` synthetic pictures."""
    return Case(
        f"explain | crf, {images} images in a pipe on two cores, against one after the other, wall clock",
        lambda: _masks(images, pipe=False),
        lambda: _masks(images, pipe=True),
        0,
        clock=time.perf_counter,
        most_pairs=3,
    )


@cache
def _workplace() -> Path:
    """A directory with a data set and a classifier with random weights."""
    at = drawn(64, _SIZE)
    model = ("--model", "torchvision:resnet18", "--weights", "none", "--init-only")
    _finish(_start(at, "train-cls", "data", *model, "-o", "cls.h5"))
    return at


def _masks(images: int, pipe: bool) -> Tensor:
    """The pixels of every mask, end to end."""
    at, limit = _workplace(), ("--limit", str(images))
    for left in ("cam.h5", "masks.h5"):  # a finished output of the same run would not be made again
        (at / left).unlink(missing_ok=True)
    if pipe:
        first = _start(at, *_EXPLAIN, *limit, stdout=subprocess.PIPE)
        second = _start(at, *_CRF, "-", "-o", "masks.h5", stdin=first.stdout)
        if first.stdout is not None:
            first.stdout.close()  # the reader's alone now, so that its end reaches the writer
        _finish(first)
        _finish(second)
    else:
        _finish(_start(at, *_EXPLAIN, *limit, "-o", "cam.h5"))
        _finish(_start(at, *_CRF, "cam.h5", "-o", "masks.h5"))
    with Part(at / "masks.h5", "masks.h5") as part:
        return torch.cat([torch.from_numpy(record.arrays["masks"]).flatten() for record in part.records()])


def _start(
    at: Path, *words: str, stdin: IO[bytes] | None = None, stdout: int = subprocess.DEVNULL
) -> "subprocess.Popen[bytes]":
    """One command on one thread in the directory `at`."""
    alone = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        (sys.executable, "-m", "xseg", *words, "-q"),
        cwd=at,
        env=alone,
        stdin=stdin,
        stdout=stdout,
    )


def _finish(process: "subprocess.Popen[bytes]") -> None:
    if process.wait() != 0:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
