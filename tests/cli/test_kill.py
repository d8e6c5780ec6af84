"""Ends at bad moments: every flush to disk is one, since what is kept changes there.

`kill -9` is sent by the process to itself right at the n-th flush, so the moment is chosen and not a matter of luck.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import MODEL, SEGMENTER, TRAIN
from tests.cli.launch import FLUSH, ROOT
from tests.cli.read import content, failures, records, same_weights

PARTS = {"xseg.runs.sinks:FileSink.seconds": 0.0}  # a part per image
FEW = ("--limit", 5, "--batch-size", 1)


def per_image_steps(chain, cam):
    return {
        "explain": ("explain", chain.cls, chain.data, *FEW),
        "crf": ("crf", cam),
        "random-walk": ("random-walk", cam, chain.affinity, "--log-steps", 3),
        "crf --masks": ("crf", cam, "--masks"),
        "merge": ("merge", cam),
        "segment": ("segment", chain.seg, chain.data, *FEW),
    }


def trainers(chain):
    return {
        "train-cls": ("train-cls", chain.data, *MODEL, *TRAIN, "--limit", 12, "--epochs", 3),
        "affinity-train": ("affinity-train", chain.labels, chain.cls, "--limit", 12, "--epochs", 3, "--crop", 64,
                           "--batch-size", 6),
        "train-seg": ("train-seg", chain.masks, *SEGMENTER, "--average", 0.9, "--limit", 12, "--epochs", 3),
        "train-guided": ("train-guided", chain.data, *MODEL, *TRAIN, "--masks", 5, "--limit", 12, "--epochs", 3),
    }  # fmt: skip


def few_maps(chain, run, directory):
    cam = directory / "few.h5"
    run("explain", chain.cls, chain.data, *FEW, "-o", cam)
    return cam


def killed_until_done(run, command, out, every, settings):
    """Run a command that dies at its `every`-th flush, again and again; returns how often it died."""
    for deaths in range(40):
        ended = run(*command, "-o", out, status=None, settings=settings, die_at=(FLUSH, every))
        if ended.status == 0:
            return deaths
        assert ended.status == -signal.SIGKILL, ended.stderr
        assert ended.stdout == b""
        if out.exists():
            assert content(out)  # whole, or not there
    raise AssertionError("no progress from run to run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "every"),
    [("explain", 3), ("crf", 4), ("random-walk", 5), ("crf --masks", 5), ("merge", 6), ("segment", 4)],
)
def test_a_per_image_command_killed_again_and_again_ends_with_the_uninterrupted_result(
    chain, run, tmp_path, name, every
):
    command = per_image_steps(chain, few_maps(chain, run, tmp_path))[name]
    out, whole = tmp_path / "out.h5", tmp_path / "whole.h5"
    assert killed_until_done(run, command, out, every, PARTS) >= 2
    run(*command, "-o", whole)
    assert content(out) == content(whole)
    assert len(records(out)) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.h5", "out.h5", "whole.h5"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train-cls", "affinity-train", "train-seg", "train-guided"])
def test_a_training_killed_again_and_again_ends_with_the_uninterrupted_weights(chain, run, tmp_path, name):
    command = trainers(chain)[name]
    out, whole = tmp_path / "out.h5", tmp_path / "whole.h5"
    every_step = {"xseg.training.output:SECONDS": 0.0}
    assert killed_until_done(run, command, out, 4, every_step) >= 2
    run(*command, "-o", whole)
    assert same_weights(out, whole)
    assert content(out) == content(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5", "whole.h5"]


def test_an_evaluation_killed_again_and_again_asks_about_each_image_once(chain, run, tmp_path):
    command = ("evaluate", chain.cam, "--protocol", "perturbation", "--classifier", chain.cls, "--frame", "32x48")
    out, whole = tmp_path / "out.h5", tmp_path / "whole.h5"
    for _ in range(2):
        run(*command, "-o", out, status=-signal.SIGKILL, die_at=("xseg.scores.journal:Journal.add", 3))
    ended = run(*command, "-o", out)
    assert "measured already" in ended.stderr
    assert "measured already: 4 images" in ended.stderr
    run(*command, "-o", whole)
    assert content(out) == content(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5", "whole.h5"]


@pytest.mark.parametrize("name", ["explain", "train-cls"])
def test_a_kill_between_publishing_and_tidying_up_leaves_a_whole_that_the_next_run_tidies(chain, run, tmp_path, name):
    command = (per_image_steps(chain, chain.cam) | trainers(chain))[name]
    out = tmp_path / "out.h5"
    # The last flush is that of the directory, once the name is there.
    last = {"explain": 6, "train-cls": 6}[name]
    run(*command, "-o", out, status=-signal.SIGKILL, die_at=(FLUSH, last))
    assert content(out)
    assert len(list(tmp_path.iterdir())) >= 2
    assert "complete already" in run(*command, "-o", out).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


@pytest.mark.parametrize("flush", [1, 2])
def test_an_evaluation_killed_while_it_writes_leaves_nothing_or_the_whole(chain, run, tmp_path, flush):
    out = tmp_path / "out.h5"
    command = ("evaluate", chain.masks, "--dataset", chain.data, "--json", "-o", out)
    run(*command, status=-signal.SIGKILL, die_at=(FLUSH, flush))
    assert out.exists() == (flush == 2)
    assert run(*command).json == chain.ended["scores"].json
    assert content(out) == content(chain.scores)
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


def wait_for(path, process):
    limit = time.monotonic() + 60
    while not any(path.glob("*.h5")) and not any(path.glob("*.pt")):
        assert process.poll() is None, process.wait().stderr
        assert time.monotonic() < limit
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGUSR1, 75), (signal.SIGUSR2, 75)]
)
def test_a_stopped_command_keeps_what_is_finished_and_says_so(chain, run, tmp_path, number, status):
    out = tmp_path / "out.h5"
    cam = few_maps(chain, run, tmp_path)
    command = ("crf", cam, "--iterations", 400, "--workers", 1, "-o", out)
    process = run.start(*command, settings=PARTS)
    wait_for(tmp_path / "out.h5.parts", process)
    process.signal(number)
    ended = process.wait().expect(status)
    assert ended.stdout == b""
    assert ended.stderr.startswith("error: stopped by a signal")
    assert "run the same command again" in ended.stderr
    assert not out.exists()
    kept = list((tmp_path / "out.h5.parts").glob("*.h5"))
    assert kept
    assert not list((tmp_path / "out.h5.parts").glob(".*.tmp"))
    run(*command)
    run(*command[:-1], tmp_path / "whole.h5")
    assert content(out) == content(tmp_path / "whole.h5")
    assert not (tmp_path / "out.h5.parts").exists()


@pytest.mark.parametrize("name", ["train-cls", "affinity-train", "train-seg", "train-guided"])
def test_a_stopped_training_saves_and_continues(chain, run, tmp_path, name):
    out, command = tmp_path / "out.h5", (*trainers(chain)[name][:-1], 6)
    process = run.start(*command, "--epochs", 60, "-o", out, settings={"xseg.training.output:SECONDS": 0.0})
    wait_for(tmp_path / "out.h5.checkpoint", process)
    process.signal(signal.SIGTERM)
    ended = process.wait().expect(75)
    assert ended.stderr.startswith("error: stopped after step")
    assert not out.exists()
    assert (tmp_path / "out.h5.checkpoint" / "last.pt").exists()
    other = run(*command, "--epochs", 59, "-o", out, status=73)
    assert "belongs to another run" in other.stderr


@pytest.mark.parametrize("name", ["train-cls", "affinity-train", "train-guided"])
def test_ctrl_c_in_a_training_ends_with_130(chain, run, tmp_path, name):
    out, command = tmp_path / "out.h5", trainers(chain)[name]
    process = run.start(*command, "--epochs", 60, "-o", out, settings={"xseg.training.output:SECONDS": 0.0})
    wait_for(tmp_path / "out.h5.checkpoint", process)
    process.signal(signal.SIGINT)
    assert process.wait().expect(130).stderr.startswith("error: stopped after step")


def test_a_stopped_evaluation_writes_nothing(chain, run, tmp_path):
    command = ("evaluate", *[chain.masks], "--dataset", chain.data, "-o", tmp_path / "out.h5")
    process = run.start(*command, slow_images=0.5)
    time.sleep(1)
    process.signal(signal.SIGTERM)
    assert "stopped by a signal" in process.wait().expect(75).stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_to_the_whole_group_leaves_the_crf_processes_to_their_parent(chain, tmp_path, number):
    pytest.importorskip("pydensecrf")
    out = tmp_path / "out.h5"
    words = ("crf", chain.cam, "--backend", "pydensecrf", "--workers", 2, "--iterations", 5000, "-o", out)
    command = [sys.executable, "-m", "xseg", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True) as process:
        limit = time.monotonic() + 60
        while len(children(process.pid)) < 3:  # two workers and what keeps track of them
            assert time.monotonic() < limit
            time.sleep(0.01)
        time.sleep(1)
        os.killpg(process.pid, number)
        told = process.stderr.read().decode()
    assert process.returncode == (130 if number == signal.SIGINT else 75), told
    assert "Traceback" not in told


def children(process):
    """Process ids, whichever thread started them."""
    return [one for task in Path(f"/proc/{process}/task").iterdir() for one in (task / "children").read_text().split()]


def test_a_second_signal_ends_at_once(chain, run, tmp_path):
    process = run.start("crf", chain.cam, "--iterations", 200000, "--workers", 1, "-o", tmp_path / "out.h5")
    limit = time.monotonic() + 60
    while not (tmp_path / "out.h5.parts" / "run").exists():
        assert time.monotonic() < limit
        time.sleep(0.005)
    time.sleep(0.2)
    process.signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None  # it waits for its image
    process.signal(signal.SIGTERM)
    assert process.wait().status == 75


def test_a_command_in_the_background_that_ignores_ctrl_c_goes_on(chain, run, tmp_path):
    # What a shell does for `command &`; the choice is the shell's.
    before = signal.getsignal(signal.SIGINT)
    assert before is not signal.SIG_IGN
    from xseg.runs.signals import stop_flag

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_flag() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_killed_producer_is_noticed_by_the_next_step(chain, run, tmp_path):
    pipe, copy = tmp_path / "pipe", tmp_path / "copy"
    os.mkfifo(pipe)
    with copy.open("wb") as file, subprocess.Popen(["cat", str(pipe)], stdout=file):
        run("explain", chain.cls, chain.data, *FEW, settings={"xseg.runs.sinks:PipeSink.seconds": 0.0}, stdout=pipe)
    piped = copy.read_bytes()
    first = int.from_bytes(piped[28:36], "little")
    cut = tmp_path / "cut"
    cut.write_bytes(piped[:first])
    refused = run("crf", "-", "-o", tmp_path / "out.h5", stdin=cut, status=65)
    assert "missing" in refused.stderr
    assert not (tmp_path / "out.h5").exists()
    cut.write_bytes(piped[: first + 100])
    refused = run("crf", "-", "-o", tmp_path / "out.h5", stdin=cut, status=65)
    assert "cut off" in refused.stderr


def test_a_damaged_part_is_made_again(chain, run, tmp_path):
    out = tmp_path / "out.h5"
    command = ("explain", chain.cls, chain.data, *FEW)
    run(*command, "-o", out, status=-signal.SIGKILL, settings=PARTS, die_at=(FLUSH, 9))
    part = sorted((tmp_path / "out.h5.parts").glob("*.h5"))[0]
    part.write_bytes(part.read_bytes()[:-100])
    ended = run(*command, "-o", out)
    assert "made again" in ended.stderr
    run(*command, "-o", tmp_path / "whole.h5")
    assert content(out) == content(tmp_path / "whole.h5")


def test_parts_of_another_run_are_not_mixed_in(chain, run, tmp_path):
    out = tmp_path / "out.h5"
    command = ("explain", chain.cls, chain.data, *FEW, "-o", out)
    run(*command, status=-signal.SIGKILL, settings=PARTS, die_at=(FLUSH, 6))
    refused = run(*command, "--flip", status=73)
    assert "unfinished work of another run" in refused.stderr
    run(*command, "--flip", "--overwrite")
    assert len(records(out)) == 5
    assert failures(out) == []
