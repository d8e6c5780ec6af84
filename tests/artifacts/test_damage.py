import io
from dataclasses import replace

import h5py
import numpy as np
import pytest

from tests.artifacts.build import encoded, failure, header, ids, record, same
from xseg.artifacts import Part, WorkList
from xseg.artifacts.stream import parts
from xseg.errors import BadInput

RECORDS = [record(index, maps=2) for index in range(4)]


def read(path):
    return [(part.header, list(part.records()), part.failures) for part in parts([str(path)])]


@pytest.mark.parametrize("compress", [True, False])
def test_a_flipped_bit_in_the_values_is_noticed(tmp_path, compress):
    records = [record(index, maps=2, size=(90, 100)) for index in range(4)] if compress else RECORDS
    data = encoded(records, header(), compress=compress)
    path = tmp_path / "a.h5"
    path.write_bytes(data)
    with h5py.File(path) as file:
        values = file["maps/values"]
        start = values.id.get_chunk_info(0).byte_offset if compress else values.id.get_offset()
        length = values.id.get_chunk_info(0).size if compress else values.id.get_storage_size()
    random, unnoticed = np.random.default_rng(0), 0
    for position in random.integers(start, start + length, 25):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            ((_, found, _),) = read(path)
        except BadInput:
            continue
        assert compress  # the chunk has padding behind the values: only there a flip may go unnoticed
        assert all(same(one, other) for one, other in zip(records, found, strict=True))
        unnoticed += 1
    assert unnoticed < 6


def test_a_flipped_bit_anywhere_is_an_error_or_does_no_harm(tmp_path):
    head = header()
    data = encoded(RECORDS, head, [failure(5)])
    path = tmp_path / "a.h5"
    random, noticed = np.random.default_rng(1), 0
    for position in random.integers(0, len(data), 120):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            (found,) = read(path)
        except BadInput:
            noticed += 1
            continue
        assert found[0] == head, position
        assert found[2] == [failure(5)], position
        assert all(same(one, other) for one, other in zip(RECORDS, found[1], strict=True)), position
    assert noticed > 60


def test_a_file_cut_anywhere_is_bad_input(tmp_path):
    data = encoded(RECORDS, header(), compress=False)
    path = tmp_path / "a.h5"
    for length in [*range(0, 60, 7), 47, 48, *range(100, len(data), len(data) // 40), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(BadInput):
            read(path)
        with pytest.raises(BadInput):
            Part(path, "x")


@pytest.mark.parametrize("junk", [b"\n", b"junk", b"\0" * 4096, b"\x89HDF\r\n\x1a\n"])
def test_junk_after_the_end_is_bad_input(tmp_path, junk):
    path = tmp_path / "a.h5"
    path.write_bytes(encoded(RECORDS) + junk)
    with pytest.raises(BadInput):
        read(path)
    with pytest.raises(BadInput):
        Part(path, "x")


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\0" * 100, b"text\n" * 100])
def test_other_files_are_bad_input(tmp_path, content):
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="HDF5"):
        read(path)


def test_values_that_are_not_finite_are_bad_input():
    for wrong in (np.nan, np.inf, -np.inf):
        one = record(1)
        one.arrays["maps"][0, 2, 3] = wrong
        with Part(io.BytesIO(encoded([one])), "x") as part, pytest.raises(BadInput, match="finite"):
            list(part.records())


ROWS = [failure(4, "the file is torn"), failure(5, "no such file")]


@pytest.mark.parametrize("text", [ROWS[0].id, ROWS[1].id, ROWS[0].reason, ROWS[1].reason])
@pytest.mark.parametrize("at", [0, 5, -1])
def test_a_flipped_bit_in_the_failures_is_noticed(tmp_path, text, at):
    data = bytearray(encoded(RECORDS[:1], header(), ROWS))
    start = data.index(text.encode())
    data[start + at % len(text.encode())] ^= 1
    path = tmp_path / "a.h5"
    path.write_bytes(data)
    with pytest.raises(BadInput, match="failures"), Part(path, "a.h5"):
        pass


def test_a_changed_index_of_a_failure_is_noticed(tmp_path):
    data = encoded(RECORDS[:1], header(), ROWS)
    path = tmp_path / "a.h5"
    path.write_bytes(data.replace(np.array([4, 5]).tobytes(), np.array([3, 5]).tobytes()))
    assert path.read_bytes() != data
    with pytest.raises(BadInput, match="failures"), Part(path, "a.h5"):
        pass


def test_failures_are_no_part_of_content():
    found = [Part(io.BytesIO(encoded(RECORDS[:1], header(), rows)), "x").content() for rows in ([], ROWS[:1], ROWS)]
    assert len(set(found)) == 1


def test_the_ids_of_a_whole_are_those_of_the_work_list():
    head = replace(header(), work=WorkList.of(["other", *ids(5)[1:]]))
    some = [record(index) for index in range(3)]
    with Part(io.BytesIO(encoded(some, head, [failure(3)])), "x") as part:
        assert len(part) == 3  # a part cannot tell
    failures = [failure(3), failure(4)]
    with pytest.raises(BadInput, match="worklist_sha256"):
        Part(io.BytesIO(encoded(some, head, failures)), "x")
    with Part(io.BytesIO(encoded(some, header(5), failures)), "x") as part:
        assert len(part) == 3
    wrong = [failures[0], replace(failures[1], id="other")]
    with pytest.raises(BadInput, match="worklist_sha256"):
        Part(io.BytesIO(encoded(some, header(5), wrong)), "x")


def test_damage_further_on_does_not_touch_the_images_before_it(tmp_path):
    records = [record(index, maps=2, size=(300, 400)) for index in range(6)]
    path = tmp_path / "a.h5"
    path.write_bytes(data := encoded(records, header()))
    with h5py.File(path) as file:
        last = file["maps/values"].id.get_chunk_info(file["maps/values"].id.get_num_chunks() - 1)
    damaged = bytearray(data)
    damaged[last.byte_offset : last.byte_offset + last.size] = bytes(last.size)
    path.write_bytes(damaged)
    with Part(path, str(path)) as part:
        found = part.records()
        assert all(same(one, other) for one, other in zip(records[:5], found, strict=False))
        with pytest.raises(BadInput, match=records[-1].id):
            part.record(5)
