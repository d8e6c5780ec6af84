"""Several processes that train one network, started as srun and torchrun start them: by their environment."""

import signal
import socket
import time

import numpy as np
import pytest

from tests.cli.read import content, weights
from tests.cli.test_kill import trainers

SAVING = {"xseg.training.output:SECONDS": 0.0}


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def torchrun(number, count, port):
    return {"RANK": number, "WORLD_SIZE": count, "LOCAL_RANK": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def srun(number, count, port):
    step = {"SLURM_PROCID": number, "SLURM_STEP_NUM_TASKS": count, "SLURM_LOCALID": number, "SLURM_STEP_NUM_NODES": 1}
    return {**step, "SLURM_JOB_ID": port, "SLURM_STEP_ID": 0}


def start(run, command, launcher=torchrun, count=2, settings=None, last_dies_at=None):
    port = free_port()
    environments = [{key: str(value) for key, value in launcher(i, count, port).items()} for i in range(count)]
    deaths = [None] * (count - 1) + [last_dies_at]
    return [
        run.start(*command, env=environment, settings=settings, die_at=death)
        for environment, death in zip(environments, deaths, strict=True)
    ]


def largest_difference(one, other):
    ours, theirs = weights(one), weights(other)
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours if ours[name].dtype.kind == "f")


@pytest.mark.parametrize("launcher", [torchrun, srun])
def test_two_processes_learn_what_one_learns_and_one_of_them_speaks(chain, run, tmp_path, launcher):
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    command = (*trainers(chain)["train-cls"], "--freeze-bn", "--val-split", "val", "--json")
    alone = run(*command, "-o", one).json
    first, second = (process.wait().expect(0) for process in start(run, (*command, "-o", two), launcher))
    assert second.stdout == b""
    assert largest_difference(one, two) < 1e-6
    assert first.json["ap"] == pytest.approx(alone["ap"], abs=1e-6)
    losses = [[entry["loss"] for entry in facts["history"]] for facts in (first.json, alone)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize(("name", "more"), [("affinity-train", ()), ("train-guided", ("--freeze-bn",))])
def test_two_processes_learn_the_affinity_or_the_heatmaps_that_one_learns(chain, run, tmp_path, name, more):
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    command = (*trainers(chain)[name], *more)
    run(*command, "-o", one)
    for process in start(run, (*command, "-o", two)):
        process.wait().expect(0)
    assert largest_difference(one, two) < 1e-5


def test_two_processes_learn_the_segmenter_that_one_learns_and_score_it_alike(chain, run, tmp_path):
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    held_out = (chain.data, "--split", "train", "--val-split", "val", "--json")
    # Each process draws its own dropout.
    command = (*trainers(chain)["train-seg"], *held_out, "--dropout", 0)
    alone = run(*command, "-o", one).json
    first, second = (process.wait().expect(0) for process in start(run, (*command, "-o", two)))
    assert second.stdout == b""
    assert largest_difference(one, two) < 1e-5
    losses = [[entry["loss"] for entry in facts["history"]] for facts in (first.json, alone)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert first.json["miou"] == pytest.approx(alone["miou"], abs=1e-3)
    assert first.json["validation_images"] == alone["validation_images"] == 6


@pytest.mark.parametrize("name", ["train-cls", "affinity-train", "train-guided"])
def test_the_weights_do_not_depend_on_the_launcher(chain, run, tmp_path, name):
    outs = [tmp_path / f"{launcher.__name__}.h5" for launcher in (torchrun, srun)]
    for launcher, out in zip((torchrun, srun), outs, strict=True):
        for process in start(run, (*trainers(chain)[name], "-o", out), launcher):
            process.wait().expect(0)
    assert content(outs[0]) == content(outs[1])


@pytest.mark.parametrize("name", ["train-cls", "affinity-train", "train-guided"])
def test_a_signal_to_one_process_stops_all_and_the_next_run_continues(chain, run, tmp_path, name):
    out, whole = tmp_path / "out.h5", tmp_path / "whole.h5"
    command = (*trainers(chain)[name][:-1], 6, "--epochs", 12)
    processes = start(run, (*command, "-o", out), settings=SAVING)
    limit = time.monotonic() + 60
    while not (tmp_path / "out.h5.checkpoint" / "last.pt").exists():
        assert time.monotonic() < limit
        time.sleep(0.005)
    processes[1].signal(signal.SIGUSR1)
    assert [process.wait().expect(75).status for process in processes] == [75, 75]
    assert not out.exists()
    for path in (out, whole):
        for process in start(run, (*command, "-o", path)):
            process.wait().expect(0)
    assert content(out) == content(whole)
    assert not (tmp_path / "out.h5.checkpoint").exists()


def test_an_output_that_cannot_be_written_ends_all_and_is_told_once(chain, run, tmp_path):
    out = tmp_path / "out.h5"
    out.write_bytes(b"precious")
    first, second = (process.wait() for process in start(run, (*trainers(chain)["train-cls"], "-o", out)))
    assert (first.status, second.status) == (73, 73)
    assert str(out) in first.stderr
    assert second.stderr == ""
    assert out.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "before",
    [
        "xseg.training.loop:_split",  # the others wait for its share of a batch
        "xseg.training.loop:key_seed",  # in the forward pass, for its buffers
        "torch:Tensor.backward",  # in the backward pass, for its gradients
    ],
)
def test_a_process_that_dies_does_not_leave_the_other_waiting(chain, run, tmp_path, before):
    command = (*trainers(chain)["train-cls"], "-o", tmp_path / "out.h5")
    first, second = start(run, command, last_dies_at=(before, 3))
    ended = first.wait().expect(69)
    assert second.wait().status == -signal.SIGKILL
    assert "another process of this training is gone" in ended.stderr


def test_more_processes_than_images_in_a_batch_are_refused(chain, run, tmp_path):
    command = (*trainers(chain)["train-cls"], "--batch-size", 1, "-o", tmp_path / "out.h5")
    for ended in [process.wait().expect(2) for process in start(run, command)]:
        assert "--batch-size 1" in ended.stderr


@pytest.mark.parametrize("number", ["x", "2"])
def test_a_rank_that_makes_no_sense_is_refused(chain, run, tmp_path, number):
    command = (*trainers(chain)["train-cls"], "-o", tmp_path / "out.h5")
    ended = run(*command, status=2, env={"RANK": number, "WORLD_SIZE": "2"})
    assert f"RANK={number}" in ended.stderr
