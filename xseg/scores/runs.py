"""What every protocol does alike: open the runs, pair images with what they are scored against, publish the result."""

import json
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from xseg.artifacts.encode import encode_result
from xseg.artifacts.header import Header
from xseg.artifacts.publish import check_writable, publish
from xseg.artifacts.record import Record
from xseg.artifacts.stream import first_part
from xseg.datasets.index import Dataset
from xseg.device import cores
from xseg.errors import BadInput, CannotCreate, InputMissing, NothingScored, Status
from xseg.runs.failed_images import FailedImages
from xseg.runs.images import final_status
from xseg.runs.photographs import Photograph, Photographs
from xseg.runs.runtime import Runtime
from xseg.runs.source import RecordSource
from xseg.scores.table import report

V = TypeVar("V")

Row = tuple[str, dict[str, Any]]
Outcome = tuple[dict[str, Any], list[Row], Status]
"""The JSON object, (heading, run) pairs for a table, and the exit status."""

_AHEAD = 8  # images read before they are needed


@dataclass(frozen=True)
class Opened:
    """The inputs of one run.

    Attributes:
        names: as given; the first is the run's heading.
        source: their records.
    """

    names: list[str]
    source: RecordSource

    @property
    def heading(self) -> str:
        """What the run is called in tables and JSON."""
        return self.names[0]


class Headed(Protocol):
    """What is scored on its own, and has a name for it."""

    @property
    def heading(self) -> str:
        """What the run is called in tables and JSON."""


H = TypeVar("H", bound=Headed)


def open_runs(inputs: Sequence[str], kinds: Sequence[str], runtime: Runtime) -> list[Opened]:
    """The runs among the inputs, in order of first appearance.

    Raises:
        BadInput: another kind of artifact, or images missing from one.
    """
    return [
        Opened(names, RecordSource(names, kinds, allow_missing=runtime.allow_missing, notice=runtime.reporter.note))
        for names in group_by_run(inputs)
    ]


def group_by_run(inputs: Sequence[str]) -> list[list[str]]:
    """The inputs of each run together, in order of first appearance; `-` stands alone."""
    groups: dict[str, list[str]] = {}
    for name in inputs:
        key = name
        if name != "-":
            with first_part(name) as part:
                key = part.header.run
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def score_runs(
    runs: Sequence[H], header: Header, score: Callable[[H], tuple[dict[str, Any], int]], runtime: Runtime
) -> Outcome:
    """Score run after run and publish the result, or tell the one that is there already.

    A run of which nothing could be scored is told and left out; the result names it under `unscored`.

    Args:
        runs: what `open_runs` opened, or other things with a heading.
        header: identity of the result.
        score: the run's JSON object, and how many of its images could not be scored.
        runtime: shared options.

    Raises:
        CannotCreate: the output holds something else, or cannot be created.
        NothingScored: of no run anything could be scored.
    """
    path = runtime.target.path
    if path is not None and (known := _known_result(path, header, runtime.overwrite)):
        runtime.reporter.note(f"{path} is complete already")
        return known, [(str(run["input"]), run) for run in known.get("runs", [known])], Status.OK
    replaces = path is not None and path.exists()
    rows: list[Row] = []
    failed, unscored = 0, dict[str, str]()
    for opened in runs:
        try:
            run, missed = score(opened)
        except NothingScored as nothing:
            if len(unscored) + 1 == len(runs):
                raise NothingScored(f"{opened.heading}: {nothing.problem}", nothing.hint) from nothing
            runtime.reporter.note(f"failed: {opened.heading}: {nothing}")
            unscored[opened.heading] = nothing.problem
            continue
        rows.append((opened.heading, run))
        failed += missed
    result = report(rows, several=len(runs) > 1)
    if unscored:
        result["unscored"] = unscored
    if path is not None:
        text = json.dumps(result, ensure_ascii=False, allow_nan=False)  # classes keep their order
        publish(path, lambda file: encode_result(file, header, text), overwrite=replaces)
    return result, rows, Status.SOME_FAILED if unscored else final_status(failed, runtime.max_failures)


def _known_result(path: Path, header: Header, overwrite: bool) -> dict[str, Any] | None:
    """The result of an equal evaluation that is at `path` already; one that lacked images or a run is made again.

    Raises:
        CannotCreate: something else is there and may not be replaced, or nothing can be created there.
    """
    check_writable(path)
    if not path.exists():
        return None
    try:
        with first_part(str(path)) as part:
            if part.header.run == header.run:
                result = part.result()
                lacking = "unscored" in result or any(run["missing"] for run in result.get("runs", [result]))
                return None if lacking else result
            found = f"{part.header.kind} of another run (other options, inputs or images)"
    except BadInput as error:
        found = f"something else ({error.problem})"
    if not overwrite:
        raise CannotCreate(f"{path} exists and holds {found}", "choose another -o, or use --overwrite")
    return None


def with_photographs(
    opened: Opened, dataset: Dataset | None, runtime: Runtime
) -> Iterator[tuple[Record, Photograph | BadInput | InputMissing]]:
    """The records of a run with their photographs, and progress towards the last one.

    Args:
        opened: the run.
        dataset: the images to use, looked for at its root; None: all of the run.
        runtime: shared options; at most `limit` images.
    """
    source = opened.source
    total = len(dataset) if dataset else source.header.work.total if source.header.work else 0
    runtime.reporter.start("evaluate", min(total, runtime.limit or total))
    if dataset is not None and runtime.images is None:
        runtime = replace(runtime, images=dataset.root)
    wanted = {item.id for item in dataset.items} if dataset else None
    found = alongside(source, wanted, Photographs(source, runtime).of, runtime)
    for pair in runtime.stop.between(islice(found, runtime.limit)):
        yield pair
        runtime.reporter.advance(1)


def with_truth(
    source: RecordSource,
    dataset: Dataset,
    runtime: Runtime,
    add: Callable[[Record, np.ndarray], None],
    hint: str = "make them for this split, or score what is there with --allow-missing",
    same_classes: bool = True,
) -> tuple[int, set[str]]:
    """Hand every image of the data set that the source has to `add`, together with its mask.

    Args:
        source: records of one run.
        dataset: images with masks.
        runtime: shared options.
        add: takes a record and its truth (H,W); a BadInput or InputMissing fails that image only.
        hint: what to do where images of the data set are not in the source.
        same_classes: the source has to be about the data set's classes.

    Returns:
        How many images failed here, and the ids of all that were not scored, in whichever step they failed.

    Raises:
        BadInput: other classes, or images that the source lacks.
        Stopped: a signal asked for an end.
    """
    if same_classes:
        source.require_classes(dataset.classes, str(dataset.location))
    wanted = {item.id for item in dataset.items}
    runtime.reporter.start("evaluate", len(wanted))
    seen: set[str] = set()
    pairs = alongside(source, wanted, lambda record: dataset.read_mask(dataset.by_id[record.id], record.size), runtime)
    with FailedImages(runtime.reporter) as failed:
        for record, truth in runtime.stop.between(pairs):
            seen.add(record.id)
            try:
                if isinstance(truth, BadInput | InputMissing):
                    raise truth
                add(record, truth)
            except (BadInput, InputMissing) as error:
                failed.add(record.id, error)
            runtime.reporter.advance(1)
    return len(failed), failed.ids | unseen(source, dataset, seen, runtime, hint)


def unseen(source: RecordSource, dataset: Dataset, seen: set[str], runtime: Runtime, hint: str) -> set[str]:
    """Ids of the data set's images that are not among `seen`, once the source has ended.

    Raises:
        BadInput: some are not in the source, not even as failures, and that is not allowed.
    """
    wanted = {item.id for item in dataset.items}
    known_failures = {failure.id for failure in source.failures} & wanted
    missing = wanted - seen - known_failures
    if missing and not (runtime.allow_missing and seen):
        raise BadInput(
            f"{len(missing)} of {len(wanted)} images of split {dataset.split or 'all'} are not in the"
            f" {source.header.kind} ({min(missing)!r} is one)",
            hint,
        )
    return missing | (known_failures - seen)


def alongside(
    source: RecordSource, wanted: Container[str] | None, read: Callable[[Record], V], runtime: Runtime
) -> Iterator[tuple[Record, V | BadInput | InputMissing]]:
    """Records with what `read` gives for them, which threads do a few images ahead, or with its error.

    Args:
        source: records of one run.
        wanted: ids; None for all.
        read: runs in threads.
        runtime: shared options.
    """

    def attempt(record: Record) -> V | BadInput | InputMissing:
        try:
            return read(record)
        except (BadInput, InputMissing) as error:
            return error

    with ThreadPoolExecutor(max(1, cores() if runtime.workers is None else runtime.workers)) as pool:
        waiting: list[tuple[Record, Future[V | BadInput | InputMissing]]] = []
        for record in source:
            if wanted is not None and record.id not in wanted:
                continue
            waiting.append((record, pool.submit(attempt, record)))
            if len(waiting) > _AHEAD:
                first, future = waiting.pop(0)
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
