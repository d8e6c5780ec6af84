"""The loop of every per-image command: load in threads, compute in batches, publish in parts, stop when asked."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from xseg.artifacts.header import Header
from xseg.artifacts.record import Failure, Record
from xseg.device import cores
from xseg.errors import BadInput, InputMissing, Status, Stopped, XsegError
from xseg.runs.reporter import Reporter
from xseg.runs.runtime import Runtime
from xseg.runs.signals import StopFlag
from xseg.runs.sinks import Sink
from xseg.runs.source import RecordSource

PART_BYTES = 64 << 20


class Job(Protocol):
    """One image to process."""

    @property
    def index(self) -> int:
        """Position in the work list."""

    @property
    def id(self) -> str:
        """Name of the image."""


J = TypeVar("J", bound=Job)
L = TypeVar("L")


class ImageRun:
    """Collects records and failures, closes a part at 64 MB or after the sink's seconds."""

    def __init__(self, sink: Sink, reporter: Reporter, stop: StopFlag) -> None:
        self._sink, self._reporter, self._stop = sink, reporter, stop
        self._records: list[Record] = []
        self._failures: list[Failure] = []
        self._bytes, self._since = 0, time.monotonic()
        self.failed = 0

    def wanted(self, index: int) -> bool:
        """Whether the image at `index` still needs work."""
        return index not in self._sink.finished

    def add(self, record: Record) -> None:
        """A finished image; it has failed if its values are not finite."""
        if name := record.not_finite():
            self.fail(record, f"{name} has values that are not finite")
            return
        self._records.append(record)
        self._bytes += record.nbytes
        self._reporter.detail(f"done: {record.id}")
        self._reporter.advance(1)
        self._part_if_due()

    def fail(self, job: Job, reason: str) -> None:
        """An image that could not be processed; the others go on."""
        self.failed += 1
        self._reporter.note(f"failed: {job.id}: {reason}")
        self.carry(Failure(job.index, job.id, reason))

    def carry(self, failure: Failure) -> None:
        """A failure of an earlier step: the image stays accounted for."""
        self._failures.append(failure)
        self._reporter.advance(1)
        self._part_if_due()

    def check_stop(self) -> None:
        """End the run here if a signal asked for it; what is finished is published.

        Raises:
            Stopped: a stop was asked for.
        """
        if self._stop():
            self.flush()
            raise self._stop.stopped(*self._sink.left_off)

    def flush(self) -> None:
        """Publish what is collected as a part."""
        if self._records or self._failures:
            self._sink.write(self._records, self._failures)
        self._records, self._failures = [], []
        self._bytes, self._since = 0, time.monotonic()

    def _part_if_due(self) -> None:
        if self._bytes >= PART_BYTES or time.monotonic() - self._since >= self._sink.seconds:
            self.flush()

    def close(self) -> None:
        """All images are done: publish the whole artifact."""
        self.flush()
        self._sink.close()


@dataclass(frozen=True)
class Loaded(Generic[J, L]):
    """A job and what `load` made of it."""

    job: J
    data: L


def process(
    run: ImageRun,
    jobs: Iterable[J],
    load: Callable[[J], L],
    compute: Callable[[Sequence[L]], Sequence[Record]],
    *,
    batch_size: int = 1,
    workers: int = 1,
) -> None:
    """Process every wanted job in order.

    Args:
        run: takes the results.
        jobs: the images, in order of the work list.
        load: reads one image; runs in threads. A BadInput or InputMissing fails that image only.
        compute: turns up to `batch_size` loaded images into records, in the calling thread. After a BadInput or
            InputMissing it is asked again image by image.
        batch_size: images handed to `compute` at once.
        workers: loading threads.

    Raises:
        Stopped: a signal asked for an end.
        XsegError: an error that concerns more than one image.
    """
    batch: list[Loaded[J, L]] = []
    with ThreadPoolExecutor(max(1, workers), "xseg-load") as pool:
        ahead = 2 * max(1, workers) + batch_size
        try:
            for job, future in _look_ahead(pool, (job for job in jobs if run.wanted(job.index)), load, ahead):
                run.check_stop()
                try:
                    batch.append(Loaded(job, future.result()))
                except (BadInput, InputMissing) as error:
                    run.fail(job, str(error))
                if len(batch) >= batch_size:
                    _compute(run, batch, compute)
                    batch = []
            if batch:
                _compute(run, batch, compute)
            run.check_stop()
        except Stopped:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        except XsegError:
            pool.shutdown(wait=False, cancel_futures=True)
            with suppress(XsegError):  # finished images are worth keeping; the first error is the one to tell
                run.flush()
            run.check_stop()  # a signal to a whole pipeline ends the step before, too: its cut-off output is no error
            raise


def _look_ahead(
    pool: ThreadPoolExecutor, jobs: Iterator[J], load: Callable[[J], L], ahead: int
) -> Iterator[tuple[J, Future[L]]]:
    waiting: deque[tuple[J, Future[L]]] = deque()
    cut_off: XsegError | None = None
    try:
        for job in jobs:
            waiting.append((job, pool.submit(load, job)))
            if len(waiting) >= ahead:
                yield waiting.popleft()
    except XsegError as error:
        cut_off = error  # what was read before is good
    while waiting:
        yield waiting.popleft()
    if cut_off is not None:
        raise cut_off


def _compute(run: ImageRun, batch: list[Loaded[J, L]], compute: Callable[[Sequence[L]], Sequence[Record]]) -> None:
    try:
        records = compute([loaded.data for loaded in batch])
    except (BadInput, InputMissing) as error:
        if len(batch) == 1:
            run.fail(batch[0].job, str(error))
        else:
            for loaded in batch:
                _compute(run, [loaded], compute)
        return
    for record in records:
        run.add(record)


def final_status(failed: int, max_failures: int) -> Status:
    """3 when more images failed than `--max-failures` allows, else 0."""
    return Status.SOME_FAILED if failed > max_failures else Status.OK


def _marked(source: RecordSource, sink: Sink) -> Iterator[Record]:
    """The records, while the sink learns of which shard they turn out to be: a stream may hold several."""
    for record in source:
        sink.header = sink.header.with_shard(str(source.shard or ""))
        yield record


def execute(
    runtime: Runtime,
    header: Header,
    jobs: Iterable[J],
    load: Callable[[J], L],
    compute: Callable[[Sequence[L]], Sequence[Record]],
    *,
    total: int,
    batch_size: int = 1,
    carried: Callable[[], Iterable[Failure]] = tuple,
) -> Status:
    """Run one per-image step from its jobs to its published output.

    Args:
        runtime: shared options.
        header: identity of the output.
        jobs: images in order of the work list, this shard's only.
        load: as for `process`.
        compute: as for `process`.
        total: number of jobs, for progress.
        batch_size: as for `process`.
        carried: failures of earlier steps, asked for once the jobs have ended.

    Returns:
        0, or 3 when more images failed than allowed.

    Raises:
        CannotCreate: the output belongs to another run.
        Stopped: a signal asked for an end.
    """
    with runtime.sink(header) as sink:
        if sink.complete:
            runtime.reporter.note(f"{runtime.path} is complete already")
            return Status.OK
        run = ImageRun(sink, runtime.reporter, runtime.stop)
        runtime.reporter.start(header.command, total, min(len(sink.finished), total))
        workers = cores() if runtime.workers is None else runtime.workers
        if isinstance(jobs, RecordSource):
            jobs = _marked(jobs, sink)
        process(run, jobs, load, compute, batch_size=batch_size, workers=workers)
        earlier = list(carried())
        if earlier:
            runtime.reporter.note(f"{len(earlier)} images failed in an earlier step and have no result here")
        for failure in earlier:
            if run.wanted(failure.index):
                run.carry(failure)
        run.close()
    return final_status(run.failed, runtime.max_failures)
