"""Damaged, spliced and shuffled artifacts and streams, through the commands that read them.

A mutant is refused (65) or does no harm: then the result is that of the undamaged file. Never a crash, a traceback, a
hang, or other data. A few mutants here; `--mutants 2000` (part of `make reliability`) for docs/reliability.md.
"""

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.cli.launch import FLUSH
from tests.cli.read import content
from tests.cli.test_kill_moments import PART_PER_IMAGE

SECONDS = 5.0
TARGETS = ("cls", "cam", "labels", "affinity", "walk", "masks", "seg", "scores", "stream", "part", "checkpoint")


@pytest.fixture(scope="module")
def few(chain, run, tmp_path_factory):
    """Artifacts of four images, parts of a stream, and what is left beside an output that was cut off."""
    directory = tmp_path_factory.mktemp("few")
    at = {name: directory / f"{name}.h5" for name in ("cam", "flipped", "labels", "walk")}
    four = ("explain", chain.cls, chain.data, "--limit", 4)
    run(*four, "-o", at["cam"])
    run(*four, "--flip", "-o", at["flipped"])
    run("crf", at["cam"], "-o", at["labels"])
    run("random-walk", at["cam"], chain.affinity, "--log-steps", 3, "-o", at["walk"])
    for name, made in {"stream": four, "other": (*four, "--flip")}.items():
        at[name] = streamed(run, made, directory / name)
    return {**at, **{name: getattr(chain, name) for name in ("cls", "affinity", "masks", "seg", "scores")}}


def streamed(run, made, path):
    """What a command writes into a pipe, a part per image."""
    pipe = path.with_suffix(".pipe")
    os.mkfifo(pipe)
    with path.open("wb") as file, subprocess.Popen(["cat", str(pipe)], stdout=file):
        run(*made, settings=PART_PER_IMAGE, stdout=pipe)
    assert len(parts_of(path.read_bytes())) == 4
    return path


def command(name, chain, few, mutant):
    """What reads the mutant, up to `-o OUT`."""
    return {
        "cls": ("explain", mutant, chain.data, "--limit", 2),
        "cam": ("random-walk", mutant, chain.affinity, "--log-steps", 2),
        "labels": ("affinity-train", mutant, chain.cls, "--epochs", 1, "--crop", 48, "--batch-size", 4),
        "affinity": ("random-walk", few["cam"], mutant, "--log-steps", 2),
        "walk": ("crf", mutant, "--masks", "--iterations", 2),
        "masks": ("evaluate", mutant, "--dataset", chain.data, "--json"),
        "seg": ("segment", mutant, chain.data, "--limit", 2),
        "scores": ("info", mutant, "--json"),
        "stream": ("merge", "-"),
        "part": ("explain", chain.cls, chain.data, "--limit", 4),
        "checkpoint": ("affinity-train", few["labels"], chain.cls, "--epochs", 4, "--crop", 48, "--batch-size", 4),
    }[name]


def parts_of(stream):
    """The artifacts that lie end to end in a stream: each tells its length in its superblock."""
    found = []
    while stream:
        length = int.from_bytes(stream[28:36], "little")
        found.append(stream[:length])
        stream = stream[length:]
    return found


def flipped(data, random, other):
    damaged = bytearray(data)
    for place in random.integers(0, len(data), random.integers(1, 9)):
        damaged[place] ^= 1 << int(random.integers(8))
    return bytes(damaged)


def flipped_at_the_start(data, random, other):
    start = min(4096, len(data))
    return flipped(data[:start], random, other) + data[start:]


def overwritten(data, random, other):
    start, length = int(random.integers(len(data))), int(random.integers(1, 200))
    with_what = (bytes(length), b"\xff" * length, random.bytes(length))[random.integers(3)]
    return (data[:start] + with_what + data[start + length :])[: len(data)]


def cut_off(data, random, other):
    return data[: random.integers(len(data))]


def spliced(data, random, other):
    start, length = int(random.integers(len(data))), int(random.integers(1, 5000))
    return data[:start] + other[start : start + length] + data[start + length :]


def grown(data, random, other):
    start = int(random.integers(len(data)))
    return data[:start] + random.bytes(int(random.integers(1, 300))) + data[start:]


def shrunk(data, random, other):
    start = int(random.integers(len(data)))
    return data[:start] + data[start + int(random.integers(1, 300)) :]


def lengthened(data, random, other):
    return data + (data, other, bytes(512), random.bytes(100))[random.integers(4)]


def repeated(data, random, other):
    parts = parts_of(data)
    return b"".join([*parts, parts[random.integers(len(parts))]])


def reordered(data, random, other):
    return b"".join(random.permutation(np.array(parts_of(data), object)).tolist())


def mixed(data, random, other):
    parts, foreign = parts_of(data), parts_of(other)
    parts[random.integers(len(parts))] = foreign[random.integers(len(foreign))]
    return b"".join(parts)


def dropped(data, random, other):
    parts = parts_of(data)
    del parts[random.integers(len(parts))]
    return b"".join(parts)


DAMAGE = (flipped, flipped_at_the_start, overwritten, cut_off, spliced, grown, shrunk, lengthened)
SHUFFLES = (repeated, reordered, mixed, dropped)


def harmed(name, data, other, random):
    ways = (*DAMAGE, *SHUFFLES) if name == "stream" else DAMAGE
    way = ways[random.integers(len(ways))]
    return way.__name__, way(data, random, other)


class Case:
    """One kind of input: how it is damaged and read, and what the undamaged one gives."""

    def __init__(self, name, chain, few, run, directory):
        self.name, self.run, self.directory = name, run, directory
        self.mutant, self.out = directory / "mutant.h5", directory / "out.h5"
        self.command = command(name, chain, few, self.mutant)
        self.beside = {}
        if name in {"part", "checkpoint"}:
            flush = {"part": 9, "checkpoint": 8}[name]
            run(*self.command, "-o", self.out, status=-9, settings=PART_PER_IMAGE, die_at=(FLUSH, flush))
            beside = self.out.with_name(f"{self.out.name}.{name}{'s' * (name == 'part')}")
            self.beside = {path: path.read_bytes() for path in sorted(beside.iterdir())}
            self.data = max(self.beside.values(), key=len)
            self.other = few["flipped"].read_bytes()
        else:
            self.data = few[name].read_bytes()
            self.other = few["other" if name == "stream" else "flipped"].read_bytes()
        ended = self.read(self.data)
        assert ended.status == 0, ended.stderr
        self.expected = self.result(ended)

    def read(self, data):
        self.out.unlink(missing_ok=True)
        for left in self.directory.glob("out.h5.*"):  # what a refused mutant had finished
            shutil.rmtree(left)
        for path, kept in self.beside.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data if kept is self.data else kept)
        self.mutant.write_bytes(data)
        output = () if self.name == "scores" else ("-o", self.out)
        stdin = self.mutant if self.name == "stream" else None
        return self.run(*self.command, *output, stdin=stdin, status=None)

    def result(self, ended):
        if self.name == "scores":
            return json.loads(ended.lines[0])  # of what lies behind it in the file `info` tells on further lines
        return content(self.out)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_input_is_refused_or_does_no_harm(chain, few, run, tmp_path, request, name, record_property):
    case = Case(name, chain, few, run, tmp_path)
    random = np.random.default_rng([2, TARGETS.index(name)])
    counts, slowest = Counter(), 0.0
    for number in range(request.config.getoption("--mutants") // len(TARGETS)):
        way, data = harmed(name, case.data, case.other, random)
        started = time.monotonic()
        ended = case.read(data)
        seconds = time.monotonic() - started
        told = f"{name} {number} {way}: {ended.status} in {seconds:.1f} s\n{ended.stderr}"
        assert seconds < SECONDS, told
        if ended.status == 0:
            assert case.result(ended) == case.expected, told
            counts["harmless" if data != case.data else "unchanged"] += 1
        else:
            assert ended.status == 65, told
            assert "error: " in ended.stderr, told
            assert not case.out.exists(), told
            counts["refused"] += 1
        slowest = max(slowest, seconds)
        assert not list(Path(tmp_path).glob(".*"))
    record_property("counts", f"{dict(counts)}, slowest {slowest:.1f} s")
