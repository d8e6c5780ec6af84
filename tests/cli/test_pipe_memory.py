"""Three steps joined by pipes: how much memory each takes, and how long, against one after the other.

A few images here; `--images 1000` (part of `make reliability`) for docs/reliability.md.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.launch import ROOT
from tests.cli.read import records
from xseg.datasets.synthetic import write_synthetic


class Step:
    """A command as a process of its own, and what it took."""

    def __init__(self, *args, stdin=None, stdout=None):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "xseg", *map(str, args), "--device", "cpu", "-q"],
            stdin=stdin, stdout=stdout, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

        self.peak = 0.0

    def running(self):
        """Whether it has not ended; notes its peak memory so far. (`wait4` would count that of this process, too.)"""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                self.peak = int(line.split()[1]) / 1024
        return self.process.poll() is None


def peaks_of(*steps):
    """Peak memory of each in MiB, once all have ended."""
    while any([step.running() for step in steps if step.process.returncode is None]):
        time.sleep(0.02)
    assert [step.process.returncode for step in steps] == [0] * len(steps)
    return [step.peak for step in steps]


def piped(chain, data, out):
    """explain | random-walk | crf --masks -o OUT: peak memory of each, seconds."""
    started = time.monotonic()
    first = Step("explain", chain.cls, data, stdout=subprocess.PIPE)
    second = Step("random-walk", "-", chain.affinity, "--log-steps", 3, stdin=first.process.stdout,
                  stdout=subprocess.PIPE)  # fmt: skip
    third = Step("crf", "-", "--masks", "-o", out, stdin=second.process.stdout)
    for step in (first, second):
        step.process.stdout.close()  # the next process has it
    return peaks_of(first, second, third), time.monotonic() - started


def in_turn(chain, data, out):
    """The same three commands by way of files."""
    cam, walk = out.with_name("cam.h5"), out.with_name("walk.h5")
    started = time.monotonic()
    peaks = [
        peaks_of(Step(*command))[0]
        for command in (
            ("explain", chain.cls, data, "-o", cam),
            ("random-walk", cam, chain.affinity, "--log-steps", 3, "-o", walk),
            ("crf", walk, "--masks", "-o", out),
        )
    ]
    return peaks, time.monotonic() - started


def digests(path):
    """What the images' results are known by. `content` also holds the parents, which a pipe knows by their run."""
    return [record.digest for record in records(path)]


@pytest.mark.slow
def test_steps_joined_by_pipes_take_memory_that_does_not_grow_with_the_images(
    chain, tmp_path, request, record_property
):
    images = request.config.getoption("--images")
    found = {}
    for count in (images // 5, images):
        data = tmp_path / f"data-{count}"
        write_synthetic(data, images=count, classes=3, size=128, seed=9)
        found[count] = piped(chain, data, tmp_path / f"piped-{count}.h5")
    peaks, seconds = found[images]
    few = found[images // 5][0]
    alone, seconds_in_turn = in_turn(chain, data, tmp_path / "in-turn.h5")
    assert digests(tmp_path / f"piped-{images}.h5") == digests(tmp_path / "in-turn.h5")
    for many, fewer in zip(peaks, few, strict=True):
        assert many < fewer + 100  # MiB; the maps of 1,000 images are more than that
    told = {
        f"MiB in the pipe, {images // 5} images": [round(peak) for peak in few],
        f"MiB in the pipe, {images} images": [round(peak) for peak in peaks],
        "MiB in turn": [round(peak) for peak in alone],
        "seconds in the pipe": round(seconds, 1),
        "seconds in turn": round(seconds_in_turn, 1),
    }
    record_property("counts", told)
