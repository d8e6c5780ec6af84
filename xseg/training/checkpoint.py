"""Checkpoints beside the output: a kill at any moment leaves a readable one, and reading one runs no code."""

import hashlib
import io
import logging
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from xseg.artifacts.publish import output_errors, publish
from xseg.classifier.weights import UNREADABLE
from xseg.errors import BadInput, CannotCreate, OutputFailed

log = logging.getLogger(__name__)

_DIGEST = hashlib.sha256().digest_size


def _encoded(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    # Torch reads numbers that a disk has changed as if they were right.
    return data + hashlib.sha256(data).digest()


def _decoded(data: bytes) -> dict[str, Any]:
    saved, digest = data[:-_DIGEST], data[-_DIGEST:]
    if hashlib.sha256(saved).digest() != digest:
        raise ValueError("damaged or cut off: its digest does not match")
    return torch.load(io.BytesIO(saved), "cpu", weights_only=True)


class Checkpoint:
    """The directory `OUT.checkpoint` with `last.pt`, `previous.pt` and the identity of the run that owns it.

    Args:
        output: the final path OUT.
        run: identity of the run; a checkpoint of another run is never used.
        seconds: how long to train between two saves.
        steps: also save every so many steps; None leaves it to `seconds`.
    """

    def __init__(self, output: Path, run: str, *, seconds: float = 60.0, steps: int | None = None) -> None:
        self.directory = output.with_name(output.name + ".checkpoint")
        self.run = run
        self._seconds, self._steps = seconds, steps
        self._saved = time.monotonic()

    def claim(self) -> None:
        """Make the directory this run's; call before any work.

        Raises:
            CannotCreate: it belongs to another run, or cannot be created.
        """
        owner = self.directory / "run"
        if self.directory.exists() and not self.directory.is_dir():
            raise CannotCreate(
                f"{self.directory} is in the way: it is not a directory", "choose another -o, or remove it"
            )
        with output_errors(self.directory):
            self.directory.mkdir(exist_ok=True)
            if not self._owner():
                with suppress(CannotCreate):  # another process was faster; whose claim stands is looked up below
                    publish(owner, lambda file: file.write(self.run.encode()), overwrite=owner.exists())
            found = self._owner()
        if found != self.run:
            raise self._foreign(self.directory, found)
        for leftover in self.directory.glob("tmp-*"):
            leftover.unlink(missing_ok=True)
        self._saved = time.monotonic()

    def _owner(self) -> str:
        """The run it belongs to; empty if it belongs to none yet, or to one killed before anything was trained."""
        try:
            return (self.directory / "run").read_text(errors="replace")
        except OSError:
            return ""

    def load(self) -> dict[str, Any] | None:
        """The newest readable state, or None if there is none yet.

        Raises:
            CannotCreate: it belongs to another run.
            BadInput: there are checkpoints, but none can be read.
        """
        files = [path for name in ("last.pt", "previous.pt") if (path := self.directory / name).exists()]
        for path in files:
            try:
                state = _decoded(path.read_bytes())
                found = state["run"]
            except UNREADABLE as error:
                log.warning("%s cannot be read (%s)", path, (str(error) or type(error).__name__).splitlines()[0])
                continue
            if found != self.run:
                raise self._foreign(path, found)
            return state
        if files:
            raise BadInput(
                f"{self.directory}: no checkpoint in it can be read", f"rm -r {self.directory} and start again"
            )
        return None

    def due(self, step: int) -> bool:
        """Whether the state after `step` steps should be saved now."""
        waited = time.monotonic() - self._saved >= self._seconds
        return waited or (self._steps is not None and step % self._steps == 0)

    def save(self, state: dict[str, Any]) -> None:
        """Publish `state` as last.pt; the last one becomes previous.pt.

        Raises:
            OutputFailed: it cannot be written, as on a full disk; what was there stays.
        """
        last, temporary = self.directory / "last.pt", ""
        try:
            with tempfile.NamedTemporaryFile(dir=self.directory, prefix="tmp-", delete=False) as file:
                temporary = file.name
                file.write(_encoded({**state, "run": self.run}))
                file.flush()
                os.fsync(file.fileno())
            if last.exists():
                last.replace(self.directory / "previous.pt")
            Path(temporary).replace(last)
            self._sync()
        except OSError as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise OutputFailed(
                f"{last}: cannot be written ({error.strerror})", "free some space, then run the same command"
            ) from error
        self._saved = time.monotonic()

    def is_foreign(self) -> bool:
        """Whether the directory belongs to another run."""
        return self._owner() not in {"", self.run}

    def remove(self) -> None:
        """Delete the directory and what runs wrote into it, nothing else."""
        with suppress(OSError):
            for path in (
                *map(self.directory.joinpath, ("last.pt", "previous.pt", "run")),
                *self.directory.glob("tmp-*"),
                *self.directory.glob(".*.tmp"),
            ):
                path.unlink(missing_ok=True)
            self.directory.rmdir()

    def _sync(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _foreign(self, path: Path, found: object) -> CannotCreate:
        return CannotCreate(
            f"{path} belongs to another run ({str(found)[:12]}, this one is {self.run[:12]})",
            f"repeat that run's command to finish it, choose another --output, or rm -r {self.directory}",
        )
