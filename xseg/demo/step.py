"""The step `demo`: data, the chain's commands one after the other, and a table of what each stage scores."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xseg.datasets.synthetic import write_synthetic
from xseg.demo.commands import IMAGES, Step, data_directory, steps
from xseg.errors import CannotCreate, Status, XsegError
from xseg.exchange.png import write_whole
from xseg.runs.runtime import Runtime
from xseg.version import __version__

STAGES = ("centre-prior", "seed", "walk", "masks")
# One thread gives the same numbers on every number of cores; several are no faster on pictures this small.
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
_POLL = 0.2  # seconds between two looks whether a stop was asked for


@dataclass(frozen=True)
class Score:
    """mIoU of one stage in [0, 1] at its threshold (None: by argmax), and the best of a sweep over the truth."""

    miou: float
    threshold: float | None
    best: float | None


def demo(directory: Path, images: int | None, runtime: Runtime) -> dict[str, Any]:
    """Run the whole chain in `directory`, or finish a run that was cut off there.

    Args:
        directory: made if it is not there; a directory of other things is refused.
        images: how many are drawn; None: 320.
        runtime: shared options; `seed` is that of the data set.

    Returns:
        JSON-able: `directory`, `seed`, `images`, `stages` {name: {miou, threshold, best}}, `pictures`, `seconds`.

    Raises:
        CannotCreate: the directory holds something else, or a demo with other settings.
        Stopped: a signal asked for an end; run it again to continue.
        XsegError: a command failed; it ends with the same status.
    """
    started = time.monotonic()
    _claim(directory, {"seed": runtime.seed, "images": images or IMAGES, "version": __version__})
    data = data_directory(directory)
    if not data.exists():
        runtime.reporter.note(f"drawing {images or IMAGES} images into {data}")
        write_synthetic(data, images=images or IMAGES, seed=runtime.seed)
    kept = directory / "scores.json"
    planned = list(steps(directory))
    if not (kept.exists() and all(step.output is None or step.output.exists() for step in planned)):
        scores: dict[str, Score] = {}
        runtime.reporter.note("$ export " + " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items()))
        for step in planned:
            scores |= _run(step, runtime)
        result = {name: scores[name].__dict__ for name in STAGES}
        write_whole(kept, json.dumps(result, indent=1).encode())
    return {
        "directory": str(directory),
        "seed": runtime.seed,
        "images": images or IMAGES,
        "stages": json.loads(kept.read_text()),
        "pictures": str(directory / "pictures"),
        "seconds": round(time.monotonic() - started, 1),
    }


def _claim(directory: Path, settings: Mapping[str, Any]) -> None:
    """Make the directory this demo's own, or see that it is."""
    note = directory / "demo.json"
    if note.exists():
        found = note.read_text()
        if found != json.dumps(settings):
            raise CannotCreate(
                f"{directory} holds a demo with other settings: {found}", "choose another directory, or remove it"
            )
        return
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CannotCreate(f"{directory}: exists and is no demo", "choose another directory: xseg demo DIR")
    write_whole(note, json.dumps(settings).encode())


def _run(step: Step, runtime: Runtime) -> dict[str, Score]:
    runtime.reporter.note(f"$ {shlex.join(('xseg', *step.arguments))}")
    process = subprocess.Popen(
        [sys.executable, "-m", "xseg", *step.arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    )
    output = _finished(process, runtime.stop)
    if runtime.stop() or process.returncode in {Status.STOPPED, Status.INTERRUPTED}:
        error = runtime.stop.stopped("the demo was stopped; finished work is kept", "run the same command again")
        error.status = error.status if runtime.stop() else Status(process.returncode)
        raise error
    if process.returncode:
        raise _failure(step, process.returncode)
    return _scores(step, output) if step.scores else {}


def _finished(process: "subprocess.Popen[str]", stop: Callable[[], bool]) -> str:
    """Standard output of a command, once it has ended; a stop is passed on to it."""
    told = False
    while True:
        try:
            return process.communicate(timeout=_POLL)[0]
        except subprocess.TimeoutExpired:
            if stop() and not told:
                process.terminate()
                told = True
        except BaseException:
            process.kill()
            raise


def _failure(step: Step, status: int) -> XsegError:
    command = shlex.join(("xseg", *step.arguments))
    error = XsegError(f"this command ended with status {status}: {command}", "its message stands above")
    error.status = Status(status) if status in set(Status) else Status.BUG
    return error


def _scores(step: Step, output: str) -> dict[str, Score]:
    read = json.loads(output)
    runs = read.get("runs", [read])
    return {
        name: Score(run["miou"], run["background_threshold"], run["best"]["miou"] if run["best"] else None)
        for name, run in zip(step.scores, runs, strict=True)
    }


def table(result: Mapping[str, Any]) -> str:
    """The stages and their mIoU as lines of text."""
    names = {
        "centre-prior": "a centred Gaussian (no learning)",
        "seed": "seed: CAM",
        "walk": "random walk",
        "masks": "masks: CRF",
    }
    lines = [f"{'stage':34}{'mIoU':>7}  {'background':26}{'best swept':>12}"]
    for key, name in names.items():
        score = result["stages"][key]
        how = "argmax" if score["threshold"] is None else f"threshold {score['threshold']:.2f}"
        how += ", tuned on train" if key == "seed" else ""
        best = "-" if score["best"] is None else f"{score['best']:.3f}"
        lines.append(f"{name:34}{score['miou']:7.3f}  {how:32}{best:>6}".rstrip())
    return "\n".join(lines)
