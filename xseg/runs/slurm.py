"""Scripts that submit xseg commands to SLURM: arrays of shards, merges after them, requeues of what was cut off."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os.path import realpath

from xseg.errors import UsageError

REQUEUES = 5  # a job that dies every time would otherwise come back for ever
NOTICE = 120  # seconds before the time limit at which a job is told to stop
_TIME = re.compile(r"-1|infinite|unlimited|\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}", re.IGNORECASE)
_SPECIAL = frozenset(" \"'\\#%")  # end, quote, escape or comment in an #SBATCH line, and fields of a log's name


@dataclass(frozen=True)
class Job:
    """One xseg command.

    Attributes:
        name: of the command, `explain` say.
        arguments: what follows it, without `-o`.
        output: what follows `-o`; None where nothing is written.
        inputs: other words that may be paths.
        shards: whether the command takes `--shard`.
        accelerated: whether it can use a GPU.
        trains: whether several processes can work on it together.
        merge_options: options of the command that the merge of its shards needs, too.
    """

    name: str
    arguments: tuple[str, ...]
    output: str | None = None
    inputs: frozenset[str] = frozenset()
    shards: bool = False
    accelerated: bool = False
    trains: bool = False
    merge_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """What is asked of the cluster; None leaves it to the cluster's defaults.

    Attributes:
        shards: array tasks per command that can be sharded; 1 for no array.
        gpus: GPUs of a training; every other job that can use one gets one, none if this is 0.
        account, partition, time, cpus, mem: as in sbatch; `cpus` per task.
        more: further sbatch options, as `--constraint=a100`.
        logs: directory for the jobs' logs.
        setup: shell lines run before the command, as `module load cuda`.
        environment: variables exported before the command.
        requeues: how often a job that was cut off is put back into the queue.
        notice: seconds before the time limit at which a job is told to stop.

    Raises:
        UsageError: a value that cannot stand in a line of its own, as SLURM reads them.
    """

    shards: int = 1
    gpus: int = 0
    account: str | None = None
    partition: str | None = None
    time: str | None = None
    cpus: int | None = None
    mem: str | None = None
    more: tuple[str, ...] = ()
    logs: str = "slurm-logs"
    setup: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    requeues: int = REQUEUES
    notice: int = NOTICE

    def __post_init__(self) -> None:
        for option in ("account", "partition", "time", "mem", "logs"):
            _check_word(f"--{option}", getattr(self, option))
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise UsageError(f"--time {self.time}: not a time", "for example 90 (minutes), 8:00:00 or 2-12:00:00")
        for option in self.more:
            if not option.startswith("-") or not option.isprintable():
                raise UsageError(f"--sbatch {option!r}: not an option", "for example --sbatch=--constraint=a100")
        for line in self.setup:
            if "\n" in line:
                raise UsageError(f"--setup {line!r}: more than one line", "give --setup once for each line")


def _check_word(option: str, value: str | None) -> None:
    # SLURM quotes unlike a shell, so what would need quotes is refused.
    if value is not None and (not value or not value.isprintable() or _SPECIAL & set(value)):
        hint = "leave out blanks, control characters, quotes, backslashes, # and %"
        raise UsageError(f"{option} {value!r}: not one plain word", hint)


def submission(jobs: Sequence[Job], cluster: Cluster, xseg: Sequence[str], origin: str) -> str:
    """A bash script that submits `jobs`, each after those whose output it reads.

    Args:
        jobs: in the order they depend on each other.
        cluster: what is asked for.
        xseg: the words that start xseg on the nodes.
        origin: a line that says where the script comes from.
    """
    lines = [
        "#!/usr/bin/env bash",
        f"# {origin}",
        "# Submits its jobs and prints their numbers: bash THIS_FILE [options for every sbatch]",
        "set -euo pipefail",
        f"mkdir -p -- {shlex.quote(cluster.logs)}",
    ]
    made: dict[str, str] = {}  # output -> shell variable with the number of the job that finishes it
    for number, (job, waits) in enumerate(zip(jobs, _read_from(jobs), strict=True)):
        after = sorted({made[path] for path in waits})
        variable = f"job{number}"
        split = job.shards and cluster.shards > 1
        lines += _submit(variable, _body(job, cluster, xseg, split), after, f"xseg {job.name}")
        if split:
            lines += _submit(f"{variable}m", _merge(job, cluster, xseg), [variable], f"xseg merge ({job.output})")
            variable += "m"
        if job.output is not None:
            made[realpath(job.output)] = variable
    return "\n".join(lines) + "\n"


def shard_files(output: str, shards: int) -> list[str]:
    """The shards of `output`, until they are merged; those of another number of shards have other names."""
    return [f"{_directory(output)}/{number}-of-{shards}.h5" for number in range(shards)]


def _directory(output: str) -> str:
    return f"{output}.shards"


def _read_from(jobs: Sequence[Job]) -> list[set[str]]:
    """Which outputs of earlier jobs each job reads.

    Raises:
        UsageError: a job reads what only a later one writes, or two write the same file.
    """
    written = [realpath(job.output) if job.output is not None else None for job in jobs]
    found = []
    for number, job in enumerate(jobs):
        read = {realpath(name): name for name in job.inputs}
        before, after = set(written[:number]), set(written[number + 1 :])
        if written[number] is not None and written[number] in before:
            raise UsageError(f"xseg {job.name}: an earlier command writes {job.output}, too", "give it another name")
        if late := [name for path, name in read.items() if path in after - before]:
            raise UsageError(f"xseg {job.name}: only a later command writes {late[0]}", "change the order of the lines")
        found.append(read.keys() & before)
    return found


def _submit(variable: str, body: Iterator[str], after: Sequence[str], what: str) -> list[str]:
    # A dependant of a failed job would wait for ever without --kill-on-invalid-dep.
    numbers = ":".join(f"${{{name}}}" for name in after)
    waits = f"--dependency=afterok:{numbers} --kill-on-invalid-dep=yes " if after else ""
    text, end = "\n".join(body), "JOB"
    while end in text.split("\n"):  # file names may have line breaks
        end += "_"
    return [
        "",
        f"{variable}=$(sbatch --parsable {waits}\"$@\" <<'{end}'",
        text,
        end,
        ")",
        f"{variable}=${{{variable}%%;*}}",  # "number;cluster" on federations
        f"printf '%s %s\\n' \"${variable}\" {shlex.quote(what)}",
    ]


def _body(job: Job, cluster: Cluster, xseg: Sequence[str], split: bool) -> Iterator[str]:
    together = cluster.gpus > 1 and job.trains
    yield from _head(f"xseg-{job.name}", cluster, array=cluster.shards if split else 0)
    if together:
        yield f"#SBATCH --ntasks={cluster.gpus}"
        yield "#SBATCH --gpus-per-task=1"
    elif cluster.gpus and job.accelerated:
        yield "#SBATCH --gres=gpu:1"
    yield from _environment(cluster)
    command = shlex.join([*xseg, job.name])
    # The output stands before the words as they were typed: there may be a "--" among them.
    if split:
        directory, count = shlex.quote(_directory(str(job.output))), cluster.shards
        yield f"mkdir -p -- {directory}"
        command += f' --shard "$SLURM_ARRAY_TASK_ID/{count}" -o {directory}/"$SLURM_ARRAY_TASK_ID"-of-{count}.h5'
    elif job.output is not None:
        command += f" -o {shlex.quote(job.output)}"
    yield from _run(f"{command} {shlex.join(job.arguments)}".rstrip(), cluster)


def _merge(job: Job, cluster: Cluster, xseg: Sequence[str]) -> Iterator[str]:
    yield from _head("xseg-merge", cluster)
    yield from _environment(cluster)
    output = str(job.output)
    words = [*xseg, "merge", *job.merge_options, "-o", output, "--", *shard_files(output, cluster.shards)]
    yield from _run(shlex.join(words), cluster)


def _head(name: str, cluster: Cluster, array: int = 0) -> Iterator[str]:
    yield "#!/usr/bin/env bash"
    yield f"#SBATCH --job-name={name}"
    if array:
        yield f"#SBATCH --array=0-{array - 1}"
    asked = {
        "account": cluster.account,
        "partition": cluster.partition,
        "time": cluster.time,
        "cpus-per-task": cluster.cpus,
        "mem": cluster.mem,
    }
    yield from (f"#SBATCH --{key}={value}" for key, value in asked.items() if value is not None)
    yield f"#SBATCH --output={cluster.logs}/%x-{'%A_%a' if array else '%j'}.log"
    # USR1 goes to the steps, not to this script: xseg publishes what is finished and exits 75.
    yield f"#SBATCH --requeue --open-mode=append --signal=USR1@{cluster.notice}"
    yield from (f"#SBATCH {option}" for option in cluster.more)


def _environment(cluster: Cluster) -> Iterator[str]:
    yield "set -euo pipefail"
    # From 22.05 on srun does not take this over from sbatch.
    yield 'if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi'
    yield from (f"export {key}={shlex.quote(value)}" for key, value in cluster.environment.items())
    yield from cluster.setup


def _run(command: str, cluster: Cluster) -> Iterator[str]:
    yield "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}; job=${job:-$SLURM_JOB_ID}"
    yield 'echo "job $job on $(hostname), start ${SLURM_RESTART_COUNT:-0}, $(date -Is)" >&2'
    yield "status=0"
    yield f"srun {command} || status=$?"
    yield f'if [ "$status" = 75 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {cluster.requeues} ]; then'
    yield '    echo "job $job was cut off: back into the queue" >&2'
    yield '    scontrol requeue "$job"'
    yield "    sleep 60  # until SLURM ends this script; an exit status would count as a failure"
    yield "fi"
    yield 'exit "$status"'
