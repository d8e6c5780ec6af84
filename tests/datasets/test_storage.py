import io
import os
import pickle
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.datasets.builders import as_tar, as_zip, pixels, png, put
from xseg.datasets.names import safe_name
from xseg.datasets.storage import FOLLOW_LINKS, open_storage
from xseg.errors import BadInput, InputMissing, OutputFailed, XsegError

FILES = {
    "a/x.bin": bytes(range(256)) * 40,
    "a/b/y.bin": b"y",
    "top.txt": "hello",
    ".hidden/z": "no",
    "a/.DS_Store": "no",
}
KINDS = ["directory", "tar", "tar.gz", "tar.bz2", "tar.xz", "zip"]


def stored(tmp_path, kind, files=FILES):
    root = put(tmp_path / "root", files)
    if kind == "directory":
        return root
    if kind == "zip":
        return as_zip(root, tmp_path / "x.zip")
    return as_tar(root, tmp_path / f"x.{kind}", "w:" + kind.partition(".")[2])


@pytest.mark.parametrize("kind", KINDS)
def test_every_storage_shows_and_reads_the_same_files(tmp_path, kind):
    storage = open_storage(stored(tmp_path, kind))
    assert storage.names() == ["a/b/y.bin", "a/x.bin", "top.txt"]
    assert storage.children() == ["a/", "top.txt"]
    assert storage.children("a") == storage.children("a/") == ["b/", "x.bin"]
    assert storage.children("nowhere") == []
    assert storage.read("a/x.bin") == FILES["a/x.bin"]
    assert storage.read("./top.txt") == b"hello"
    assert storage.exists("a/b/y.bin")
    assert not storage.exists("a/b")
    assert not storage.exists("a/none")
    with pytest.raises(InputMissing, match="a/none"):
        storage.read("a/none")


@pytest.mark.parametrize("kind", ["directory", "tar", "tar.gz", "zip"])
def test_threads_a_pickled_copy_and_a_forked_child_read_the_same(tmp_path, kind):
    files = {f"d/{k}": bytes([k]) * (10_000 + k) for k in range(40)}
    storage = open_storage(stored(tmp_path, kind, {**files, "e": "e"}))

    def check(reader):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(reader.read, list(files) * 4))
        return found == list(files.values()) * 4

    assert check(storage)
    assert check(pickle.loads(pickle.dumps(storage)))
    child = os.fork()
    if child == 0:
        os._exit(0 if all(storage.read(name) == data for name, data in files.items()) else 1)
    assert check(storage)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", ".", "a\nb", "a\x00b", "a\x85b", "a\udc80"])
def test_names_that_could_leave_or_break_a_listing_are_refused(tmp_path, name):
    with pytest.raises(BadInput, match=r"list\.txt"):
        safe_name(name, "list.txt")
    storage = open_storage(put(tmp_path / "root", {"a": "a"}))
    with pytest.raises(BadInput):
        storage.read(name)
    with pytest.raises(BadInput):
        storage.exists(name)


def test_harmless_names_pass():
    assert safe_name("./a//b c/.d/ü..jpg", "x") == "a/b c/.d/ü..jpg"


def tar_with(path, *members):
    with tarfile.open(path, "w") as tar:
        for name, kind, link, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../evil", tarfile.REGTYPE, ""),
        ("/evil", tarfile.REGTYPE, ""),
        ("d/link", tarfile.SYMTYPE, "../../outside"),
        ("d/link", tarfile.SYMTYPE, "/etc/passwd"),
        ("d/link", tarfile.LNKTYPE, "../outside"),
        ("d/link", tarfile.SYMTYPE, "link"),
        ("d/link", tarfile.SYMTYPE, "absent"),
        ("device", tarfile.CHRTYPE, ""),
        ("pipe", tarfile.FIFOTYPE, ""),
    ],
)
def test_a_tar_with_a_member_that_leaves_it_or_is_no_file_is_refused(tmp_path, name, kind, link):
    archive = tar_with(tmp_path / "x.tar", ("good", tarfile.REGTYPE, "", b"1"), (name, kind, link, b""))
    with pytest.raises(BadInput, match=r"x\.tar"):
        open_storage(archive)


def test_links_inside_a_tar_give_the_file_they_point_to(tmp_path):
    members = [
        ("data/a", tarfile.REGTYPE, "", b"one"),
        ("links/soft", tarfile.SYMTYPE, "../data/a", b""),
        ("links/softer", tarfile.SYMTYPE, "soft", b""),
        ("links/hard", tarfile.LNKTYPE, "data/a", b""),
    ]
    storage = open_storage(tar_with(tmp_path / "x.tar", *members))
    assert [storage.read(f"links/{name}") for name in ("soft", "softer", "hard")] == [b"one"] * 3


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_a_zip_with_a_name_that_leaves_it_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(name, b"1")
    with pytest.raises(BadInput, match=r"x\.zip"):
        open_storage(tmp_path / "x.zip")


def test_links_in_a_zip_are_followed_inside_and_refused_outside(tmp_path):
    def pack(target):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr("data/a", b"one")
            link = zipfile.ZipInfo("links/b")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, target)
        return tmp_path / "x.zip"

    assert open_storage(pack("../data/a")).read("links/b") == b"one"
    with pytest.raises(BadInput, match="leaves"):
        open_storage(pack("../../data/a"))


def test_links_of_a_directory_may_stay_inside_but_not_leave_unless_wanted(tmp_path, monkeypatch):
    outside = put(tmp_path / "outside", {"secret": "s", "d/e": "e"})
    root = put(tmp_path / "root", {"data/a": "one"})
    (root / "inner").symlink_to("data/a")
    (root / "leaves").symlink_to(outside / "secret")
    (root / "away").symlink_to(outside / "d")
    (root / "data" / "loop").symlink_to(root)
    storage = open_storage(root)
    assert storage.read("inner") == b"one"
    for name in ("leaves", "away/e"):
        with pytest.raises(BadInput, match="leaves") as caught:
            storage.read(name)
        assert FOLLOW_LINKS in caught.value.hint
    monkeypatch.setenv(FOLLOW_LINKS, "1")
    storage = open_storage(root)
    assert storage.read("leaves") == b"s"
    assert storage.read("away/e") == b"e"
    assert storage.names() == ["away/e", "data/a", "inner", "leaves"]


def test_a_root_that_is_itself_a_link_is_the_users_choice(tmp_path):
    root = put(tmp_path / "root", {"a": "a"})
    (tmp_path / "alias").symlink_to(root)
    assert open_storage(tmp_path / "alias").read("a") == b"a"


def test_a_pipe_in_a_directory_is_refused_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="regular file"):
        open_storage(tmp_path).read("pipe")


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_a_truncated_archive_is_bad_input_that_names_it(tmp_path, kind):
    archive = stored(tmp_path, kind, {"a/x": os.urandom(50_000), "b": os.urandom(50_000)})
    archive.write_bytes(archive.read_bytes()[:60_000])
    with pytest.raises(BadInput, match=r"x\."):
        open_storage(archive)


def test_a_damaged_zip_member_is_noticed_when_read(tmp_path):
    archive = stored(tmp_path, "zip", {"a": os.urandom(5000), "b": "b"})
    data = bytearray(archive.read_bytes())
    data[2000] ^= 255
    archive.write_bytes(data)
    storage = open_storage(archive)
    assert storage.read("b") == b"b"
    with pytest.raises(BadInput, match="a cannot be unpacked"):
        storage.read("a")


def test_a_full_temporary_disk_is_told_as_such(tmp_path, monkeypatch):
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("no /dev/full here")
    archive = stored(tmp_path, "tar.gz")
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: open("/dev/full", "wb"))  # noqa: PTH123, SIM115
    with pytest.raises(OutputFailed, match="no room"):
        open_storage(archive)


def test_a_wrapping_directory_in_an_archive_is_taken_off(tmp_path):
    root = put(tmp_path / "root", {"a/x.bin": "x", "list.txt": "l"})
    for archive in (as_tar(root, tmp_path / "x.tar", prefix="deep/VOC"), as_zip(root, tmp_path / "x.zip", "deep/VOC/")):
        assert open_storage(archive).names() == ["a/x.bin", "list.txt"]


def test_a_directory_of_images_is_not_taken_for_a_wrapping(tmp_path):
    root = put(tmp_path / "root", {"cat/x.png": png(pixels(0))})
    assert open_storage(as_zip(root, tmp_path / "x.zip")).names() == ["cat/x.png"]


def test_places_that_are_not_there_or_no_storage_are_told_apart(tmp_path):
    with pytest.raises(InputMissing, match="nowhere"):
        open_storage(tmp_path / "nowhere")
    (tmp_path / "x.h5").write_bytes(b"1")
    with pytest.raises(BadInput, match="neither"):
        open_storage(tmp_path / "x.h5")
    for name in ("x.zip", "x.tar", "x.tar.gz"):
        (tmp_path / name).write_bytes(b"not an archive" * 50)
        with pytest.raises(XsegError, match=name) as caught:
            open_storage(tmp_path / name)
        assert isinstance(caught.value, BadInput)
