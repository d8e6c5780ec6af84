"""A case about the chain: commands in a pipe, against the same commands in turn with files between them.

Each command has one thread, so a pipe needs a second core; what is compared is wall time, which other work on the
machine disturbs. Both ways pay for the start of three processes.
"""

import json
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from xseg.bench.drawn import drawn
from xseg.bench.measure import Case

_SIZE, _SPLIT = 224, ("--split", "train")
_EXPLAIN = ("explain", "cls.h5", "data", *_SPLIT, "--workers", "1")
_CRF = ("crf", "--masks", "--workers", "1")
_EVALUATE = ("evaluate", "--dataset", "data", *_SPLIT, "--workers", "1", "--json")


def chain_case(images: int) -> Case:
    """`explain | crf | evaluate` over `images` synthetic pictures."""
    return Case(
        f"explain | crf | evaluate, {images} images in a pipe on two cores, against one after the other, wall clock",
        lambda: _scores(images, pipe=False),
        lambda: _scores(images, pipe=True),
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


def _scores(images: int, pipe: bool) -> Tensor:
    """Intersection over union of every class; -1 where a class is nowhere."""
    at, limit = _workplace(), ("--limit", str(images))
    for left in ("cam.h5", "masks.h5"):  # a finished output of the same run would not be made again
        (at / left).unlink(missing_ok=True)
    if pipe:
        first = _start(at, *_EXPLAIN, *limit, stdout=subprocess.PIPE)
        second = _start(at, *_CRF, "-", stdin=first.stdout, stdout=subprocess.PIPE)
        third = _start(at, *_EVALUATE, "-", *limit, stdin=second.stdout, stdout=subprocess.PIPE)
        for writer in (first, second):
            if writer.stdout is not None:
                writer.stdout.close()  # the reader's alone now, so that its end reaches the writer
        found = third.communicate()[0]
        running = [first, second, third]
    else:
        _finish(_start(at, *_EXPLAIN, *limit, "-o", "cam.h5"))
        _finish(_start(at, *_CRF, "cam.h5", "-o", "masks.h5"))
        running = [_start(at, *_EVALUATE, "masks.h5", *limit, stdout=subprocess.PIPE)]
        found = running[0].communicate()[0]
    for process in running:
        _finish(process)
    of_class = json.loads(found)["per_class_iou"]
    return torch.tensor([-1.0 if value is None else value for value in of_class.values()], dtype=torch.float64)


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
