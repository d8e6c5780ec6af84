import contextlib
import io
import os
import time

import h5py
import numpy as np
import pytest

from tests.artifacts.build import encoded, header, record, write
from xseg.artifacts import Header, Part
from xseg.artifacts.encode import encode_weights
from xseg.artifacts.stream import parts
from xseg.errors import BadInput

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
    ),
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


@pytest.mark.parametrize("result", ["[]", "x", None])
def test_damaged_scores_are_refused(tmp_path, result):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("v110", "v110")) as file:
        for name, value in Header("scores", ("a",), "evaluate").attributes("c").items():
            file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value
        if result is not None:
            file.attrs["result"] = np.bytes_(result.encode())
    with pytest.raises(BadInput):
        Part(buffer, "a")
