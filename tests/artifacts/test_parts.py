import pytest

from tests.artifacts.build import contents, failure, header, record, same, write
from xseg.artifacts.parts import PartDirectory, Shelf, discard, join
from xseg.errors import BadInput, CannotCreate


@pytest.fixture
def directory(tmp_path):
    found = PartDirectory(tmp_path / "a.h5", header())
    found.claim(resume=True, overwrite=False)
    return found


def names(directory):
    return [path.name for path in directory.files()]


def test_a_directory_belongs_to_the_run_that_claimed_it(tmp_path, directory):
    for other in (header(seed=1), header(7), header(shard="0/2")):
        with pytest.raises(CannotCreate, match="another run"):
            PartDirectory(tmp_path / "a.h5", other).claim(resume=True, overwrite=False)
    directory.write([record(0)], [])
    PartDirectory(tmp_path / "a.h5", header()).claim(resume=True, overwrite=False)
    assert names(directory) == ["00000000-00000001.h5"]


def test_overwriting_takes_the_directory_of_another_run(tmp_path, directory):
    directory.write([record(0)], [])
    PartDirectory(tmp_path / "a.h5", header(seed=1)).claim(resume=True, overwrite=True)
    assert names(directory) == []
    with pytest.raises(CannotCreate):
        directory.claim(resume=True, overwrite=False)


def test_without_resume_the_work_starts_anew(directory):
    directory.write([record(0)], [])
    directory.claim(resume=False, overwrite=False)
    assert names(directory) == []


def test_a_directory_without_an_owner_is_taken_but_not_emptied(tmp_path):
    place = tmp_path / "a.h5.parts"
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    directory = PartDirectory(tmp_path / "a.h5", header())
    directory.claim(resume=False, overwrite=True)
    directory.write([record(0)], [])
    directory.remove()
    assert [path.name for path in place.iterdir()] == ["notes.txt"]


def test_a_damaged_claim_is_not_ours(tmp_path, directory):
    (directory.path / "run").write_text("{")
    with pytest.raises(CannotCreate):
        directory.claim(resume=True, overwrite=False)


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "a.h5.parts").write_text("mine")
    for overwrite in (True, False):
        with pytest.raises(CannotCreate, match="not a directory"):
            PartDirectory(tmp_path / "a.h5", header()).claim(resume=True, overwrite=overwrite)
    assert (tmp_path / "a.h5.parts").read_text() == "mine"


def test_parts_are_named_by_their_span_and_never_replaced(directory):
    directory.write([record(1), record(0)], [failure(3)])
    directory.write(
        [record(0), record(1)], [failure(3)]
    )  # made by another process at the same time: it is there already
    directory.write([record(3)], [failure(0)])
    directory.write([], [failure(0), failure(3)])
    assert names(directory) == ["00000000-00000004.1.h5", "00000000-00000004.2.h5", "00000000-00000004.h5"]
    records, failures, _ = contents(directory.path / "00000000-00000004.h5")
    assert ([one.index for one in records], [one.index for one in failures]) == ([0, 1], [3])


def test_writing_into_a_directory_that_is_gone_is_told(directory):
    directory.remove()
    with pytest.raises(CannotCreate):
        directory.write([record(0)], [])


def test_a_shelf_finds_every_image_and_forgets_failures_that_succeeded_later(directory):
    directory.write([record(0), record(4)], [failure(1), failure(2, "first")])
    directory.write([record(1)], [failure(2, "second")])
    with Shelf(directory.files(), header()) as shelf:
        assert [one.index for one in shelf.records()] == [0, 1, 4]
        assert same(shelf.record(4), record(4))
        assert [one.index for one in shelf.ordered_failures()] == [2]


def test_a_shelf_opens_few_files_at_once(directory):
    total = 40
    for index in range(total):
        write(directory.path / f"{index:03d}.h5", [index % 6])
    with Shelf(directory.files(), header()) as shelf:
        for index in [*range(6), *range(6)]:
            assert same(shelf.record(index), record(index))
        assert len(shelf._open) <= 16


def test_a_damaged_or_foreign_part_is_dropped_whole(tmp_path, directory):
    directory.write([record(4)], [])
    write(directory.path / "1.h5", [1], header(seed=1))
    (directory.path / "2.h5").write_bytes(b"junk")
    damaged = bytearray(write(directory.path / "3.h5", [2, 3], maps=2).read_bytes())
    start = damaged.index(record(3, maps=2).arrays["maps"].tobytes())
    damaged[start] ^= 1
    (directory.path / "3.h5").write_bytes(damaged)
    (directory.path / "4.h5").write_bytes(b"")
    # This part disagrees about image 4 but not about 1: neither may be taken from it.
    write(directory.path / "5.h5", [1, 4], noise=1)
    dropped = []
    with Shelf(directory.files(), header(), drop=lambda path, error: dropped.append(path.name)) as shelf:
        assert list(shelf.places) == [4]
    assert dropped == ["1.h5", "2.h5", "3.h5", "4.h5", "5.h5"]
    for name in dropped:
        with pytest.raises(BadInput):
            Shelf([directory.path / "00000004-00000005.h5", directory.path / name], header())
        discard(directory.path / name)
    discard(directory.path / "never there")
    assert names(directory) == ["00000004-00000005.h5"]


def test_joined_data_is_that_of_one_file(tmp_path, directory):
    directory.write([record(3), record(4)], [failure(5, "late")])
    directory.write([record(0), record(2)], [failure(1)])
    join(directory.files(), header(), tmp_path / "a.h5")
    records, failures, content = contents(tmp_path / "a.h5")
    whole = contents(write(tmp_path / "whole.h5", [0, 2, 3, 4], header(), [failure(1), failure(5, "late")]))
    assert all(same(one, other) for one, other in zip(records, whole[0], strict=True))
    assert (failures, content) == whole[1:]


def test_joining_notices_parts_that_vanished_and_an_output_that_appeared(tmp_path, directory):
    directory.write([record(0)], [failure(1)])
    with pytest.raises(BadInput, match="1 finished"):
        join(directory.files(), header(), tmp_path / "a.h5", needed=[0, 1, 2])
    assert not (tmp_path / "a.h5").exists()
    join(directory.files(), header(), tmp_path / "a.h5", needed=[0, 1])
    with pytest.raises(CannotCreate):
        join(directory.files(), header(), tmp_path / "a.h5")
    join(directory.files(), header(), tmp_path / "a.h5", overwrite=True)


def test_a_part_damaged_before_joining_is_told_and_the_output_not_made(tmp_path, directory):
    directory.write([record(0)], [])
    (directory.path / "00000000-00000001.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(BadInput):
        join(directory.files(), header(), tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()
    assert not list(tmp_path.glob(".*"))
