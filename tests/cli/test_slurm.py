"""What `xseg slurm` prints, and that a real cluster does with it what it should."""

import subprocess
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
    parts = tmp_path / "cam.h5.shards" / "0.h5.parts" / "run"  # it has begun, and is listening to signals
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
    assert "explain c.h5 data --flip --shard" in printed


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("explain c.h5 data", "give it -o FILE"),
        ("explain c.h5 data -o -", "give it -o FILE"),
        ("crf - -o labels.h5", "no standard input"),
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


def test_every_command_of_the_chain_can_be_submitted(chain, run):
    lines = [text(command) for command in commands(Path("out")).values()]
    printed = run("slurm", *lines, "--shards", 3, "--gpus", 2).stdout.decode()
    # explain, crf, random-walk and crf --masks are arrays with a merge each; the two trainers and evaluate are not.
    assert printed.count("$(sbatch ") == 7 + 4
    assert printed.count("--ntasks=2") == 2
