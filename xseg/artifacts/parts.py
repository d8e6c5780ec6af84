"""The directory of parts beside an output: claimed by one run, filled part by part, joined, removed."""

import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from xseg.artifacts.decode import Part
from xseg.artifacts.encode import encode
from xseg.artifacts.header import Header, canonical
from xseg.artifacts.publish import output_errors, publish
from xseg.artifacts.record import Failure, Record
from xseg.errors import BadInput, CannotCreate, XsegError

_OPEN_PARTS = 16


class PartDirectory:
    """`OUT.parts/`: the finished images of a run that has not ended yet.

    Args:
        output: the artifact the parts will become.
        header: identity of the run; parts of another run are never mixed in.
    """

    def __init__(self, output: Path, header: Header) -> None:
        self.path = output.with_name(output.name + ".parts")
        self._output = output
        self._header = header

    def claim(self, *, resume: bool, overwrite: bool) -> None:
        """Create the directory, or take over one that this run left behind.

        Raises:
            CannotCreate: it belongs to another run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise CannotCreate(f"{self.path} is in the way: it is not a directory", "choose another -o, or remove it")
        owner = self._owner()
        ours = self._identity()
        if owner is not None and owner != ours and not overwrite:
            raise CannotCreate(
                f"{self.path} holds unfinished work of another run (other options, inputs or images)",
                f"finish that run, choose another -o, or start anew with --overwrite (or: rm -r {self.path})",
            )
        # Without an owner it may be that of a process of this run that is just starting.
        if owner is not None and (owner != ours or not resume):
            self.remove()
        with output_errors(self.path):
            self.path.mkdir(exist_ok=True)
        if not (self.path / "run").exists():
            with suppress(CannotCreate):  # a process of the same run was faster
                publish(self.path / "run", lambda file: file.write(canonical(ours).encode()))
            if self._owner() != ours:
                raise CannotCreate(f"{self.path} was claimed by another run just now", "choose another -o")

    def _identity(self) -> dict[str, object]:
        work = self._header.work
        return {"run": self._header.run, "worklist": work.sha256 if work else "", "shard": self._header.shard}

    def _owner(self) -> dict[str, object] | None:
        try:
            return json.loads((self.path / "run").read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {}

    def files(self) -> list[Path]:
        """The published parts."""
        return sorted(self.path.glob("*.h5"))

    def write(self, records: Sequence[Record], failures: Sequence[Failure]) -> None:
        """Publish one part; if another process already published these images, theirs stays.

        Raises:
            CannotCreate: the directory is gone.
            OutputFailed: no space is left.
        """
        header = self._header
        indices = [record.index for record in records] + [failure.index for failure in failures]
        stem = f"{min(indices):08d}-{max(indices) + 1:08d}"
        ordered = sorted(records, key=lambda record: record.index)
        for attempt in itertools.count():
            path = self.path / (f"{stem}.h5" if attempt == 0 else f"{stem}.{attempt}.h5")
            if not path.exists():
                try:
                    publish(path, lambda file: encode(file, header, ordered, failures))
                    return
                except CannotCreate:
                    if not path.exists():
                        raise
            if self._holds(path, ordered):
                return

    def _holds(self, path: Path, records: Sequence[Record]) -> bool:
        with suppress(XsegError), Part(path, str(path)) as part:
            return set(part.digests) >= {record.digest for record in records} and bool(records)
        return False

    def remove_leftover(self) -> None:
        """Delete what a kill between publishing and tidying up left behind; another run's parts stay."""
        if self._owner() == self._identity():
            self.remove()

    def remove(self) -> None:
        """Delete the directory and what runs wrote into it, nothing else."""
        with suppress(OSError):
            for path in (*self.files(), *self.path.glob(".*.tmp"), self.path / "run"):
                path.unlink(missing_ok=True)
            self.path.rmdir()


class Shelf:
    """Random access to the images of several files, with only a few of them open at once."""

    def __init__(
        self, files: Iterable[Path], header: Header, *, drop: Callable[[Path, XsegError], None] | None = None
    ) -> None:
        """Index the files.

        Args:
            files: artifacts or parts.
            header: only images of this run and work list are accepted.
            drop: called with a damaged file, which is then left out; by default the error is raised.

        Raises:
            BadInput: a file is damaged, or an image is there twice with different data.
        """
        self.places: dict[int, tuple[Path, int, str]] = {}
        self.failures: dict[int, Failure] = {}
        self._open: OrderedDict[Path, Part] = OrderedDict()
        for file in files:
            try:
                self._add(file, header)
            except XsegError as error:
                if drop is None:
                    raise
                drop(file, error)
        for index in self.places:
            self.failures.pop(index, None)

    def _add(self, file: Path, header: Header) -> None:
        with Part(file, str(file)) as part:
            if not part.header.same_work(header):
                raise BadInput(f"{file} belongs to another run", "remove it")
            for _ in part.records():
                pass  # reading verifies every digest
            found: dict[int, tuple[Path, int, str]] = {}
            for position, index in enumerate(part.index.tolist()):
                known = self.places.get(index) or found.setdefault(index, (file, position, part.digests[position]))
                if known[2] != part.digests[position]:
                    raise BadInput(f"{file}: {part.ids[position]} differs from the same image in {known[0]}")
            self.places = found | self.places  # only now: of a damaged file nothing is taken
            self.failures.update({failure.index: failure for failure in part.failures})

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def record(self, index: int) -> Record:
        """The image at `index` of the work list, verified."""
        file, position, _ = self.places[index]
        if file not in self._open:
            if len(self._open) >= _OPEN_PARTS:
                self._open.popitem(last=False)[1].close()
            self._open[file] = Part(file, str(file))
        self._open.move_to_end(file)
        return self._open[file].record(position)

    def records(self) -> Iterator[Record]:
        """Every image in order of the work list."""
        return (self.record(index) for index in sorted(self.places))

    def ordered_failures(self) -> list[Failure]:
        """Images that failed and did not succeed later, in order."""
        return [self.failures[index] for index in sorted(self.failures)]


def join(
    files: Sequence[Path], header: Header, output: Path, *, needed: Iterable[int] = (), overwrite: bool = False
) -> None:
    """Write the images of all files into one artifact.

    Args:
        files: artifacts or parts.
        header: of the result.
        output: its name.
        needed: positions of the work list that must be there, done or failed.
        overwrite: replace an existing file.

    Raises:
        BadInput: a file is damaged or has vanished.
        CannotCreate: the name is taken.
        OutputFailed: no space is left; the parts stay.
    """
    with Shelf(files, header) as shelf:
        failures = shelf.ordered_failures()
        lost = set(needed) - shelf.places.keys() - shelf.failures.keys()
        if lost:
            raise BadInput(f"{output}: {len(lost)} finished images are gone from its parts", "run the command again")
        publish(output, lambda file: encode(file, header, shelf.records(), failures), overwrite=overwrite)


def discard(path: Path) -> None:
    """Delete a damaged part, so that its images are made again."""
    with suppress(OSError):
        path.unlink()
