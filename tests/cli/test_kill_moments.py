"""`kill -9` from outside, at moments spread evenly over the time a command takes.

A few moments here; `--moments 60` (part of `make reliability`) for the counts of docs/reliability.md.
"""

import os
import signal
import time
from collections import Counter

import pytest

from tests.cli.conftest import MODEL, TRAIN
from tests.cli.read import content, records
from xseg.training.checkpoint import Checkpoint

PART_PER_IMAGE = {
    "xseg.runs.sinks:FileSink.seconds": 0.0,
    "xseg.runs.sinks:PipeSink.seconds": 0.0,
    "xseg.training.output:SECONDS": 0.0,
}


def steps(chain):
    return {
        "train-cls": ("train-cls", chain.data, *MODEL, *TRAIN, "--limit", 12, "--epochs", 8),
        "explain": ("explain", chain.cls, chain.data),
        "crf": ("crf", chain.cam),
        "affinity-train": ("affinity-train", chain.labels, chain.cls, "--limit", 12, "--epochs", 8, "--crop", 64,
                           "--batch-size", 6),
        "random-walk": ("random-walk", chain.cam, chain.affinity, "--log-steps", 3),
        "evaluate": ("evaluate", chain.masks, "--dataset", chain.data, "--json"),
    }  # fmt: skip


@pytest.fixture
def moments(request):
    """Fractions of a command's duration."""
    count = request.config.getoption("--moments")
    return [(number + 0.5) / count for number in range(count)]


def seconds_of(work):
    """How long `work` takes: the shorter of two, so that the last moments still meet it running."""
    found = []
    for number in range(2):
        start = time.monotonic()
        work(number)
        found.append(time.monotonic() - start)
    return min(found)


def kill(process):
    """`kill -9`; whether the process was still there."""
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    return process.wait().status == -signal.SIGKILL


def published_images(out):
    """How many images are in the parts beside `out`; each part is read and compared with its digests."""
    files = (out.parent / f"{out.name}.parts").glob("[!.]*.h5")
    return sum(len(records(path)) for path in files)


def steps_saved(out):
    """The step that the newest checkpoint beside `out` holds."""
    directory = out.parent / f"{out.name}.checkpoint"
    if not (directory / "run").exists():
        return 0
    saved = Checkpoint(out, (directory / "run").read_text()).load()
    return saved["state"]["step"] if saved else 0


def went_on_from(told):
    """What a command said of an earlier run's work."""
    lines = [line for line in told.splitlines() if line.endswith("are done already, going on")]
    return int(lines[0].split(": ")[1].split(" of ")[0]) if lines else 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train-cls", "explain", "crf", "affinity-train", "random-walk", "evaluate"])
def test_killed_at_any_moment_a_command_loses_nothing_published(chain, run, tmp_path, moments, name, record_property):
    command = steps(chain)[name]

    def whole(number):
        return run(*command, "-o", tmp_path / f"whole-{number}.h5", settings=PART_PER_IMAGE)

    seconds, reference = seconds_of(whole), content(tmp_path / "whole-0.h5")
    counts = Counter(moments=len(moments))
    for number, moment in enumerate(moments):
        directory = tmp_path / f"killed-{number}"
        directory.mkdir()
        out = directory / "out.h5"
        process = run.start(*command, "-o", out, settings=PART_PER_IMAGE)
        time.sleep(seconds * moment)
        counts["killed"] += kill(process)
        counts["final file"] += out.exists()
        if out.exists():
            assert content(out) == reference  # whole, or not there
        kept = max(published_images(out), steps_saved(out))
        counts["with work to go on from"] += kept > 0
        again = run(*command, "-o", out, settings=PART_PER_IMAGE)
        if "complete already" not in again.stderr:
            assert went_on_from(again.stderr) >= kept
        assert content(out) == reference
        assert [path.name for path in directory.iterdir()] == ["out.h5"]
        counts["equal after the re-run"] += 1
    record_property("counts", f"{seconds:.2f} s; {dict(counts)}")


def start_pipe(chain, run, directory, out):
    """explain | random-walk | crf --masks, as a shell starts them: side by side, joined by pipes."""
    first, second = directory / "first", directory / "second"
    os.mkfifo(first)
    os.mkfifo(second)
    return [
        run.start("explain", chain.cls, chain.data, stdout=first, settings=PART_PER_IMAGE),
        run.start("random-walk", "-", chain.affinity, "--log-steps", 3, stdin=first, stdout=second,
                  settings=PART_PER_IMAGE),
        run.start("crf", "-", "--masks", "-o", out, stdin=second, settings=PART_PER_IMAGE),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_pipe_of_which_one_step_is_killed_at_any_moment_ends_and_loses_nothing(
    chain, run, tmp_path, moments, record_property
):
    def whole(number):
        directory = tmp_path / f"whole-{number}"
        directory.mkdir()
        for process in start_pipe(chain, run, directory, directory / "out.h5"):
            process.wait().expect(0)

    seconds = seconds_of(whole)
    reference, counts = content(tmp_path / "whole-0" / "out.h5"), Counter(moments=len(moments))
    for number, moment in enumerate(moments):
        directory = tmp_path / f"killed-{number}"
        directory.mkdir()
        out = directory / "out.h5"
        processes = start_pipe(chain, run, directory, out)
        time.sleep(seconds * moment)
        running = [process for process in processes if process.poll() is None] or processes[-1:]
        counts["killed"] += kill(running[number % len(running)])
        ended = [process.wait() for process in processes]
        for process in ended:  # the reader of a stream that is cut off says so, the writer into a closed pipe ends
            assert process.status in {0, 65, 141, -signal.SIGKILL, -signal.SIGPIPE}, process
            process.expect(None)
        counts["final file"] += out.exists()
        if out.exists():
            assert content(out) == reference
        kept = published_images(out)
        counts["with work to go on from"] += kept > 0
        again = directory / "again"
        again.mkdir()
        *_, last = [process.wait().expect(0) for process in start_pipe(chain, run, again, out)]
        if "complete already" not in last.stderr:
            assert went_on_from(last.stderr) >= kept
        assert content(out) == reference
        assert sorted(path.name for path in directory.iterdir()) == ["again", "first", "out.h5", "second"]
        counts["equal after the re-run"] += 1
    record_property("counts", f"{seconds:.2f} s; {dict(counts)}")
