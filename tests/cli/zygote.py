"""A process that has imported everything and forks one `xseg` process per request.

Importing torch takes seconds, a command on tiny data a fraction of one. What is forked is otherwise the real thing: a
process of its own with real descriptors, signals and status, that enters by `xseg.cli.main`. Requests and answers
are JSON lines. A request may ask for a death at the n-th call of a function: the same as `kill -9`, at a chosen moment.
"""

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import PIL.Image
import torch

import xseg.affinity.step
import xseg.classifier.step
import xseg.heatmaps.step
import xseg.labels.step
import xseg.runs.merge
import xseg.scores.step  # noqa: F401 - all of these are imported for the children
from xseg.cli import main
from xseg.device import torchvision_ready

torchvision_ready()
importlib.import_module("timm")
with suppress(ImportError):
    importlib.import_module("xseg.labels.fused")


def serve() -> None:
    """Fork, or tell how a forked process ended, until standard input closes."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_poll(request["poll"]) if "poll" in request else _fork(request)), flush=True)


def _poll(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _fork(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        _become(request)
    return pid


def _become(request: dict[str, Any]) -> None:
    for descriptor, name in enumerate(request["streams"]):
        os.dup2(os.open(name, _flags(descriptor, name), 0o644), descriptor)
    sys.stdin = os.fdopen(0, closefd=False)
    os.environ.update(request["env"])
    for name, value in request["settings"].items():
        setattr(*_owner(name), value)
    if request["die_at"]:
        _die_at(*request["die_at"])
    if request["noise"]:
        _at_every_image(lambda: (print("NOISE"), os.write(1, b"NOISE\n")))
    if request["slow_images"]:
        _at_every_image(lambda: time.sleep(request["slow_images"]))
    sys.argv = ["xseg", *request["args"]]
    try:
        main()
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else 1)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(1)


def _flags(descriptor: int, name: str) -> int:
    if descriptor == 0:
        return os.O_RDONLY
    # A pipe that its writer could read itself would never tell it that the reader is gone.
    return os.O_WRONLY if Path(name).is_fifo() else os.O_RDWR | os.O_CREAT | os.O_APPEND


def _at_every_image(work: Callable[[], object]) -> None:
    """Something that happens whenever a picture is opened."""
    real = PIL.Image.open

    def opened(*args: Any, **how: Any) -> PIL.Image.Image:
        work()
        return real(*args, **how)

    PIL.Image.open = opened  # type: ignore[assignment]


def _owner(name: str) -> tuple[Any, str]:
    """What `module:a.b` is an attribute of, and its name there."""
    module, _, attribute = name.partition(":")
    owner = importlib.import_module(module)
    *outer, last = attribute.split(".")
    for part in outer:
        owner = getattr(owner, part)
    return owner, last


def _die_at(name: str, number: int) -> None:
    owner, last = _owner(name)
    real, count = getattr(owner, last), 0

    def called(*args: Any, **how: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **how)

    setattr(owner, last, called)


if __name__ == "__main__":
    serve()
