import io
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.artifacts.build import CLASSES, EXTRA, contents, encoded, failure, header, record, same
from xseg.artifacts import Header, Part, Record, WorkList
from xseg.artifacts.encode import encode, encode_result, encode_weights
from xseg.artifacts.header import canonical
from xseg.artifacts.schema import CHUNK, SMALL
from xseg.errors import BadInput

NAMES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="/"), min_size=1).filter(
    lambda text: text not in {".", ".."} and not text.endswith("\0")
)
DTYPES = st.sampled_from(["uint8", "float16", "float32"])


def read(data):
    with Part(io.BytesIO(data), "here") as part:
        return part.header, list(part.records()), part.failures


@st.composite
def artifacts(draw):
    names = draw(st.lists(NAMES, max_size=4, unique=True))
    dtype, wide = draw(DTYPES), draw(st.booleans())
    records = []
    for index, name in enumerate(names):
        shape = draw(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(1, 9)))
        if wide:
            shape = (1, 230, SMALL // 200)
        values = np.random.default_rng(index).integers(0, 2, shape).astype(dtype)
        arrays = {
            "maps": values,
            "maps/class_id": np.arange(shape[0], dtype=np.int32) - 1,
            "maps/scale": np.linspace(0, 3, shape[0], dtype=np.float32),
        }
        labels = np.array(draw(st.lists(st.sampled_from([0, 1, 255]), min_size=3, max_size=3)), np.uint8)
        records.append(Record(3 * index, name, f"a b/{name}.png", (index, 2**25), "", labels, arrays))
    work = WorkList(3 * len(names) + 1, "f" * 64)
    classes = ("mit Umlaut ü", "猫", draw(st.sampled_from(["dog", "x" * 70_000])))
    # Maps of any grid belong to no image's size.
    return replace(header(classes=classes), work=work, extra={**EXTRA, "map_size": "model"}), records


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(artifacts(), st.booleans())
def test_what_is_written_is_read(artifact, compress):
    head, records = artifact
    found, read_back, _ = read(encoded(records, head, compress=compress))
    assert len(read_back) == len(records)
    assert all(same(one, other) for one, other in zip(records, read_back, strict=True))
    assert found == head


def test_every_field_of_the_header_survives():
    parents = header(seed=1).parents
    head = Header(
        "heatmaps",
        CLASSES,
        "explain",
        {"alpha": 0.1, "nested": {"b": [1, None, True]}, "text": "é"},
        parents=parents,
        argv=("xseg", "explain", "a file"),
        extra={"signed": True, "class_specific": False, "map_size": "56x56"},
        provenance={"seconds": 1.5},
        root="/pictures/of me",
        work=WorkList(3, "a" * 64),
        shard="1/3",
    )
    found, _, failures = read(encoded([], head, [failure(1, "bro\nken\x1b[31m  file")]))
    assert found == head
    assert failures[0].reason == "bro ken [31m file"


@pytest.mark.parametrize("optional", [True, False])
def test_optional_arrays_are_kept_or_left_out(optional):
    low = {name: np.full((2, 5, 7), 0.5, np.float16) for name in ("low", "high")}
    columns = {f"{name}/class_id": np.array([0, 2], np.int32) for name in low}
    records = [record(i, kind="pseudolabels") for i in range(3)]
    if optional:
        records = [replace(one, arrays={**one.arrays, **low, **columns}) for one in records]
    _, found, _ = read(encoded(records, header(kind="pseudolabels")))
    assert all(same(one, other) for one, other in zip(records, found, strict=True))


def test_an_optional_array_of_some_images_only_is_a_mistake_of_the_programmer():
    some = record(0, kind="pseudolabels"), record(1, kind="pseudolabels")
    more = {"low": np.zeros((1, 5, 7), np.float16), "low/class_id": np.zeros(1, np.int32)}
    for position in (0, 1):
        records = list(some)
        records[position] = replace(records[position], arrays={**records[position].arrays, **more})
        with pytest.raises(ValueError, match="low"):
            encoded(records, header(kind="pseudolabels"))


def test_mistakes_of_the_programmer_are_told_while_writing():
    with pytest.raises(ValueError, match="rising"):
        encoded([record(1), record(0)])
    with pytest.raises(ValueError, match="float32"):
        encoded([record(0), record(1, dtype="float32")])
    with pytest.raises(ValueError, match="no maps"):
        encoded([replace(record(0), arrays={})])
    with pytest.raises(ValueError, match="work list"):
        encoded([], replace(header(), work=None))


@pytest.mark.parametrize("name", ["../up", "a/../b", "/root", "", "a\nb", "\x1b[31m", "\udc80"])
def test_names_no_reader_would_accept_are_never_written(name):
    with pytest.raises(BadInput):
        encoded([replace(record(0), id=name)])
    with pytest.raises(BadInput):
        encoded([replace(record(0), path=name)])


def test_names_with_a_backslash_or_colon_are_fine():
    _, found, _ = read(encoded([replace(record(0), id="c:a\\b ..c/...", path="a:b\\..\\c.jpg")]))
    assert (found[0].id, found[0].path) == ("c:a\\b ..c/...", "a:b\\..\\c.jpg")


def test_digests_do_not_depend_on_compression_or_on_the_layout():
    whole = [record(index, size=(230, 240)) for index in range(6)]
    content = {compress: encoded(whole, compress=compress) for compress in (True, False)}
    assert len(content[True]) < len(content[False])
    found = [Part(io.BytesIO(data), "x") for data in content.values()]
    assert found[0].digests == found[1].digests
    assert found[0].content() == found[1].content() == found[0].stored_content() == found[1].stored_content()
    parts = [Part(io.BytesIO(encoded(whole[a:b])), "x") for a, b in ((0, 1), (1, 4), (4, 6))]
    digests = [digest for part in parts for digest in part.digests]
    assert header().content(digests) == found[0].content()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("index", 1),
        ("id", "other"),
        ("path", "other"),
        ("size", (7, 5)),
        ("source", "other"),
        ("labels", np.array([1, 1, 255], np.uint8)),
    ],
)
def test_the_digest_covers_every_field(field, value):
    assert replace(record(0), **{field: value}).digest != record(0).digest


def test_the_digest_covers_dtype_and_shape_of_the_arrays():
    one = record(2)
    for name, array in one.arrays.items():
        for other in (array.astype(np.float64), array[None], array + array.dtype.type(1)):
            assert replace(one, arrays={**one.arrays, name: other}).digest != one.digest
    assert replace(one, arrays={"other": one.arrays["maps"]}).digest != one.digest


def test_content_depends_on_run_kind_and_classes_but_not_on_the_shard_or_root():
    digests = ["a", "b"]
    base = header().content(digests)
    assert replace(header(), shard="0/2", root="elsewhere", provenance={"a": 1}).content(digests) == base
    for other in (header(seed=1), header(classes=("a", "b", "c")), header(kind="masks")):
        assert other.content(digests) != base
    assert header().content(["b", "a"]) != base
    assert header().content(["ab"]) != base


def test_run_depends_on_what_decides_the_result_and_on_nothing_else():
    base = header().run
    assert replace(header(), run="", argv=("x",), root="y", shard="0/2", provenance={"seconds": 3}).run == base
    assert replace(header(), run="", work=WorkList(1, "")).run == base
    changes = {"params": {"seed": 2}, "classes": ("a",), "command": "crf", "parents": (header().parents or ("x",))}
    del changes["parents"]
    for name, value in changes.items():
        assert replace(header(), run="", **{name: value}).run != base


def test_superblock_length_and_filters_are_as_promised(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(data := encoded([record(index, maps=2, size=(300, 500)) for index in range(3)]))
    assert data[8] in {2, 3}
    assert int.from_bytes(data[28:36], "little") == len(data)
    with h5py.File(path) as file:  # any HDF5 tool reads it
        values = file["maps/values"]
        assert (values.chunks, values.compression, values.compression_opts) == ((CHUNK,), "gzip", 1)
        assert values.shuffle
        assert file["images/id"].dtype.kind == file.attrs.get_id("run").dtype.kind == "S"
        assert h5py.check_string_dtype(file["images/id"].dtype).encoding == "utf-8"
        assert file["images/id"][2].decode() == record(2).id
        start, stop = file["maps/offsets"][1:3]
        third = values[start:stop].reshape(file["maps/shape"][1])
        assert np.array_equal(third, record(1, maps=2, size=(300, 500)).arrays["maps"])
        assert file["maps/offsets"].dtype == np.int64
        assert file["maps/shape"].dtype == np.int32
        assert (file.attrs["format"], file.attrs["complete"], file["images"].attrs["total"]) == (b"xseg", 1, 6)
    assert not read(encoded([record(0)]))[1][0].arrays["maps"].size


def test_small_arrays_are_contiguous(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(data := encoded([record(1), record(2)]))
    assert len(data) < 20_000
    with h5py.File(path) as file:
        assert file["maps/values"].chunks is None


def test_many_images_cross_chunks_and_flushes():
    records = [replace(record(i % 5, maps=3, size=(300, 400)), index=i, id=str(i)) for i in range(8)]
    head = replace(header(), work=WorkList.of(map(str, range(8))))
    _, found, _ = read(encoded(records, head))
    assert all(same(one, other) for one, other in zip(records, found, strict=True))


def test_weights_keep_order_dtype_and_shape():
    arrays = {
        "z.weight": np.random.default_rng(0).random((70, 500)).astype(np.float32),
        "a.bias": np.zeros(3, np.float16),
        "m.tracked": np.array(5, np.int64),
        "b.mask": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float32),
    }
    head = Header("classifier", CLASSES, "train-cls")
    buffer = io.BytesIO()
    content = encode_weights(buffer, head, '{"model": "x"}', arrays)
    with Part(buffer, "x") as part:
        found = part.weights()
        assert list(found) == list(arrays)
        for key, array in arrays.items():
            assert found[key].dtype == array.dtype
            assert np.array_equal(found[key], array)
        assert part.content() == part.stored_content() == content
        assert part.config() == '{"model": "x"}'


def test_results_are_kept_as_json():
    buffer = io.BytesIO()
    encode_result(buffer, Header("scores", CLASSES, "evaluate"), canonical({"miou": 0.5}))
    with Part(buffer, "x") as part:
        assert part.result() == {"miou": 0.5}
        assert part.content() == part.stored_content()


def test_an_artifact_without_images_still_tells_its_classes(tmp_path):
    path = tmp_path / "a.h5"
    with path.open("xb+") as file:
        encode(file, header(0), [])
    assert contents(path) == ([], [], header(0).content([]))


@pytest.mark.parametrize("ahead", [1, 40, 1 << 18])
def test_images_are_the_same_in_turn_backwards_and_at_random(monkeypatch, ahead):
    monkeypatch.setattr("xseg.artifacts.decode._AHEAD", ahead)
    records = [record(i, size=(3 + i, 5)) for i in range(9)]  # some without maps
    data = encoded(records, header(9))
    order = [*range(9), *range(8, -1, -1), *np.random.default_rng(0).integers(0, 9, 40).tolist()]
    with Part(io.BytesIO(data), "memory") as part:
        assert all(same(records[k], part.record(k)) for k in order)


def test_images_in_turn_are_read_together(monkeypatch):
    calls = []
    real = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, key: (calls.append(self.name), real(self, key))[1])
    records = [record(i, maps=2) for i in range(50)]
    with Part(io.BytesIO(encoded(records, header(50))), "memory") as part:
        calls.clear()
        assert len(list(part.records())) == 50
    assert calls == ["/maps/values"]
