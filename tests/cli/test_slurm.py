"""What `xseg slurm` prints, and that a real cluster does with it what it should."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.cluster import Cluster, missing
from tests.cli.conftest import MODEL, TRAIN, commands
from tests.cli.launch import ROOT
from tests.cli.read import content

XSEG = "python -m xseg"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    made.environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # as the commands it is compared with
    made.start()
    yield made
    made.stop()


def text(words):
    return " ".join(map(str, words))


def submit(cluster, run, directory, *arguments):
    """Print a script, submit it, and return the numbers of its jobs by what they do."""
    script = directory / "chain.sh"
    script.write_bytes(run("slurm", *arguments, env={"PYTHONPATH": str(ROOT)}).stdout)
    done = subprocess.run(["bash", script], cwd=directory, env=cluster.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {what: number for number, _, what in (line.partition(" ") for line in done.stdout.splitlines())}


def logs(directory):
    return {path.name: path.read_text() for path in sorted((directory / "slurm-logs").iterdir())}


@pytest.mark.slurm
@pytest.mark.slow
def test_an_array_whose_task_is_signalled_comes_back_and_equals_the_whole(cluster, chain, run, tmp_path):
    explain = text(("explain", chain.cls, chain.data, "--scales", "1,2,3,4", "--flip", "--workers", 1))
    run(*explain.split(), "-o", tmp_path / "whole.h5")
    jobs = submit(cluster, run, tmp_path, f"{explain} -o cam.h5", "crf cam.h5 -o labels.h5", "--shards", 4)
    task = f"{jobs['xseg explain']}_0"
    log = tmp_path / "slurm-logs" / f"xseg-explain-{task}.log"
    parts = tmp_path / "cam.h5.shards" / "0-of-4.h5.parts" / "run"  # it has begun, and is listening to signals
    cluster.wait_until(parts.exists, 60)
    cluster.signal(task)
    cluster.finish(240)
    assert set(cluster.states().values()) == {"COMPLETED"}, logs(tmp_path)
    told = log.read_text()
    assert "stopped by a signal" in told
    assert f"job {task} was cut off: back into the queue" in told
    assert "start 1" in told
    assert content(tmp_path / "cam.h5") == content(tmp_path / "whole.h5")
    run("crf", tmp_path / "whole.h5", "-o", tmp_path / "labels-whole.h5")
    assert content(tmp_path / "labels.h5") == content(tmp_path / "labels-whole.h5")


@pytest.mark.slurm
@pytest.mark.slow
def test_two_processes_under_srun_stop_and_go_on_together(cluster, chain, run, tmp_path):
    train = text(("train-cls", chain.data, *MODEL, *TRAIN, "--epochs", 60, "--device", "cpu"))
    started = (f"{train} -o cls.h5", "--gpus", 2, "--requeues", 1)
    jobs = submit(cluster, run, tmp_path, *started)
    cluster.wait_until((tmp_path / "cls.h5.checkpoint" / "run").exists, 60)
    cluster.signal(jobs["xseg train-cls"])
    cluster.finish(240)
    (log,) = logs(tmp_path).values()
    assert "stopped after step" in log
    assert "start 1" in log
    (tmp_path / "again").mkdir()
    submit(cluster, run, tmp_path / "again", *started)
    cluster.finish(240)
    assert content(tmp_path / "cls.h5") == content(tmp_path / "again" / "cls.h5")


@pytest.mark.slurm
@pytest.mark.slow
def test_what_follows_a_failed_job_is_cancelled_and_not_left_waiting(cluster, chain, run, tmp_path):
    jobs = submit(cluster, run, tmp_path, "crf nothing.h5 -o labels.h5", "affinity-train labels.h5 cls.h5 -o a.h5")
    cluster.finish(60)
    assert set(jobs) == {"xseg crf", "xseg affinity-train"}
    assert "nothing.h5" in "".join(logs(tmp_path).values())
    assert cluster.states()["xseg-affinity-train"] == "CANCELLED"


def test_a_chain_is_read_from_standard_input_line_by_line(run, tmp_path):
    lines = tmp_path / "chain.txt"
    lines.write_text("# the chain\nxseg explain c.h5 data \\\n   --flip -o cam.h5\n\ncrf cam.h5 --masks -o m.h5\n")
    printed = run("slurm", "-", "--shards", 2, stdin=lines).stdout.decode()
    assert printed.count("$(sbatch ") == 4
    assert "-of-2.h5 c.h5 data --flip ||" in printed


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("explain c.h5 data", "give it -o FILE"),
        ("explain c.h5 data -o -", "give it -o FILE"),
        ("evaluate a.h5 --dataset data -o -", "give it -o FILE"),
        ("explain c.h5 data -qo -", "give it -o FILE"),
        ("crf - -o labels.h5", "no standard input"),
        ("affinity-train - c.h5 -o a.h5", "no standard input"),
        ("evaluate a.h5 --dataset data --tune-on val --tune-with -", "no standard input"),
        ("crf --help", "only prints help"),
        ("crf cam.h5 --backend -o -o x.h5", "cannot tell the output"),
        ("crf cam\0.h5 -o x.h5", "zero byte"),
        ("crf cam.h5 --nonsense -o x.h5", "--nonsense"),
        ("crf cam.h5 --shard 0/2 -o x.h5", "leave out --shard"),
        ("rm -rf data", "not an xseg command"),
        ("crf 'cam.h5 -o x.h5", "quote it"),
        ("slurm 'crf a.h5 -o b.h5'", "not an xseg command"),
        ("", "not an xseg command"),
    ],
)
def test_a_command_that_would_fail_at_night_is_refused_now(run, line, told):
    ended = run("slurm", line, status=2)
    assert told in ended.stderr
    assert ended.stdout == b""


@pytest.mark.parametrize(
    "written", ["-o cam.h5", "-ocam.h5", "--output cam.h5", "--output=cam.h5", "-qo cam.h5", "-vocam.h5"]
)
def test_an_output_is_found_however_it_is_written(run, written):
    printed = run("slurm", f"explain c.h5 data {written}", "crf ./cam.h5 -o labels.h5", "--shards", 2).stdout.decode()
    assert '-o cam.h5.shards/"$SLURM_ARRAY_TASK_ID"-of-2.h5 c.h5 data' in printed
    assert "merge -o cam.h5 --" in printed
    assert "--dependency=afterok:${job0m} " in printed


def test_words_after_two_dashes_stay_behind_them(run):
    printed = run("slurm", "explain -o cam.h5 -- c.h5 -data", "--shards", 2).stdout.decode()
    assert '-o cam.h5.shards/"$SLURM_ARRAY_TASK_ID"-of-2.h5 -- c.h5 -data ||' in printed


def test_an_input_that_is_joined_to_its_option_is_waited_for(run):
    lines = ("explain c.h5 data -o a.h5", "evaluate b.h5 --dataset data --tune-on train --tune-with=a.h5")
    assert "--dependency=afterok:${job0} " in run("slurm", *lines).stdout.decode()
    assert "only a later command writes a.h5" in run("slurm", *reversed(lines), status=2).stderr


def test_a_merge_overwrites_and_accepts_what_its_command_does(run):
    lines = ("explain c.h5 data --overwrite -o a.h5", "crf a.h5 --allow-missing -o b.h5")
    printed = run("slurm", *lines, "--shards", 2).stdout.decode()
    assert "xseg merge --overwrite -o a.h5 --" in printed
    assert "xseg merge --allow-missing -o b.h5 --" in printed


@pytest.mark.slow
def test_shards_that_overwrite_or_miss_images_are_merged(chain, run, tmp_path):
    """What the printed jobs run, without a cluster."""
    steps = tmp_path / "bin" / "srun"
    steps.parent.mkdir()
    steps.write_text('#!/bin/bash\nexec "$@"\n')
    steps.chmod(0o755)
    run("explain", chain.cls, chain.data, "--shard", "0/2", "-o", tmp_path / "part.h5")
    run("crf", chain.cam, "-o", tmp_path / "labels.h5")
    line = f"crf {tmp_path}/part.h5 --allow-missing --overwrite -o {tmp_path}/labels.h5"
    told = {"PYTHONPATH": str(ROOT), "PATH": f"{steps.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "1"}
    printed = run("slurm", line, "--shards", 2, env=told).stdout.decode()
    array, merge = (piece.partition("\nJOB\n")[0] for piece in printed.split("<<'JOB'\n")[1:])
    for script, task in ((array, "0"), (array, "1"), (merge, "")):
        env = {**os.environ, **told, "SLURM_ARRAY_TASK_ID": task}
        done = subprocess.run(["bash", "-c", script], env=env, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
    whole = tmp_path / "whole.h5"
    run("crf", tmp_path / "part.h5", "--allow-missing", "-o", whole)
    assert content(tmp_path / "labels.h5") == content(whole)


def test_a_library_that_must_stay_offline_stays_so_on_the_nodes(run):
    printed = run("slurm", "crf a.h5 -o b.h5", env={"HF_HUB_OFFLINE": "1"}).stdout.decode()
    assert "export HF_HUB_OFFLINE=1\n" in printed


@pytest.mark.parametrize("xseg", ["'", "", "  "])
def test_a_start_of_xseg_that_is_none_is_refused(run, xseg):
    assert "quote it" in (told := run("slurm", "crf a.h5 -o b.h5", "--xseg", xseg, status=2).stderr) or "--xseg" in told


def test_a_file_whose_name_no_script_can_hold_is_refused(run):
    assert "not UTF-8" in run("slurm", "crf a.h5 -o b.h5", env={"XSEG_IMAGES": "/a\udcff"}, status=2).stderr


def test_standard_input_that_is_not_text_is_refused(run, tmp_path):
    (tmp_path / "chain.txt").write_bytes(b"crf a\xff.h5 -o b.h5\n")
    assert "not UTF-8 (byte 5)" in run("slurm", "-", stdin=tmp_path / "chain.txt", status=2).stderr


def slurm_alone(*arguments, **how):
    """A process of its own, for what a forked one cannot have."""
    words = [sys.executable, "-m", "xseg", "slurm", *arguments]
    return subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=60, **how)


def test_standard_input_that_is_closed_or_a_terminal_is_refused():
    done = slurm_alone("-", preexec_fn=lambda: os.close(0))
    assert (done.returncode, b"no command" in done.stderr) == (2, True), done.stderr
    master, terminal = os.openpty()
    done = slurm_alone("-", stdin=terminal)
    os.close(master)
    os.close(terminal)
    assert (done.returncode, b"a terminal" in done.stderr) == (2, True), done.stderr


def test_a_directory_with_a_line_break_stays_in_its_comment(tmp_path):
    (tmp_path / "a\ntouch PWNED").mkdir()
    done = slurm_alone("crf a.h5 -o b.h5", cwd=tmp_path / "a\ntouch PWNED")
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stdout.decode().splitlines() if line.startswith("touch")]


def test_every_command_of_the_chain_can_be_submitted(chain, run):
    segment = ("segment", "out/seg.h5", "out/data", "-o", "out/segmented.h5")
    lines = [text(command) for command in (*commands(Path("out")).values(), segment)]
    printed = run("slurm", *lines, "--shards", 3, "--gpus", 2).stdout.decode()
    # explain, crf, random-walk, crf --masks and segment are arrays with a merge each; trainers and evaluate are not.
    assert printed.count("$(sbatch ") == 9 + 5
    assert printed.count("--ntasks=2") == 3
