import itertools
import os
import signal
import threading
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest

from tests.artifacts.build import contents, failure, header, ids, record, same, shards, write
from xseg.artifacts import Parent
from xseg.artifacts.stream import parts
from xseg.errors import BadInput, InputMissing, OutputFailed, Status, Stopped
from xseg.runs import images
from xseg.runs.images import ImageRun, execute, process
from xseg.runs.merge import merge
from xseg.runs.reporter import Silent
from xseg.runs.runtime import Runtime
from xseg.runs.shards import Shard
from xseg.runs.signals import StopFlag
from xseg.runs.sinks import FileSink
from xseg.runs.source import RecordSource
from xseg.runs.target import Target


@dataclass(frozen=True)
class Job:
    index: int

    @property
    def id(self):
        return ids(self.index + 1)[self.index]


class Memory:
    """A sink that remembers."""

    complete = False
    header = header()
    left_off = ("stopped", "run it again")

    def __init__(self, finished=(), seconds=60.0):
        self.finished, self.seconds, self.parts, self.closed = set(finished), seconds, [], False

    def write(self, records, failures):
        self.parts.append(([one.index for one in records], [one.index for one in failures]))

    def close(self):
        self.closed = True

    @property
    def written(self):
        return [index for records, _ in self.parts for index in records]

    @property
    def failed(self):
        return [index for _, failures in self.parts for index in failures]


def start(sink=None, stop=None):
    return ImageRun(sink or Memory(), Silent(), stop or StopFlag())


def load(job):
    return record(job.index)


def keep(records):
    return list(records)


def signalled(number):
    flag = StopFlag()
    flag.signal = number
    return flag


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (3, 1), (4, 4), (50, 3), (1, 0)])
def test_order_is_kept_whatever_the_batches_and_threads(batch_size, workers):
    def slow(job):
        time.sleep(0.01 * (job.index % 3))
        return record(job.index)

    batches = []

    def compute(records):
        batches.append(len(records))
        return records

    run, jobs = start(sink := Memory()), [Job(index) for index in range(20)]
    process(run, jobs, slow, compute, batch_size=batch_size, workers=workers)
    run.close()
    assert sink.parts == [(list(range(20)), [])]
    assert sink.closed
    assert max(batches) == min(batch_size, 20)
    assert sum(batches) == 20


def test_finished_images_are_not_touched_again():
    loaded = []
    run = start(sink := Memory(finished={0, 2, 3}))
    process(run, map(Job, range(6)), lambda job: (loaded.append(job.index), record(job.index))[1], keep)
    run.close()
    assert (loaded, sink.written) == ([1, 4, 5], [1, 4, 5])


@pytest.mark.parametrize("error", [BadInput("broken", "mend it"), InputMissing("gone")])
@pytest.mark.parametrize("where", ["load", "compute"])
def test_an_image_that_cannot_be_processed_fails_alone(error, where):
    def maybe(job):
        if job.index in (2, 5):
            raise error
        return record(job.index)

    run = start(sink := Memory())
    if where == "load":
        process(run, map(Job, range(8)), maybe, keep, batch_size=3, workers=2)
    else:
        process(run, map(Job, range(8)), lambda job: job, lambda jobs: list(map(maybe, jobs)), batch_size=3)
    run.close()
    assert (sorted(sink.written), sorted(sink.failed), run.failed) == ([0, 1, 3, 4, 6, 7], [2, 5], 2)
    notes = run._reporter.notes
    assert len(notes) == 2
    assert ids(3)[2] in notes[0]
    assert str(error) in notes[0]


def test_values_that_are_not_finite_fail_their_image():
    def compute(records):
        for one in records:
            if one.index == 1:
                one.arrays["maps/scale"][0] = np.nan
        return records

    run = start(sink := Memory())
    process(run, map(Job, range(3)), load, compute)
    run.close()
    assert (sink.written, sink.failed) == ([0, 2], [1])


@pytest.mark.parametrize("where", ["load", "compute", "jobs"])
def test_an_error_about_more_than_one_image_ends_the_run_but_keeps_what_is_done(where):
    def full(index):
        if index == 5:
            raise OutputFailed("disk full")

    def jobs():
        for index in range(8):
            if where == "jobs":
                full(index)
            yield Job(index)

    def loading(job):
        if where == "load":
            full(job.index)
        return record(job.index)

    def computing(records):
        if where == "compute":
            full(records[0].index)
        return records

    run = start(sink := Memory())
    with pytest.raises(OutputFailed, match="disk full"):
        process(run, jobs(), loading, computing)
    assert sink.written == list(range(len(sink.written)))
    assert len(sink.written) >= 2
    assert not sink.closed


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        process(start(), map(Job, range(3)), lambda job: 1 / 0, keep)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, Status.STOPPED), (signal.SIGINT, Status.INTERRUPTED)])
def test_a_stop_publishes_what_is_done_and_ends(number, status):
    stop = StopFlag()

    def compute(records):
        if records[0].index == 3:
            stop.signal = number
        return records

    run = start(sink := Memory(), stop)
    with pytest.raises(Stopped) as error:
        process(run, map(Job, range(100)), load, compute)
    assert error.value.status == status
    assert (sink.written, sink.closed) == ([0, 1, 2, 3], False)


def test_a_stop_during_the_last_image_counts():
    run = start(sink := Memory(), signalled(signal.SIGTERM))
    with pytest.raises(Stopped):
        process(run, [], load, keep)
    assert not sink.closed


def test_a_pipeline_stopped_by_a_signal_does_not_blame_its_input():
    def cut_off():
        yield Job(0)
        stop.signal = signal.SIGINT  # all commands of a pipe get it; the one before has ended
        raise BadInput("5 of 6 images are missing")

    stop = StopFlag()
    with pytest.raises(Stopped) as error:
        process(start(None, stop), cut_off(), load, keep)
    assert error.value.status == Status.INTERRUPTED


def test_a_part_is_closed_when_it_is_large(monkeypatch):
    monkeypatch.setattr(images, "PART_BYTES", 2 * record(1).nbytes)
    run = start(sink := Memory())
    for index in (1, 4, 7, 10, 13):
        run.add(replace(record(1), index=index))
    run.close()
    assert [records for records, _ in sink.parts] == [[1, 4], [7, 10], [13]]


def test_parts_hold_64_megabytes():
    assert images.PART_BYTES == 64 << 20
    assert FileSink.seconds == 60


def test_a_part_is_closed_after_the_seconds_of_its_sink(monkeypatch):
    clock = itertools.count(0, 1.0)
    monkeypatch.setattr(images.time, "monotonic", lambda: next(clock))
    run = start(sink := Memory(seconds=3))
    for index in range(7):
        run.add(record(index))
    run.carry(failure(7))
    run.close()
    assert len(sink.parts) >= 2
    assert sink.written == list(range(7))
    assert sink.failed == [7]


# ---- whole steps


def step(path, jobs=None, *, head=None, total=12, batch_size=1, compute=keep, load=load, **options):
    runtime = Runtime(target=Target(path=path), workers=2, **options)
    jobs = jobs if jobs is not None else [Job(index) for index in range(total)]
    status = execute(runtime, head or header(total), jobs, load, compute, total=total, batch_size=batch_size)
    return status, runtime.reporter.notes


def test_a_finished_run_is_not_repeated(tmp_path):
    path = tmp_path / "a.h5"
    assert step(path) == (Status.OK, [])
    before = path.read_bytes()
    status, notes = step(path, load=lambda job: 1 / 0)
    assert status == Status.OK
    assert "complete already" in notes[0]
    assert path.read_bytes() == before


def test_failures_give_status_3_and_are_retried_by_the_same_command(tmp_path):
    def flaky(job):
        if job.index == 3:
            raise InputMissing("gone")
        return record(job.index)

    path, tried = tmp_path / "a.h5", []
    assert step(path, load=flaky)[0] == Status.SOME_FAILED
    assert [one.index for one in contents(path)[1]] == [3]
    assert step(path, load=flaky, max_failures=1)[0] == Status.OK
    assert step(path, load=lambda job: (tried.append(job.index), record(job.index))[1])[0] == Status.OK
    assert tried == [3]
    step(tmp_path / "b.h5")
    assert contents(path)[1:] == contents(tmp_path / "b.h5")[1:]


def test_a_run_stopped_often_equals_an_uninterrupted_one(tmp_path):
    step(tmp_path / "whole.h5")
    path, runs = tmp_path / "a.h5", 0
    while not path.exists():
        runs += 1
        stop, done = StopFlag(), []

        def compute(records, stop=stop, done=done):
            done.append(1)
            if len(done) == 5:
                stop.signal = signal.SIGUSR1
            return records

        try:
            step(path, compute=compute, stop=stop)
        except Stopped:
            assert not path.exists()
    assert runs == 3
    one, other = contents(path), contents(tmp_path / "whole.h5")
    assert all(same(a, b) for a, b in zip(one[0], other[0], strict=True))
    assert one[1:] == other[1:]
    assert path.stat().st_size == (tmp_path / "whole.h5").stat().st_size


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_shards_merged_equal_the_whole(tmp_path, count, batch_size):
    step(tmp_path / "whole.h5", batch_size=3)
    names = []
    for number, head in enumerate(shards(12, count)):
        names.append(str(tmp_path / f"{number}.h5"))
        mine = [Job(index) for index in Shard(number, count).range(12)]
        step(tmp_path / f"{number}.h5", mine, head=head, batch_size=batch_size)
    out = tmp_path / "merged.h5"
    assert merge(names[::-1], Runtime(target=Target(path=out))) == Status.OK
    one, other = contents(out), contents(tmp_path / "whole.h5")
    assert all(same(a, b) for a, b in zip(one[0], other[0], strict=True))
    assert one[1:] == other[1:]
    (part,) = parts([str(out)])
    assert part.header.shard == ""


def test_merging_again_says_it_is_complete_and_missing_shards_are_told(tmp_path):
    heads = shards(6, 2)
    names = [str(write(tmp_path / f"{i}.h5", range(3 * i, 3 * i + 3), heads[i])) for i in range(2)]
    runtime = Runtime(target=Target(path=tmp_path / "out.h5"))
    with pytest.raises(BadInput, match="missing"):
        merge(names[:1], runtime)
    assert not (tmp_path / "out.h5").exists()
    assert merge(names, runtime) == merge(names, runtime) == Status.OK
    assert "complete already" in runtime.reporter.notes[-1]


def second_step(name, path, **options):
    """A step that reads heatmaps and writes masks, as `crf` does."""
    source = RecordSource([str(name)], ["heatmaps"])
    head = replace(
        header(source.header.work.total, kind="masks", parents=(source.parent,)), shard=str(source.shard or "")
    )
    runtime = Runtime(target=Target(path=path), workers=1, **options)

    def mask(one):
        return replace(one, arrays={"masks": np.full(one.size, one.index, np.uint8)})

    status = execute(runtime, head, source, mask, keep, total=len(source.expected), carried=lambda: source.failures)
    return status, source


def test_shards_go_through_a_second_step_and_merge_again(tmp_path):
    names = []
    for number, head in enumerate(shards(6, 3)):
        name = write(tmp_path / f"{number}.h5", range(2 * number, 2 * number + 2), head)
        names.append(str(tmp_path / f"masks-{number}.h5"))
        second_step(name, tmp_path / f"masks-{number}.h5")
        (part,) = parts(names[-1:])
        assert part.header.shard == f"{number}/3"
    merge(names, Runtime(target=Target(path=tmp_path / "masks.h5")))
    assert [one.index for one in contents(tmp_path / "masks.h5")[0]] == list(range(6))


def test_shards_laid_end_to_end_in_a_pipe_become_a_whole(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    heads = shards(6, 2)
    data = [write(tmp_path / f"{i}.h5", range(3 * i, 3 * i + 3), heads[i]).read_bytes() for i in range(2)]
    thread = threading.Thread(target=lambda: fifo.write_bytes(b"".join(data)))
    thread.start()
    second_step(fifo, tmp_path / "out.h5")
    thread.join()
    (part,) = parts([str(tmp_path / "out.h5")])
    assert (len(part), part.header.shard) == (6, "")


def test_failures_of_an_earlier_step_stay_accounted_for(tmp_path):
    name = write(tmp_path / "a.h5", [0, 1, 2, 4, 5], header(), [failure(3, "torn")])
    second_step(name, tmp_path / "b.h5")
    records, failures, _ = contents(tmp_path / "b.h5")
    assert (len(records), failures) == (5, [failure(3, "torn")])
    with_success = write(tmp_path / "a2.h5", range(6))
    assert second_step(with_success, tmp_path / "c.h5")[0] == Status.OK


def test_nothing_is_published_when_the_producer_died(tmp_path):
    fifo, out = tmp_path / "fifo", tmp_path / "out.h5"
    os.mkfifo(fifo)
    thread = threading.Thread(target=lambda: fifo.write_bytes(write(tmp_path / "a.h5", range(4)).read_bytes()))
    thread.start()
    with pytest.raises(BadInput, match="2 of 6 images are missing"):
        second_step(fifo, out)
    thread.join()
    assert not out.exists()
    assert FileSink(out, header(kind="masks", parents=(Parent("heatmaps", f"run:{header().run}"),))).finished == set(
        range(4)
    )
