import io
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.artifacts.build import contents, failure, header, record, same, write
from xseg.artifacts import Part
from xseg.artifacts.stream import parts
from xseg.errors import BadInput, CannotCreate
from xseg.runs.runtime import Runtime
from xseg.runs.sinks import FileSink, PipeSink
from xseg.runs.target import Target


def finish(path, indices=range(6), head=None, failures=(), **options):
    sink = FileSink(path, head or header(), **options)
    sink.write([record(index) for index in indices], failures)
    sink.close()
    return sink


def left(path):
    return sorted(found.name for found in path.parent.iterdir())


def test_parts_become_one_artifact_and_vanish(tmp_path):
    path = tmp_path / "a.h5"
    sink = FileSink(path, header())
    assert (sink.finished, sink.complete, left(path)) == (set(), False, ["a.h5.parts"])
    for index in range(6):
        sink.write([record(index)], [])
    assert not path.exists()
    sink.close()
    assert left(path) == ["a.h5"]
    assert contents(path)[2] == header().content(record(index).digest for index in range(6))


def test_finished_parts_survive_the_end_of_the_process(tmp_path):
    path = tmp_path / "a.h5"
    FileSink(path, header()).write([record(1), record(2)], [failure(3)])
    sink = FileSink(path, header())
    assert sink.finished == {1, 2}  # what failed is tried again
    sink.write([record(index) for index in (0, 3, 4, 5)], [])
    sink.close()
    assert [one.index for one in contents(path)[0]] == list(range(6))
    assert contents(path)[1] == []


def test_another_run_is_refused_at_once(tmp_path):
    path = tmp_path / "a.h5"
    FileSink(path, header())
    for head in (header(seed=1), header(5), header(shard="0/2")):
        with pytest.raises(CannotCreate):
            FileSink(path, head)
    finish(path)
    for head in (header(seed=1), header(5)):
        with pytest.raises(CannotCreate, match="another run"):
            FileSink(path, head)
    assert left(path) == ["a.h5"]


@pytest.mark.parametrize("content", [b"", b"notes", b"\x89HDF\r\n\x1a\n" + b"\0" * 100])
def test_something_else_in_the_place_of_the_output_stays(tmp_path, content):
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(CannotCreate, match="something else"):
        FileSink(path, header())
    assert path.read_bytes() == content
    finish(path, overwrite=True)
    assert len(contents(path)[0]) == 6


def test_an_output_of_the_same_run_is_complete(tmp_path):
    path = tmp_path / "a.h5"
    finish(path)
    before = path.read_bytes()
    for options in ({}, {"overwrite": True}, {"resume": False}):
        sink = FileSink(path, replace(header(), provenance={"seconds": 3}), **options)
        assert sink.complete
        sink.close()
    assert (path.read_bytes(), left(path)) == (before, ["a.h5"])


def test_a_whole_output_serves_for_each_of_its_shards_but_not_the_reverse(tmp_path):
    finish(tmp_path / "whole.h5")
    assert FileSink(tmp_path / "whole.h5", header(shard="1/2")).complete
    finish(tmp_path / "shard.h5", range(3), header(shard="0/2"))
    assert FileSink(tmp_path / "shard.h5", header(shard="0/2")).complete
    for shard in ("", "1/2", "0/3"):
        with pytest.raises(CannotCreate):
            FileSink(tmp_path / "shard.h5", header(shard=shard))


def test_an_output_of_the_same_run_that_lacks_images_is_completed(tmp_path):
    path = tmp_path / "a.h5"
    write(path, [0, 2])  # as after --allow-missing
    sink = FileSink(path, header())
    assert (sink.complete, sink.finished) == (False, {0, 2})
    sink.write([record(index) for index in (1, 3, 4, 5)], [])
    sink.close()
    assert [one.index for one in contents(path)[0]] == list(range(6))


def test_an_output_with_failures_has_only_those_retried(tmp_path):
    path = tmp_path / "a.h5"
    finish(path, [0, 1, 3, 4], failures=[failure(2), failure(5)])
    sink = FileSink(path, header())
    assert (sink.complete, sink.finished) == (False, {0, 1, 3, 4})
    sink.write([record(2)], [failure(5, "again")])
    assert len(contents(path)[0]) == 4  # the old one stands until the new one is whole
    sink.close()
    records, failures, _ = contents(path)
    assert [one.index for one in records] == [0, 1, 2, 3, 4]
    assert [(one.index, one.reason) for one in failures] == [(5, "again")]
    finish(path, [5])
    assert contents(path)[1] == []
    assert FileSink(path, header()).complete


def test_overwriting_without_resuming_makes_everything_anew(tmp_path):
    path = tmp_path / "a.h5"
    finish(path)
    FileSink(tmp_path / "b.h5", header()).write([record(0)], [])
    assert FileSink(path, header(), overwrite=True, resume=False).finished == set()
    assert FileSink(tmp_path / "b.h5", header(), resume=False).finished == set()
    finish(path, overwrite=True, resume=False)
    assert left(path) == ["a.h5", "b.h5.parts"]


def test_overwriting_replaces_another_run_only_when_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.h5"
    finish(path)
    sink = FileSink(path, header(seed=1), overwrite=True)
    assert sink.finished == set()
    sink.write([record(index) for index in range(6)], [])
    with Part(path, "a") as part:
        assert part.header.run == header().run
    sink.close()
    with Part(path, "a") as part:
        assert part.header.run == header(seed=1).run


def test_a_damaged_part_is_dropped_with_a_notice_and_made_again(tmp_path):
    path, notes = tmp_path / "a.h5", []
    sink = FileSink(path, header())
    sink.write([record(0)], [])
    sink.write([record(1), record(2)], [])
    (part,) = (tmp_path / "a.h5.parts").glob("*1-*3.h5")
    part.write_bytes(part.read_bytes()[:-100])
    again = FileSink(path, header(), notice=notes.append)
    assert again.finished == {0}
    assert "made again" in notes[0]
    assert not part.exists()


def test_an_output_that_appears_during_the_work_stays(tmp_path):
    path = tmp_path / "a.h5"
    sink = FileSink(path, header())
    sink.write([record(index) for index in range(6)], [])
    path.write_bytes(b"mine")
    with pytest.raises(CannotCreate):
        sink.close()
    assert path.read_bytes() == b"mine"
    assert (tmp_path / "a.h5.parts").is_dir()


@pytest.mark.parametrize("overwrite", [True, False])
def test_two_processes_of_one_run_may_end_in_any_order(tmp_path, overwrite):
    path = tmp_path / "a.h5"
    first, second, third = (FileSink(path, header(), overwrite=overwrite) for _ in range(3))
    for sink in (first, second):
        sink.write([record(index) for index in range(6)], [])
    third.write([record(0)], [])
    first.close()
    before = path.read_bytes()
    second.close()
    third.write([record(1)], [])  # the directory is gone, and nobody needs it any more
    third.close()
    assert (path.read_bytes(), left(path)) == (before, ["a.h5"])


def test_parts_that_vanish_are_an_error_when_nobody_has_finished(tmp_path):
    sink = FileSink(tmp_path / "a.h5", header())
    sink.write([record(0), record(1)], [])
    next((tmp_path / "a.h5.parts").glob("*.h5")).unlink()
    sink.write([record(2)], [])
    with pytest.raises(BadInput, match="2 finished"):
        sink.close()
    assert not (tmp_path / "a.h5").exists()


WRITER = """
import sys, time
from pathlib import Path
from tests.artifacts.build import *
from xseg.runs.sinks import FileSink
sink = FileSink(Path(sys.argv[1]), header(30))
for start in range(0, 30, 3):
    found = [record(i) for i in range(start, start + 3) if i not in sink.finished]
    if found:
        sink.write(found, [])
sink.close()
"""


def test_four_processes_may_do_the_same_work_at_once(tmp_path):
    path = tmp_path / "a.h5"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", WRITER, str(path)]
    running = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in running:
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
    records, failures, _ = contents(path)
    assert [one.index for one in records] == list(range(30))
    assert all(same(one, record(one.index)) for one in records)
    assert (failures, left(path)) == ([], ["a.h5"])


def through_pipe(head, *steps):
    read, write_end = os.pipe()
    found = []

    def drain():
        with os.fdopen(read, "rb") as file:
            found.append(file.read())

    reader = threading.Thread(target=drain)
    reader.start()
    sink = PipeSink(write_end, head)
    for records, failures in steps:
        sink.write(records, failures)
    sink.close()
    os.close(write_end)
    reader.join()
    return found[0]


def test_a_pipe_carries_parts_one_after_the_other(tmp_path):
    big = [record(index, maps=2, size=(300, 400)) for index in range(3)]
    data = through_pipe(header(), (big[:2][::-1], []), ([], [failure(4)]), (big[2:], []))
    (tmp_path / "stream").write_bytes(data)
    found = list(parts([str(tmp_path / "stream")]))
    assert len(found) == 3
    read = [one for part in parts([str(tmp_path / "stream")]) for one in part.records()]
    assert all(same(one, other) for one, other in zip(read, big, strict=True))
    assert found[1].failures == [failure(4)]


def test_a_pipe_without_images_still_carries_the_classes():
    data = through_pipe(header(0))
    with Part(io.BytesIO(data), "x") as part:
        assert part.header.classes == header().classes


def test_a_reader_that_goes_away_is_a_broken_pipe():
    read, write_end = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError):
        PipeSink(write_end, header()).write([record(0)], [])
    os.close(write_end)


def test_a_regular_file_as_standard_output_gets_one_artifact(tmp_path):
    path = tmp_path / "redirected.h5"
    with path.open("wb") as file:
        runtime = Runtime(target=Target(file=file.fileno()))
        with runtime.sink(header()) as sink:
            for index in range(6):
                sink.write([record(index)], [])
            sink.close()
    assert [one.index for one in contents(path)[0]] == list(range(6))


def test_the_output_may_have_any_name(tmp_path):
    for name in ("a[1]*.h5", "ü b.h5", "-x", "noext"):
        finish(tmp_path / name)
        assert FileSink(tmp_path / name, header()).complete


SLOW = WRITER.replace("sink.write(found, [])", "sink.write(found, []); time.sleep(0.05)")


def test_a_run_killed_at_any_time_is_finished_by_the_next(tmp_path):
    path = tmp_path / "a.h5"
    command, root = [sys.executable, "-c", SLOW, str(path)], Path(__file__).parents[2]
    for wanted in (1, 4):
        with subprocess.Popen(command, cwd=root) as process:
            while len(list(path.parent.glob("a.h5.parts/*.h5"))) < wanted and process.poll() is None:
                time.sleep(0.005)
            process.kill()
        assert not path.exists()
    assert subprocess.run(command, cwd=root, check=False).returncode == 0
    finish(tmp_path / "whole.h5", range(30), header(30))
    killed, whole = contents(path), contents(tmp_path / "whole.h5")
    assert all(same(one, other) for one, other in zip(killed[0], whole[0], strict=True))
    assert killed[1:] == whole[1:]
    assert left(path) == ["a.h5", "whole.h5"]
