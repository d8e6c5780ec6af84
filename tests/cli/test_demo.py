import json
import shlex
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.launch import ROOT, started
from xseg.demo import step as demo_step
from xseg.demo.commands import Step, steps
from xseg.demo.step import Score, demo, table
from xseg.errors import CannotCreate, Status, XsegError
from xseg.runs.runtime import Runtime
from xseg.stages import STAGES

CHAIN = ("train-cls", "explain", "crf", "affinity-train", "random-walk", "crf", "evaluate")
SMALL = 8


@pytest.fixture
def planned(monkeypatch):
    """Replaces the demo's commands."""

    def plan(*made: Step) -> None:
        monkeypatch.setattr(demo_step, "steps", lambda directory: iter(made))

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return plan


def test_the_demo_runs_every_command_of_the_chain_in_order(tmp_path):
    typed = [step.arguments[0] for step in steps(tmp_path)]
    assert set(typed) <= {stage.name for stage in STAGES}
    left = iter(typed)
    assert all(name in left for name in CHAIN)


def test_a_command_reads_only_what_an_earlier_one_made(tmp_path):
    there = {str(tmp_path / "data")}
    for step in steps(tmp_path):
        named = {word for word in step.arguments if word.startswith(str(tmp_path))}
        own = {step.arguments[-1]} if "-o" in step.arguments else set()
        assert named - own <= there
        there |= own


def test_only_the_seed_of_train_is_tuned_and_val_is_scored(tmp_path):
    for step in steps(tmp_path):
        if step.scores:
            split = step.arguments[step.arguments.index("--split") + 1]
            assert split == "val"
        if "--tune-on" in step.arguments:
            assert step.arguments[step.arguments.index("--tune-on") + 1] == "train"
            assert step.scores == ("seed",)


@pytest.mark.parametrize("found", ["a file", "another demo"])
def test_a_directory_of_something_else_is_left_alone(tmp_path, planned, found):
    planned()
    if found == "a file":
        (tmp_path / "notes.txt").write_text("mine")
    else:
        (tmp_path / "demo.json").write_text('{"seed": 5}')
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CannotCreate, match="choose another directory"):
        demo(tmp_path, SMALL, Runtime())
    assert sorted(tmp_path.iterdir()) == before


def test_a_command_that_fails_ends_the_demo_with_its_status(tmp_path, planned):
    planned(Step(("info", str(tmp_path / "missing.h5")), tmp_path / "missing.h5"))
    with pytest.raises(XsegError, match=r"missing\.h5") as caught:
        demo(tmp_path, SMALL, Runtime())
    assert caught.value.status == Status.INPUT_MISSING
    assert not (tmp_path / "scores.json").exists()


def test_a_finished_demo_tells_its_scores_without_running_anything(tmp_path, planned):
    scores = {name: Score(0.5, 0.2, 0.6).__dict__ for name in demo_step.STAGES}
    planned()
    demo_step._claim(tmp_path, {"seed": 0, "images": SMALL, "version": demo_step.__version__})
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    result = demo(tmp_path, SMALL, Runtime())
    assert result["stages"] == scores
    planned(Step(("info", str(tmp_path / "gone.h5")), tmp_path / "gone.h5"))
    with pytest.raises(XsegError, match=r"gone\.h5"):  # an output was removed: it is made again
        demo(tmp_path, SMALL, Runtime())


def test_a_stop_reaches_the_command_that_runs(tmp_path):
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(
        [sys.executable, "-m", "xseg", "demo", str(tmp_path / "d"), "--data-size", str(SMALL)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stderr is not None
    while "train-cls" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=100)[1]
    assert process.returncode == Status.STOPPED, rest
    assert "run the same command again" in rest
    assert "Traceback" not in rest


def test_the_table_tells_how_each_stage_was_decided():
    stages = {"centre-prior": (0.2, 0.2, 0.21), "seed": (0.3, 0.25, 0.31), "walk": (0.4, None, None)}
    stages["masks"] = (0.5, None, None)
    text = table({"stages": {name: Score(*values).__dict__ for name, values in stages.items()}}).splitlines()
    assert [line.split("0.")[1][:3] for line in text[1:]] == ["200", "300", "400", "500"]
    assert "threshold 0.25, tuned on train" in text[2]
    assert "argmax" in text[3]


@pytest.mark.slow
def test_the_whole_demo_on_a_few_images(tmp_path):
    ended = started("demo", tmp_path / "d", "--data-size", SMALL, "--json", "--seed", 3)
    assert set(ended.json["stages"]) == set(demo_step.STAGES)
    assert all(0 <= stage["miou"] <= 1 for stage in ended.json["stages"].values())
    typed = [line[2:] for line in ended.stderr.splitlines() if line.startswith("$ xseg ")]
    assert [tuple(shlex.split(line)[1:]) for line in typed] == [step.arguments for step in steps(tmp_path / "d")]
    assert (tmp_path / "d" / "pictures" / "masks" / "sheet.png").exists()
    again = started("demo", tmp_path / "d", "--data-size", SMALL, "--json", "--seed", 3)
    assert again.json["stages"] == ended.json["stages"]
    assert "$ " not in again.stderr
