import contextlib
import io
import os
import time
import tracemalloc
import zlib
from dataclasses import replace

import h5py
import numpy as np
import pytest

from tests.artifacts.build import EXTRA, encoded, header, record, write
from xseg.artifacts import Header, Part, guard
from xseg.artifacts.encode import encode_weights
from xseg.artifacts.record import failures_digest
from xseg.artifacts.schema import CHUNK
from xseg.artifacts.stream import first_part, parts
from xseg.datasets.decode import MAX_PIXELS
from xseg.errors import BadInput, UsageError

CANARY = b"the content of another file, which nobody may read"


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    path.write_bytes(CANARY)
    os.utime(path, (1, 2**31))  # a read would move the access time past this one
    return path


@contextlib.contextmanager
def changed(path, kind="heatmaps", **options):
    write(path, range(4), header(kind=kind), **options)
    with h5py.File(path, "r+", libver="latest") as file:
        yield file


def read_all(path):
    for part in parts([str(path)]):
        list(part.records())


def refused(path, match=None):
    started = time.monotonic()
    with pytest.raises(BadInput, match=match) as error:
        read_all(path)
    assert time.monotonic() - started < 1
    assert CANARY.decode() not in str(error.value)
    with pytest.raises(BadInput), Part(path, str(path)) as part:
        list(part.records())
    return str(error.value)


def test_the_unchanged_artifact_passes(tmp_path):
    path = tmp_path / "a.h5"
    with changed(path):
        pass
    (part,) = parts([str(path)])
    assert len(part) == 4


def soft_link(file, canary):
    file["images/other"] = h5py.SoftLink("/maps")


def dangling_link(file, canary):
    del file["maps/values"]
    file["maps/values"] = h5py.SoftLink("/nowhere")


def external_link(file, canary):
    del file["maps/values"]
    file["maps/values"] = h5py.ExternalLink(str(canary), "/x")


def external_storage(file, canary):
    del file["maps/values"]
    file.create_dataset("maps/values", (20,), "u1", external=[(str(canary), 0, 20)])


def virtual(file, canary):
    del file["maps/values"]
    layout = h5py.VirtualLayout((10,), "f2")
    layout[:] = h5py.VirtualSource(str(canary), "x", (10,))
    file.create_virtual_dataset("maps/values", layout)


def cycle(file, canary):
    file["maps/again"] = file["/"]


def second_name(file, canary):
    file["images/again"] = file["images/id"]


def shape_bomb(file, canary):
    del file["maps/values"]
    file.create_dataset("maps/values", (1 << 42,), "f2", chunks=(1 << 18,), compression="gzip")


def contiguous_bomb(file, canary):
    file.create_dataset("images/extra", (1 << 40,), "u1")


def text_bomb(file, canary):
    del file["images/id"]
    file.create_dataset("images/id", (1 << 30,), "S64", chunks=(1 << 10,))


def chunk_bomb(file, canary):
    file.create_dataset("images/extra", (1 << 29,), "u1", chunks=(1 << 28,), compression="gzip")


def unknown_filter(file, canary):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((10,))
    plist.set_filter(32099, h5py.h5z.FLAG_OPTIONAL, ())
    h5py.h5d.create(file["maps"].id, b"other", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((10,)), plist)


def text_of_variable_length(file, canary):
    texts = [text.decode() for text in file["images/id"][()]]
    del file["images/id"]
    file.create_dataset("images/id", data=texts, dtype=h5py.string_dtype())


def attribute_of_variable_length(file, canary):
    file.attrs["kind"] = "heatmaps"


def attribute_reference(file, canary):
    file.attrs["root"] = file.ref


def huge_attribute(file, canary):
    for number in range(1001):
        file["images"].attrs[f"a{number}"] = 1


def compound(file, canary):
    del file["images/size"]
    file.create_dataset("images/size", (4,), np.dtype([("h", "i4"), ("w", "i4")]))


def complex_values(file, canary):
    del file["images/size"]
    file["images/size"] = np.zeros((4, 2), np.complex64)


def opaque(file, canary):
    file.create_dataset("images/pickle", data=np.void(b"cos\nsystem\n"))


def object_reference(file, canary):
    file.create_dataset("images/refs", data=np.array([file.ref], dtype=h5py.ref_dtype))


def named_type(file, canary):
    file["images/type"] = np.dtype("f8")


def never_written(file, canary):
    file.create_dataset("images/extra", (1000,), "u1")


def empty_space(file, canary):
    del file["images/size"]
    file["images/size"] = h5py.Empty("i4")


@pytest.mark.parametrize(
    "change",
    [
        soft_link,
        dangling_link,
        external_link,
        external_storage,
        virtual,
        cycle,
        second_name,
        shape_bomb,
        contiguous_bomb,
        text_bomb,
        chunk_bomb,
        unknown_filter,
        text_of_variable_length,
        attribute_of_variable_length,
        attribute_reference,
        huge_attribute,
        compound,
        complex_values,
        opaque,
        object_reference,
        named_type,
        never_written,
        empty_space,
    ],
    ids=lambda change: change.__name__,
)
def test_what_has_no_place_in_an_artifact_is_refused(tmp_path, canary, change):
    path = tmp_path / "a.h5"
    with changed(path) as file:
        change(file, canary)
    refused(path)
    assert canary.stat().st_atime == 1


def replaced(name, make):
    def change(file):
        group, key = name.rsplit("/", 1)
        old = file[name][()]
        del file[name]
        file[group][key] = make(old)

    return change


def texts(*values):
    return lambda old: np.array([*values, *old[len(values) :].tolist()], "S40")


DAMAGED = {
    "id with ..": replaced("images/id", texts(b"../up")),
    "path with ..": replaced("images/path", texts(b"a/../../b.jpg")),
    "absolute path": replaced("images/path", texts(b"/etc/passwd")),
    "id with a control character": replaced("images/id", texts(b"a\x1b[2Jb")),
    "id with a line separator": replaced("images/id", texts("a\u2028b".encode())),
    "id that is not UTF-8": replaced("images/id", texts(b"\xff\xfe")),
    "empty id": replaced("images/id", texts(b"")),
    "another id": replaced("images/id", texts(b"other")),
    "another path": replaced("images/path", texts(b"other")),
    "another source": replaced("images/source", texts(b"other")),
    "another digest": replaced("images/digest", lambda old: old[::-1]),
    "another size": replaced("images/size", lambda old: old + 1),
    "other labels": replaced("images/labels", lambda old: 1 - old),
    "labels of another type": replaced("images/labels", lambda old: old.astype("i4")),
    "too few labels": replaced("images/labels", lambda old: old[:, :1]),
    "one id too few": replaced("images/id", lambda old: old[:-1]),
    "numbers as ids": replaced("images/id", lambda old: np.arange(4)),
    "index beyond the work list": replaced("images/index", lambda old: old + 4),
    "negative index": replaced("images/index", lambda old: old - 1),
    "index that is a scalar": replaced("images/index", lambda old: 3),
    "failure beyond the work list": lambda file: (
        file["failures"].__delitem__("index"),
        file["failures"].__delitem__("id"),
        file["failures"].__delitem__("reason"),
        file["failures"].create_dataset("index", data=[99]),
        file["failures"].create_dataset("id", data=np.array([b"a"], "S4")),
        file["failures"].create_dataset("reason", data=np.array([b"a"], "S4")),
        file["failures"].attrs.create("digest", np.bytes_(failures_digest([(99, "a", "a")]))),
    ),
    "failures that are not in their digest": lambda file: (
        file["failures"].__delitem__("index"),
        file["failures"].__delitem__("id"),
        file["failures"].__delitem__("reason"),
        file["failures"].create_dataset("index", data=[5]),
        file["failures"].create_dataset("id", data=np.array([b"a"], "S4")),
        file["failures"].create_dataset("reason", data=np.array([b"a"], "S4")),
    ),
    "a digest of no failures": lambda file: file["failures"].attrs.create("digest", np.bytes_(failures_digest([]))),
    "a side of 2^62": replaced("images/size", lambda old: np.full((4, 2), 1 << 62)),
    "a negative side": replaced("images/size", lambda old: -old),
    "values of another type": replaced("maps/values", lambda old: old.astype("f8")),
    "values of another byte order": replaced("maps/values", lambda old: old.astype(">f2")),
    "values in two dimensions": replaced("maps/values", lambda old: old[None]),
    "too few values": replaced("maps/values", lambda old: old[:-1]),
    "offsets that start late": replaced("maps/offsets", lambda old: old + 1),
    "offsets that fall": replaced("maps/offsets", lambda old: old[::-1]),
    "offsets that are not whole": replaced("maps/offsets", lambda old: old + 0.5),
    "no offsets": replaced("maps/offsets", lambda old: old[:0]),
    "negative shape": replaced("maps/shape", lambda old: -old),
    "huge shape": replaced("maps/shape", lambda old: np.full_like(old, 2**31 - 1)),
    "shape with two axes": replaced("maps/shape", lambda old: old[:, :2]),
    "one class id too few": replaced("maps/class_id", lambda old: old[:-1]),
    "class ids of another type": replaced("maps/class_id", lambda old: old.astype("f4")),
    "other class ids": replaced("maps/class_id", lambda old: old[::-1]),
    "no values": lambda file: file["maps"].__delitem__("values"),
    "no maps": lambda file: file.__delitem__("maps"),
    "no images": lambda file: file.__delitem__("images"),
    "no failures": lambda file: file.__delitem__("failures"),
    "an array as images": lambda file: (file.__delitem__("images"), file.create_dataset("images", data=1)),
    "a group as values": lambda file: (file["maps"].__delitem__("values"), file["maps"].create_group("values")),
    "an attribute with two values": lambda file: file.attrs.create("kind", np.array([b"heatmaps", b"x"])),
    "an attribute that is a fraction": lambda file: file.attrs.create("format_version", 1.5),
    "no work list": lambda file: file["images"].attrs.__delitem__("worklist_sha256"),
    "no total": lambda file: file["images"].attrs.__delitem__("total"),
    "total that is text": lambda file: file["images"].attrs.create("total", np.bytes_(b"x")),
}


@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED.keys())
def test_contents_that_do_not_fit_together_are_refused(tmp_path, change):
    path = tmp_path / "a.h5"
    with changed(path, maps=2) as file:
        change(file)
    refused(path)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("format", "other"),
        ("kind", "masks"),
        ("kind", "unknown"),
        ("kind", "classifier"),
        ("kind", "scores"),
        ("format_version", 2),
        ("format_version", 0),
        ("complete", 0),
        ("run", "0" * 64),
        ("content", "0" * 64),
        ("classes", '["cat", "dog", "sofa", "more"]'),
        ("classes", '["cat", "dog", "sofu"]'),
        ("classes", '["cat", "dog", "so\\u0007fa"]'),
        ("classes", '["cat", "dog", 3]'),
        ("classes", "{}"),
        ("classes", "[" * 5000),
        ("params", "[]"),
        ("params", "no json"),
        ("params", '{"a": NaN}'),
        ("parents", '[{"kind": "x"}]'),
        ("parents", "3"),
        ("command", '["a", 1]'),
        ("provenance", "null"),
        ("root", "/pictures\x1b[2J"),
        ("root", "/pictures\u202egpj"),
        ("created", "2026\x07"),
        ("created", "2026\nrun: other"),
        ("xseg_version", "1\u2066"),
        ("shard", "\x9b"),
        ("run", "\u2028"),
        ("map_size", "image\ufeff"),
        ("other", "\x1b"),
        ("params", '{"a": ["\\u001b"]}'),
        ("params", '{"\\u202e": 1}'),
        ("provenance", '{"dataset": {"split": "\\u009b"}}'),
        ("parents", '[{"kind": "\\u2029", "content": ""}]'),
        ("command", '["a", "\u202e"]'),
        ("classes", '["cat", "dog", "so\\u0085fa"]'),
    ],
)
def test_root_attributes_that_make_no_sense_are_refused(tmp_path, attribute, value):
    path = tmp_path / "a.h5"
    with changed(path) as file:
        file.attrs[attribute] = value if isinstance(value, int) else np.bytes_(value.encode())
    refused(path)


def test_every_missing_root_attribute_is_noticed(tmp_path):
    with changed(tmp_path / "a.h5") as file:
        names = list(file.attrs)
    assert {"run", "content", "complete", "signed", "root", "shard"} < set(names)
    for name in names:
        with changed(tmp_path / "a.h5") as file:
            del file.attrs[name]
        refused(tmp_path / "a.h5")


def test_a_later_version_says_to_upgrade(tmp_path):
    path = tmp_path / "a.h5"
    with changed(path) as file:
        file.attrs["format_version"] = 99
    assert "upgrade xseg" in refused(path, "version 99")


@pytest.mark.parametrize("userblock", [0, 512])
def test_old_superblocks_and_userblocks_are_refused(tmp_path, userblock):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="earliest" if not userblock else "latest", userblock_size=userblock) as file:
        file["x"] = 1
    refused(path, "HDF5")


@pytest.mark.parametrize(("offset", "value"), [(9, 4), (10, 4), (12, 1), (28, 1), (34, 255), (8, 1)])
def test_a_superblock_that_lies_is_refused(tmp_path, offset, value):
    path, data = tmp_path / "a.h5", bytearray(encoded([record(0)]))
    data[offset] = value
    path.write_bytes(data)
    refused(path)


def test_a_strange_shard_or_a_link_to_a_device_is_refused(tmp_path):
    for strange in ("/dev/null", "/dev/zero"):
        with pytest.raises(BadInput):
            Part(type(tmp_path)(strange), strange)
        with pytest.raises(BadInput):
            list(parts([strange]))


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BadInput, match="regular"):
        Part(tmp_path / "fifo", "fifo")


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.attrs.__delitem__("config"),
        lambda file: file.__delitem__("weights"),
        lambda file: file["weights"].create_group("inner"),
        lambda file: file["weights"].__setitem__("link", h5py.SoftLink("/weights/a")),
    ],
)
def test_damaged_networks_are_refused(tmp_path, change):
    path = tmp_path / "a.h5"
    with path.open("xb+") as file:
        encode_weights(file, Header("classifier", ("a",), "train-cls"), "{}", {"a": np.zeros(3, np.float32)})
    with h5py.File(path, "r+", libver="latest") as file:
        change(file)
    with pytest.raises(BadInput), Part(path, "a.h5") as part:
        part.weights()


@pytest.mark.parametrize("result", ["[]", "x", '{"a\\u202e": 1}', None])
def test_damaged_scores_are_refused(tmp_path, result):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("v110", "v110")) as file:
        for name, value in Header("scores", ("a",), "evaluate").attributes("c").items():
            file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value
        if result is not None:
            file.attrs["result"] = np.bytes_(result.encode())
    with pytest.raises(BadInput):
        Part(buffer, "a")


def refused_unread(path, match):
    """Refused at once, and without the memory its arrays would take."""
    tracemalloc.start()
    try:
        refused(path, match)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def zeros(group, name, count, dtype):
    """`count` zeros, whole chunks of them, made in no time: all chunks are copies of one."""
    made = group.create_dataset(name, (count,), dtype, chunks=(CHUNK,), compression="gzip")
    chunk = zlib.compress(bytes(CHUNK * made.dtype.itemsize), 9)
    for start in range(0, count, CHUNK):
        made.id.write_direct_chunk((start,), chunk)


def network(path, arrays):
    with path.open("xb+") as file:
        encode_weights(file, Header("classifier", ("a",), "train-cls"), "{}", arrays)
    return path


def test_weights_that_were_never_written_are_refused(tmp_path):
    path = network(tmp_path / "a.h5", {"a": np.zeros(3, np.float32)})
    with h5py.File(path, "r+", libver="latest") as file:
        for number in range(400):
            file["weights"].create_dataset(f"{number}", (1 << 24,), "f4", chunks=(1 << 16,))
    refused_unread(path, "declares 67108864 bytes but stores 0")


@pytest.mark.parametrize("name", ["weights/values", "weights/maps", "images/more", "other"])
def test_arrays_that_inflate_a_thousandfold_are_refused(tmp_path, name):
    path = network(tmp_path / "a.h5", {"a": np.zeros(3, np.float32)})
    with h5py.File(path, "r+", libver="latest") as file:
        for number in range(16):
            zeros(file, f"{name}{number}" if number else name, 1 << 24, "f4")
    assert path.stat().st_size < 2 << 20
    refused_unread(path, "declare")


def test_networks_of_many_zeros_are_read(tmp_path):
    noise = np.random.default_rng(0).random(1 << 20).astype(np.float32)
    arrays = {"noise": noise, "zeros": np.zeros(1 << 24, np.float32), "steps": np.arange(1 << 20), "one": np.zeros(())}
    with first_part(str(network(tmp_path / "a.h5", arrays))) as part:
        assert part.weights().keys() == arrays.keys()
    bare = network(tmp_path / "b.h5", {"zeros": np.zeros(60 << 20, np.uint8)})
    assert bare.stat().st_size < 1 << 20
    with first_part(str(bare)) as part:
        assert part.weights()["zeros"].size == 60 << 20
    network(tmp_path / "c.h5", {"zeros": np.zeros(100 << 20, np.uint8)})
    refused_unread(tmp_path / "c.h5", "declare")


def zero_maps(path, count, grid, size, map_size):
    """Heatmaps of one image of `size` that has `count` maps, all zero."""
    head = header(extra={**EXTRA, "map_size": map_size})
    path.write_bytes(encoded([record(0, maps=count, size=(1, 1))], head))
    with h5py.File(path, "r+", libver="latest") as file:
        elements = count * grid[0] * grid[1]
        for name in ("maps/values", "maps/offsets", "maps/shape", "images/size"):
            del file[name]
        zeros(file, "maps/values", elements, "f2")
        file["maps/offsets"], file["maps/shape"] = [0, elements], [[count, *grid]]
        file["images/size"] = [size]
    return path


LARGE = 1 << 14


@pytest.mark.parametrize(
    ("count", "grid", "size", "map_size", "told"),
    [
        (1, (5 * LARGE // 2, 5 * LARGE // 2), (64, 64), "image", "its image 64x64"),
        (1, (512, 1024), (1024, 512), "image", "its image 1024x512"),
        (1, (LARGE, LARGE), (LARGE, LARGE), "image", "pixels"),
        (1, (LARGE, LARGE), (64, 64), "model", "is 16384x16384"),
        (16, (LARGE // 2, LARGE // 2), (LARGE // 2, LARGE // 2), "image", "bytes"),
        (16, (LARGE // 2, LARGE // 2), (64, 64), "model", "bytes"),
    ],
)
def test_an_image_whose_maps_would_take_gigabytes_is_refused(tmp_path, count, grid, size, map_size, told):
    refused_unread(zero_maps(tmp_path / "a.h5", count, grid, size, map_size), told)


def test_label_maps_that_are_not_of_their_image_are_refused(tmp_path):
    for kind in ("masks", "pseudolabels"):
        path = tmp_path / f"{kind}.h5"
        with changed(path, kind=kind) as file:
            name = {"masks": "masks", "pseudolabels": "labels"}[kind]
            replaced(f"{name}/shape", lambda old: old[:, ::-1])(file)
        refused(path, "is 7x5, its image 5x7")


def test_a_writer_refuses_maps_that_are_not_of_their_image():
    with pytest.raises(ValueError, match="its image"):
        encoded([replace(record(1), size=(7, 5))])


def test_many_zero_maps_are_read_one_image_at_a_time(tmp_path):
    path, size = tmp_path / "a.h5", (1000, 1000)
    many = 40
    plain = record(0, maps=0)
    arrays = {
        "maps": np.zeros((2, *size), np.float16),
        "maps/class_id": np.array([1, 2], np.int32),
        "maps/scale": np.zeros(2, np.float32),
    }
    records = (replace(plain, index=i, id=str(i), size=size, arrays=arrays) for i in range(many))
    path.write_bytes(encoded(records, header(many + 1)))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        assert sum(one.nbytes for part in parts([str(path)]) for one in part.records()) > 160_000_000
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_the_bound_for_one_image_grows_with_the_file(tmp_path, monkeypatch):
    path = zero_maps(tmp_path / "a.h5", 2, (1024, 1024), (1024, 1024), "image")
    needed, length = 2 * 1024 * 1024 * 2 + 2 * 8, path.stat().st_size
    monkeypatch.setattr(guard, "_IMAGE_SPARE", needed - 100 * length)
    with Part(path, "a.h5") as part:
        assert len(part) == 1
    monkeypatch.setattr(guard, "_IMAGE_SPARE", needed - 100 * length - 1)
    refused_unread(path, f"an image needs {needed} bytes")


def test_an_image_may_have_as_many_pixels_as_are_read():
    assert guard.MAX_PIXELS == MAX_PIXELS


def test_hints_are_written_without_control_characters():
    strange = "\x1b[2J\u202e\n\udcff"
    head = replace(header(), root=f"/a{strange}", argv=("xseg", strange), provenance={"split": [strange], strange: 1})
    with Part(io.BytesIO(encoded([record(0)], head)), "a") as part:
        found = part.header
    plain = "\ufffd[2J\ufffd\ufffd\ufffd"
    assert (found.root, found.argv) == (f"/a{plain}", ("xseg", plain))
    assert found.provenance == {"split": [plain], plain: 1}


@pytest.mark.parametrize("change", [{"params": {"a": ["\x1b"]}}, {"params": {"\n": 1}}, {"classes": ("a\u202eb",)}])
def test_options_with_control_characters_are_refused_before_the_work(change):
    with pytest.raises(UsageError, match="control characters"):
        replace(header(), run="", **change)


def test_joiners_are_letters():
    text = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f469\u200d\U0001f52c"
    head = replace(header(classes=("a", "b", text)), root=f"/{text}")
    with Part(io.BytesIO(encoded([record(0)], head)), "a") as part:
        assert (part.header.classes[2], part.header.root) == (text, f"/{text}")
