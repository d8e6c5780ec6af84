import errno
import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.artifacts.build import contents, encoded, header, record
from xseg.artifacts.encode import encode
from xseg.artifacts.publish import check_writable, publish, remove_leftovers
from xseg.errors import CannotCreate, OutputFailed


def put(path, data=b"new", **options):
    publish(path, lambda file: file.write(data), **options)


def test_a_file_appears_whole_and_nothing_else(tmp_path):
    put(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"


def test_an_existing_file_stays_unless_it_may_be_overwritten(tmp_path):
    put(tmp_path / "a", b"old")
    with pytest.raises(CannotCreate, match="overwrite"):
        put(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"
    put(tmp_path / "a", overwrite=True)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_after_an_error_nothing_is_left(tmp_path, overwrite, error):
    def write(file):
        file.write(b"half")
        raise error

    if overwrite:
        put(tmp_path / "a", b"old")
    with pytest.raises(OutputFailed if isinstance(error, OSError) else type(error)):
        publish(tmp_path / "a", write, overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({"a": b"old"} if overwrite else {})


def test_without_hard_links_the_file_is_renamed(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    put(tmp_path / "a", b"old")
    with pytest.raises(CannotCreate):
        put(tmp_path / "a")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_outputs_that_cannot_be_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    strange = ["", "none/a", "file/a", "dangling", "fifo", "x" * 256, "y" * 245]
    for path in (*(tmp_path / name for name in strange), Path("/dev/null"), Path("/proc/a.h5")):
        with pytest.raises(CannotCreate):
            check_writable(path)
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "new")
    (tmp_path / "link").symlink_to("file")
    check_writable(tmp_path / "link")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "dangling", "fifo", "link"}
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_errors_that_concern_the_name_are_73_and_those_of_the_disk_74(tmp_path, monkeypatch):
    for number, expected in (
        (errno.EACCES, CannotCreate),
        (errno.EROFS, CannotCreate),
        (errno.ENOTDIR, CannotCreate),
        (errno.ENOSPC, OutputFailed),
        (errno.EDQUOT, OutputFailed),
        (errno.EIO, OutputFailed),
    ):
        monkeypatch.setattr(os, "fsync", lambda _, number=number: (_ for _ in ()).throw(OSError(number, "told")))
        with pytest.raises(expected, match="told"):
            put(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_processes_are_removed_and_those_of_living_ones_kept(tmp_path):
    child = "import os, sys; from xseg.artifacts.publish import publish; from pathlib import Path"
    child += "\npublish(Path(sys.argv[1]), lambda file: os._exit(9))"
    path = tmp_path / "a[1].h5"
    assert subprocess.run([sys.executable, "-c", child, str(path)], check=False).returncode == 9
    (leftover,) = tmp_path.iterdir()

    def ours(file):
        remove_leftovers(path)
        assert not leftover.exists()
        file.write(b"new")

    (tmp_path / ".a[1].h5.elsewhere.1.ab.tmp").touch()
    publish(path, ours)
    assert {found.name for found in tmp_path.iterdir()} == {"a[1].h5", ".a[1].h5.elsewhere.1.ab.tmp"}


FULL = """
import errno, io, sys
from tests.artifacts.build import *
from xseg.artifacts import Header
from xseg.artifacts.encode import encode, encode_result, encode_weights
from xseg.errors import OutputFailed

class Full(io.BytesIO):
    allowed = 0
    def _count(self):
        self.calls += 1
        if self.calls > self.allowed:
            raise OSError(errno.ENOSPC, "No space left on device")
    def write(self, data):
        self._count()
        return super().write(data)
    def truncate(self, size=None):
        self._count()
        return super().truncate(size)
    def seek(self, *place):
        if self.calls > self.allowed:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().seek(*place)

def images(file):
    encode(file, header(), [record(i, maps=2, size=(200, 250)) for i in (0, 1)], [failure(5)])

def network(file):
    arrays = {str(i): np.random.default_rng(i).random((60, 560)).astype(np.float32) for i in range(2)}
    encode_weights(file, Header("classifier", ("a",), "train-cls"), "{}", arrays)

def scores(file):
    encode_result(file, Header("scores", ("a",), "evaluate"), '{"a": "' + "b" * 70000 + '"}')

for write in (images, network, scores):
    failed = 0
    for allowed in range(10_000):
        file = Full()
        file.calls, file.allowed = 0, allowed
        try:
            write(file)
            break
        except OutputFailed as error:
            assert "No space left" in error.problem
            failed += 1
    assert failed == allowed > 3, (failed, allowed)
    print(write.__name__, failed)
"""


def run(source, *arguments):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=root)


def test_a_disk_that_is_full_at_any_write_is_an_error_and_no_crash():
    done = run(FULL)
    assert done.returncode == 0, done.stderr[-2000:] or done.returncode
    assert len(done.stdout.splitlines()) == 3


PUBLISH = """
import resource, signal, sys
from pathlib import Path
from tests.artifacts.build import *
from xseg.artifacts.encode import encode
from xseg.artifacts.publish import publish
from xseg.errors import OutputFailed

path, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
made = 0
def records():
    global made
    for index in range(400):
        made += 1
        yield replace(record(2, size=(300, 300), noise=index), index=index)
try:
    publish(path, lambda file: encode(file, replace(header(), work=WorkList(400, "")), records()))
except OutputFailed as error:
    print(made, error)
"""


def is_full_error(done):
    return done.returncode == 0 and "free some space" in done.stdout and int(done.stdout.split()[0]) < 100


def test_a_file_that_grows_too_large_is_an_error_soon_and_leaves_nothing(tmp_path):
    done = run(PUBLISH, tmp_path / "a.h5", 2_000_000)
    assert is_full_error(done), done
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mounted = os.geteuid() == 0 and not subprocess.call(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], stderr=subprocess.DEVNULL
    )
    if not mounted:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.check_call(["umount", str(place)])


def test_a_full_disk_is_an_error_and_leaves_nothing(small_disk):
    done = run(PUBLISH, small_disk / "a.h5", 0)
    assert is_full_error(done), done
    assert list(small_disk.iterdir()) == []


def test_a_read_only_disk_is_told_before_the_work(small_disk):
    subprocess.check_call(["mount", "-o", "remount,ro", str(small_disk)])
    with pytest.raises(CannotCreate, match="Read-only"):
        check_writable(small_disk / "a.h5")


def test_the_data_does_not_depend_on_the_kind_of_file(tmp_path):
    records = [record(i, maps=2, size=(100, 200)) for i in range(5)]
    publish(tmp_path / "a.h5", lambda file: encode(file, header(), records))
    buffer = io.BytesIO()
    encode(buffer, header(), records)
    assert len(buffer.getvalue()) == (tmp_path / "a.h5").stat().st_size == len(encoded(records))
    assert contents(tmp_path / "a.h5")[2] == header().content(one.digest for one in records)
