"""Scripts that submit xseg commands to SLURM: arrays of shards, merges after them, requeues of what was cut off."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

REQUEUES = 5  # a job that dies every time would otherwise come back for ever
NOTICE = 120  # seconds before the time limit at which a job is told to stop


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
    """

    name: str
    arguments: tuple[str, ...]
    output: str | None = None
    inputs: frozenset[str] = frozenset()
    shards: bool = False
    accelerated: bool = False
    trains: bool = False


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
        f"mkdir -p {shlex.quote(cluster.logs)}",
    ]
    made: dict[str, str] = {}  # output -> shell variable with the number of the job that finishes it
    for number, job in enumerate(jobs):
        after = sorted({made[path] for path in job.inputs if path in made})
        variable = f"job{number}"
        split = job.shards and cluster.shards > 1
        lines += _submit(variable, _body(job, cluster, xseg, split), after, f"xseg {job.name}")
        if split:
            lines += _submit(f"{variable}m", _merge(job, cluster, xseg), [variable], f"xseg merge ({job.output})")
            variable += "m"
        if job.output is not None:
            made[job.output] = variable
    return "\n".join(lines) + "\n"


def shard_files(output: str) -> str:
    """Directory that holds the shards of `output` until they are merged."""
    return f"{output}.shards"


def _submit(variable: str, body: Iterator[str], after: Sequence[str], what: str) -> list[str]:
    # A dependant of a failed job would wait for ever without --kill-on-invalid-dep.
    numbers = ":".join(f"${{{name}}}" for name in after)
    waits = f"--dependency=afterok:{numbers} --kill-on-invalid-dep=yes " if after else ""
    return [
        "",
        f"{variable}=$(sbatch --parsable {waits}\"$@\" <<'JOB'",
        *body,
        "JOB",
        ")",
        f'{variable}=${{{variable}%%;*}}; echo "${variable} {what}"',  # "number;cluster" on federations
    ]


def _body(job: Job, cluster: Cluster, xseg: Sequence[str], split: bool) -> Iterator[str]:
    together = cluster.gpus > 1 and job.trains
    yield from _head(f"xseg-{job.name}", cluster, array=cluster.shards if split else 0)
    if together:
        yield f"#SBATCH --ntasks={cluster.gpus}"
        yield "#SBATCH --gpus-per-task=1"
    elif cluster.gpus and job.accelerated:
        yield "#SBATCH --gres=gpu:1"
    words = [*xseg, job.name, *job.arguments]
    command = shlex.join(words)
    if split:
        directory = shlex.quote(shard_files(str(job.output)))
        yield from _environment(cluster)
        yield f"mkdir -p {directory}"
        command += f' --shard "$SLURM_ARRAY_TASK_ID/{cluster.shards}" -o {directory}/"$SLURM_ARRAY_TASK_ID".h5'
    else:
        yield from _environment(cluster)
        command += f" -o {shlex.quote(job.output)}" if job.output else ""
    yield from _run(command, cluster)


def _merge(job: Job, cluster: Cluster, xseg: Sequence[str]) -> Iterator[str]:
    directory = shlex.quote(shard_files(str(job.output)))
    yield from _head("xseg-merge", cluster)
    yield from _environment(cluster)
    files = " ".join(f"{directory}/{number}.h5" for number in range(cluster.shards))
    yield from _run(f"{shlex.join(xseg)} merge {files} -o {shlex.quote(str(job.output))}", cluster)


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
