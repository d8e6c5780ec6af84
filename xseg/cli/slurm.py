"""`xseg slurm`."""

import os
import re
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from xseg.cli.command import Context, app, command
from xseg.errors import UsageError
from xseg.runs.slurm import NOTICE, REQUEUES, Cluster, Job, submission
from xseg.stages import STAGES
from xseg.version import __version__

CommandsIn = Annotated[
    list[str], typer.Argument(metavar="COMMAND...", help="Quoted xseg commands in order, or '-': one a line on stdin.")
]
# What decides where and how Python and xseg run; everything else comes from the cluster.
RECORDED = (
    "PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "HF_HOME", "HF_HUB_OFFLINE", "TORCH_HOME",
    "XSEG_IMAGES", "XSEG_FACTORIES", "XSEG_FOLLOW_LINKS",
)  # fmt: skip
MERGE_TOO = {"overwrite": "--overwrite", "allow_missing": "--allow-missing"}
WRONG_LINE: Any = typer.BadParameter.__base__  # click's UsageError, wherever this typer keeps click


@command("slurm")
def slurm(
    context: Context,
    commands: CommandsIn,
    shards: Annotated[int, typer.Option(min=1, help="Array tasks per command that can be sharded.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of a training; other jobs get one, or none if 0.")] = 0,
    account: Annotated[str | None, typer.Option(help="As in sbatch.")] = None,
    partition: Annotated[str | None, typer.Option(help="As in sbatch.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit of each job, as in sbatch.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="Cores per task.")] = None,
    mem: Annotated[str | None, typer.Option(help="Memory per node, as in sbatch.")] = None,
    sbatch: Annotated[list[str] | None, typer.Option(metavar="OPTION", help="A further option of sbatch.")] = None,
    setup: Annotated[list[str] | None, typer.Option(metavar="LINE", help="Shell line before each command.")] = None,
    logs: Annotated[str, typer.Option(help="Directory for the logs.")] = "slurm-logs",
    requeues: Annotated[int, typer.Option(min=0, help="Starts after a job was cut off.")] = REQUEUES,
    notice: Annotated[int, typer.Option(min=1, help="Seconds before the time limit to stop at.")] = NOTICE,
    xseg: Annotated[str | None, typer.Option(help="What starts xseg on the nodes; default: this Python.")] = None,
) -> None:
    """Print a script that submits commands to SLURM; nothing is submitted.

    Commands that take --shard become arrays, merged afterwards. A command waits for those whose output it reads.

    Example: xseg slurm "explain cls.h5 VOC2012 -o cam.h5" "crf cam.h5 -o labels.h5" --shards 8 --gpus 1 > chain.sh

    Example: xseg slurm "train-cls VOC2012 --model resnet50 --weights hub -o cls.h5" --gpus 4 --time 8:00:00 | bash
    """
    lines = [line for text in commands for line in (_from_stdin() if text == "-" else [text])]
    jobs = [_job(line) for line in lines]
    if not jobs:
        raise UsageError("no command", 'for example: xseg slurm "explain cls.h5 VOC2012 -o cam.h5" --shards 8')
    cluster = Cluster(
        shards=shards,
        gpus=gpus,
        account=account,
        partition=partition,
        time=time,
        cpus=cpus,
        mem=mem,
        more=tuple(sbatch or ()),
        logs=logs,
        setup=tuple(setup or ()),
        environment={name: os.environ[name] for name in RECORDED if os.environ.get(name)},
        requeues=requeues,
        notice=notice,
    )
    started_by = [sys.executable, "-m", "xseg"] if xseg is None else _words(xseg)
    if not started_by:
        raise UsageError(f"--xseg {xseg!r}: names no program", "for example --xseg ~/xseg/bin/xseg")
    moment = datetime.now().astimezone().isoformat(timespec="seconds")
    origin = f"xseg {__version__}, {moment}, in {str(Path.cwd())!r}"
    context.stdout.line(_printable(submission(jobs, cluster, started_by, origin)).rstrip("\n"))


def _from_stdin() -> list[str]:
    if sys.stdin.isatty():
        raise UsageError("standard input is a terminal", "give it the commands, one a line: xseg slurm - < chain.txt")
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 (byte {error.start})", "give commands, one a line") from error
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _printable(script: str) -> str:
    try:
        script.encode()
    except UnicodeEncodeError as error:
        near = script[max(0, error.start - 40) : error.end]
        raise UsageError(f"{near!r}: not UTF-8", "a script cannot name such a file: rename it") from error
    return script


def _words(line: str) -> list[str]:
    if "\0" in line:
        raise UsageError(f"{line!r}: has a zero byte", "no file name has one: write the line again")
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{line!r}: {error}", "quote it as for a shell") from error


def _job(line: str) -> Job:
    """A command line as a job; it is parsed by the command itself, so a wrong option is told now and not at night."""
    words = _words(line)
    if words[:1] == ["xseg"]:
        words = words[1:]
    group: Any = get_command(app)
    known = {row.name for row in STAGES} - {"slurm"}
    if not words or words[0] not in known:
        raise UsageError(f"{line!r}: not an xseg command", f"one of {', '.join(sorted(known))}")
    name, *arguments = words
    parsed = group.commands[name]
    try:
        values = parsed.make_context(name, list(arguments)).params
    except WRONG_LINE as error:
        raise UsageError(f"{line!r}: {error.format_message()}", f"see xseg {name} --help") from error
    except typer.Exit as error:
        raise UsageError(f"{line!r}: only prints help", "leave out --help") from error
    _check(line, values)
    output, rest = _without_output(arguments)
    if output != _output(values):
        raise UsageError(f"{line!r}: cannot tell the output from the rest", "write -o FILE after the command's name")
    return Job(
        name,
        tuple(rest),
        output,
        inputs=frozenset(word.partition("=")[2] if word.startswith("--") else word for word in rest) - {""},
        merge_options=tuple(option for key, option in MERGE_TOO.items() if values.get(key)),
        shards="shard" in values,
        accelerated="device" in values,
        trains=name in {"train-cls", "train-guided", "affinity-train", "train-seg"},
    )


def _output(values: dict[str, Any]) -> str | None:
    return values.get("output", values.get("score_output"))


def _check(line: str, values: dict[str, Any]) -> None:
    output = _output(values)
    if output in {"", "-"} or ("output" in values and output is None):
        raise UsageError(f"{line!r}: a job has no pipe to write into", "give it -o FILE")
    if values.get("shard"):
        raise UsageError(f"{line!r}: shards are made here", "leave out --shard and use: xseg slurm --shards N")
    if any("-" in (value if isinstance(value, list | tuple) else [value]) for value in values.values()):
        raise UsageError(f"{line!r}: a job has no standard input to read", "name the file")


def _without_output(arguments: list[str]) -> tuple[str | None, list[str]]:
    output, rest, words = None, [], iter(arguments)
    for word in words:
        short = re.fullmatch(r"-([qv]*)o(.*)", word, re.DOTALL)  # -qo FILE is -q -o FILE
        if word == "--output" or (short and not short[2]):
            output = next(words, None)
        elif short:
            output = short[2]
        elif word.startswith("--output="):
            output = word.partition("=")[2]
        else:
            rest.append(word)
        if short and short[1]:
            rest.append(f"-{short[1]}")
    return output, rest
