import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from xseg.errors import UsageError
from xseg.runs.slurm import Cluster, Job, submission

EXPLAIN = Job("explain", ("cls.h5", "VOC 2012"), "cam.h5", frozenset({"cls.h5", "VOC 2012"}), True, True)
CRF = Job("crf", ("cam.h5",), "labels.h5", frozenset({"cam.h5"}), True, True)
TRAIN = Job("train-cls", ("VOC 2012",), "cls.h5", frozenset({"VOC 2012"}), False, True, True)
SCORE = Job("evaluate", ("cam.h5", "--json"), None, frozenset({"cam.h5"}))

# Stands for sbatch: keeps what it was given and answers with a number, as --parsable does on a federation.
SBATCH = """#!/bin/bash
number=$(ls "$JOBS" | wc -l); echo "$@" > "$JOBS/$number.options"; cat > "$JOBS/$number.script"
mkdir "$JOBS/$number.dir"
echo "$((100 + $(ls -d "$JOBS"/*.dir | wc -l)));cluster"
"""


@pytest.fixture
def submit(tmp_path, monkeypatch):
    """Runs a submission; returns each job's sbatch options and script, in order, and what was printed."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    (tmp_path / "jobs").mkdir()
    monkeypatch.setenv("JOBS", str(tmp_path / "jobs"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    def run(jobs, cluster, *options):
        script = tmp_path / "chain.sh"
        script.write_text(submission(jobs, cluster, ["python", "-m", "xseg"], "made by a test"))
        done = subprocess.run(["bash", script, *options], cwd=tmp_path, check=True, capture_output=True, text=True)
        files = sorted((tmp_path / "jobs").glob("*.script"), key=lambda path: int(path.stem))
        for path in files:
            subprocess.run(["bash", "-n", path], check=True)
        return [(path.with_suffix(".options").read_text(), path.read_text()) for path in files], done.stdout

    return run


def test_an_array_is_merged_before_the_next_command_starts(submit):
    jobs, printed = submit([TRAIN, EXPLAIN, CRF, SCORE], Cluster(shards=4))
    assert [line.split(" ", 1)[1] for line in printed.splitlines()] == [
        "xseg train-cls", "xseg explain", "xseg merge (cam.h5)", "xseg crf", "xseg merge (labels.h5)", "xseg evaluate",
    ]  # fmt: skip
    waits = [options.partition("afterok:")[2].split() for options, _ in jobs]
    assert [wait[0] if wait else None for wait in waits] == [None, "101", "102", "103", "104", "103"]
    assert all("--kill-on-invalid-dep=yes" in options for options, _ in jobs[1:])
    explain, merge = jobs[1][1], jobs[2][1]
    assert "#SBATCH --array=0-3\n" in explain
    assert '--shard "$SLURM_ARRAY_TASK_ID/4" -o cam.h5.shards/"$SLURM_ARRAY_TASK_ID"-of-4.h5' in explain
    files = " ".join(f"cam.h5.shards/{number}-of-4.h5" for number in range(4))
    assert f"merge -o cam.h5 -- {files} ||" in merge
    assert "'VOC 2012'" in explain


def test_one_shard_is_no_array(submit):
    jobs, _ = submit([EXPLAIN, CRF], Cluster())
    assert len(jobs) == 2
    assert not any("--array" in script or "--shard" in script for _, script in jobs)
    assert "srun python -m xseg explain -o cam.h5 cls.h5 'VOC 2012' ||" in jobs[0][1]


def test_what_the_cluster_asks_for_is_passed_on(submit):
    cluster = Cluster(
        gpus=4, account="lab", partition="long", time="8:00:00", cpus=6, mem="32G", more=("--constraint=a100",),
        setup=("module load cuda",), environment={"XSEG_IMAGES": "/a b"}, requeues=2, notice=60,
    )  # fmt: skip
    jobs, _ = submit([TRAIN, EXPLAIN, SCORE], cluster, "--qos=night")
    assert all("--qos=night" in options for options, _ in jobs)
    for _, script in jobs:
        for line in ("--account=lab", "--partition=long", "--time=8:00:00", "--cpus-per-task=6", "--mem=32G",
                     "--constraint=a100", "--requeue --open-mode=append --signal=USR1@60"):  # fmt: skip
            assert f"#SBATCH {line}\n" in script
        assert script.index("export XSEG_IMAGES='/a b'") < script.index("module load cuda") < script.index("srun")
        assert "-lt 2 ]" in script
    train, explain, score = (script for _, script in jobs)
    assert "#SBATCH --ntasks=4\n#SBATCH --gpus-per-task=1\n" in train
    assert "#SBATCH --gres=gpu:1\n" in explain
    assert "gpu" not in score


@pytest.mark.parametrize(
    "name", ["a$(touch PWNED)b.h5", "a\nJOB\ntouch PWNED\n#.h5", 'it\'s "one" `touch PWNED`).h5', "-x.h5", "a\\nb.h5"]
)
def test_names_of_files_are_never_run(submit, tmp_path, monkeypatch, name):
    (tmp_path / "bin" / "srun").write_text('#!/bin/bash\nprintf "%s\\0" "$@" >> "$JOBS/steps"\n')
    (tmp_path / "bin" / "srun").chmod(0o755)
    jobs, printed = submit([replace(EXPLAIN, output=name), replace(CRF, inputs=frozenset({name}))], Cluster(shards=2))
    assert f"xseg merge ({name})\n" in printed
    assert len(jobs) == 4
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    for _, script in jobs[:2]:
        subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    explain, merge = (tmp_path / "jobs" / "steps").read_text().split("python\0-m\0xseg\0")[1:]
    assert f"-o\0{name}.shards/1-of-2.h5\0" in explain
    assert f"-o\0{name}\0--\0{name}.shards/0-of-2.h5\0{name}.shards/1-of-2.h5\0" in merge
    assert (tmp_path / f"{name}.shards").is_dir()
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize(
    "asked",
    [
        {"partition": "a\ntouch PWNED"},
        {"account": "two words"},
        {"mem": "1G #"},
        {"mem": ""},
        {"time": "1 2"},
        {"time": "soon"},
        {"logs": "my logs"},
        {"logs": "logs\n"},
        {"logs": "100%j"},
        {"more": ("--qos=a\ntouch PWNED",)},
        {"more": ("constraint=a100",)},
        {"setup": ("module load cuda\ntouch PWNED",)},
    ],
)
def test_what_slurm_would_read_otherwise_is_refused(asked):
    with pytest.raises(UsageError, match=next(iter(asked)).replace("more", "sbatch")):
        Cluster(**asked)


@pytest.mark.parametrize("time", ["90", "90:00", "8:00:00", "2-0", "2-12:00", "2-12:00:00", "UNLIMITED"])
def test_times_as_in_sbatch_are_accepted(time):
    assert Cluster(time=time).time == time


@pytest.mark.parametrize("name", ["./cam.h5", "x/../cam.h5", "{here}/cam.h5"])
def test_a_command_waits_for_a_file_however_its_path_is_written(submit, name):
    jobs, _ = submit([EXPLAIN, replace(CRF, inputs=frozenset({name.format(here=Path.cwd())}))], Cluster())
    assert "afterok:101" in jobs[1][0]


@pytest.mark.parametrize(
    ("jobs", "told"),
    [
        ((SCORE, EXPLAIN), "only a later command writes cam.h5"),
        ((replace(SCORE, inputs=frozenset({"./cam.h5"})), EXPLAIN), "only a later command writes ./cam.h5"),
        ((EXPLAIN, replace(CRF, output="./cam.h5")), "an earlier command writes ./cam.h5, too"),
    ],
)
def test_commands_in_the_wrong_order_are_refused(submit, jobs, told):
    with pytest.raises(UsageError, match=told):
        submit(jobs, Cluster())


def test_a_merge_has_the_options_of_its_command(submit):
    jobs, _ = submit([replace(EXPLAIN, merge_options=("--overwrite", "--allow-missing"))], Cluster(shards=2))
    assert "xseg merge --overwrite --allow-missing -o cam.h5" in jobs[1][1]


def test_another_number_of_shards_has_other_files(submit):
    two = submit([EXPLAIN], Cluster(shards=2))[0][1][1]
    three = submit([EXPLAIN], Cluster(shards=3))[0][3][1]
    shards = [{word for word in script.split() if ".shards/" in word} for script in (two, three)]
    assert [len(names) for names in shards] == [2, 3]
    assert not shards[0] & shards[1]


@pytest.mark.parametrize("cores", [None, "6"])
def test_the_step_gets_the_cores_of_its_job(submit, tmp_path, monkeypatch, cores):
    (_, script), *_ = submit([EXPLAIN], Cluster())[0]
    (tmp_path / "bin" / "srun").write_text('#!/bin/bash\necho "${SRUN_CPUS_PER_TASK-unset}"\n')
    (tmp_path / "bin" / "srun").chmod(0o755)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if cores:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", cores)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{cores or 'unset'}\n"


@pytest.mark.parametrize(
    ("status", "starts", "requeued"), [(75, 0, True), (75, 5, False), (0, 0, False), (3, 0, False)]
)
def test_a_job_that_was_cut_off_comes_back_a_few_times(submit, tmp_path, monkeypatch, status, starts, requeued):
    (_, script), *_ = submit([EXPLAIN], Cluster())[0]
    for name, body in (
        ("srun", f"exit {status}"),
        ("scontrol", f'echo "$@" > {tmp_path}/requeued'),
        ("sleep", "exit 0"),
    ):
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(starts))
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 7\n"
