import io
import os
import pty
import subprocess
import sys
import threading
import tracemalloc

import pytest

from tests.artifacts.build import contents, encoded, header, record, write
from xseg.artifacts.stream import first_part, locate, parts
from xseg.errors import BadInput, InputMissing, UsageError

PART = [encoded([record(i)], compress=False) for i in range(4)]


def seen(inputs):
    return [one.index for part in parts(inputs) for one in part.records()]


class Standard:
    """Standard input replaced by an open descriptor."""

    def __init__(self, handle):
        self.buffer = open(handle, "rb")  # noqa: PTH123, SIM115 - a descriptor, closed by the fixture


@pytest.fixture
def standard_input(monkeypatch):
    opened = []

    def use(handle):
        opened.append(Standard(handle))
        monkeypatch.setattr(sys, "stdin", opened[-1])

    yield use
    for one in opened:
        one.buffer.close()


@pytest.fixture
def piped(standard_input):
    """Blocks of bytes as standard input, each written on its own."""
    threads = []

    def start(*blocks):
        read, write_end = os.pipe()

        def send():
            with os.fdopen(write_end, "wb", buffering=0) as file:
                for block in blocks:
                    rest = memoryview(block)
                    while rest:
                        rest = rest[file.write(rest) :]

        threads.append(threading.Thread(target=send))
        threads[-1].start()
        standard_input(read)

    yield start
    for thread in threads:
        thread.join()


def test_artifacts_end_to_end_in_one_file_are_all_read(tmp_path):
    path = tmp_path / "many.h5"
    path.write_bytes(b"".join(PART))
    assert seen([str(path)]) == [0, 1, 2, 3]
    assert seen([str(path), str(path)]) == [0, 1, 2, 3] * 2
    with first_part(str(path)) as part:
        assert part.index.tolist() == [0]


def test_messages_number_the_parts(tmp_path):
    path = tmp_path / "many.h5"
    path.write_bytes(PART[0] + PART[1][:-1])
    with pytest.raises(BadInput, match=r"many.h5 \(part 2\): cut off"):
        seen([str(path)])


def test_a_pipe_is_read_part_by_part(piped):
    piped(*PART)
    assert seen(["-"]) == [0, 1, 2, 3]


def test_a_pipe_may_deliver_in_tiny_pieces(piped):
    data = b"".join(PART[:2])
    piped(*(data[i : i + 7] for i in range(0, 200, 7)), data[203:-3], data[-3:])
    assert seen(["-"]) == [0, 1]


def test_a_part_is_there_before_the_next_is_written(standard_input):
    read, write_end = os.pipe()
    standard_input(read)
    os.write(write_end, PART[0])
    found = parts(["-"])
    assert next(found).index.tolist() == [0]
    os.write(write_end, PART[1])
    assert next(found).index.tolist() == [1]
    os.close(write_end)
    assert list(found) == []


@pytest.mark.parametrize("length", [3, 8, 20, 47, 48, 100, 3000, len(PART[1]) - 1])
def test_a_stream_cut_off_in_a_part_is_bad_input(piped, length):
    piped(PART[0] + PART[1][:length])
    with pytest.raises(BadInput, match=r"part 2"):
        seen(["-"])


def test_junk_behind_the_last_part_is_bad_input(piped):
    piped(PART[0], b"done\n")
    with pytest.raises(BadInput, match="not an HDF5 file"):
        seen(["-"])


def test_parts_that_do_not_fit_into_memory_are_spooled(piped, monkeypatch, tmp_path):
    monkeypatch.setattr("xseg.artifacts.stream._IN_MEMORY", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    piped(*PART)
    assert seen(["-"]) == [0, 1, 2, 3]
    assert list(tmp_path.iterdir()) == []


def test_lines_of_paths_are_read_from_standard_input(piped, tmp_path):
    names = [write(tmp_path / f"{i} é.h5", [i]) for i in range(3)]
    piped(f"{names[2]}\n\n{names[0]}\r\n{names[1]}".encode())
    assert seen(["-"]) == [2, 0, 1]


def test_a_directory_gives_its_parts_in_order_of_their_names(tmp_path):
    for index in (2, 0, 1):
        write(tmp_path / f"{index:08d}-{index + 1:08d}.h5", [index])
    (tmp_path / "run").write_text("x")
    (tmp_path / ".0.h5.host.1.ab.tmp").write_bytes(b"half")
    assert seen([str(tmp_path)]) == [0, 1, 2]
    assert seen([str(tmp_path / "00000001-00000002.h5"), str(tmp_path)]) == [1, 0, 1, 2]


def test_a_fifo_is_a_stream(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    thread = threading.Thread(target=lambda: path.write_bytes(PART[0] + PART[2]))
    thread.start()
    (location,) = locate([str(path)])
    assert not location.again
    assert seen([str(path)]) == [0, 2]
    thread.join()


def test_an_empty_fifo_is_bad_input(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    thread = threading.Thread(target=lambda: path.write_bytes(b""))
    thread.start()
    with pytest.raises(BadInput, match="empty"), first_part(str(path)):
        pass
    thread.join()


def test_an_empty_standard_input_is_bad_input(piped):
    piped()
    with pytest.raises(BadInput, match="empty"):
        seen(["-"])


def test_no_standard_input_at_all_is_missing_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputMissing, match="closed"):
        seen(["-"])


def test_a_terminal_as_standard_input_is_refused(standard_input):
    ours, theirs = pty.openpty()
    try:
        standard_input(theirs)
        with pytest.raises(UsageError, match="terminal"):
            seen(["-"])
    finally:
        os.close(ours)


def test_standard_input_twice_is_refused():
    with pytest.raises(UsageError, match="twice"):
        locate(["-", "a.h5", "-"])


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\xff\xfe\x00 no text", BadInput),
        (b"no/such/file.h5\n", InputMissing),
        (b"a\0b\n", BadInput),
        (b"no/such/file.h5\n" + b"\xc3", BadInput),
        (b"x" * 10_000, InputMissing),
        (b"\n \n", BadInput),
    ],
)
def test_anything_else_on_standard_input_is_told(piped, data, error):
    piped(data)
    with pytest.raises(error) as found:
        seen(["-"])
    assert len(str(found.value)) < 400
    assert "\0" not in str(found.value)


def test_zeros_without_end_are_refused_at_once(standard_input):
    standard_input(os.open("/dev/zero", os.O_RDONLY))
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match="neither"):
            seen(["-"])
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("junk", [b"a.h5\n\0", b"a long name \xff", b"GIF89a\xff\xff"])
def test_what_is_no_list_of_paths_is_refused_before_its_end(standard_input, junk):
    read, write_end = os.pipe()
    standard_input(read)
    os.write(write_end, junk + b" " * 8)  # nobody closes it
    try:
        with pytest.raises(BadInput, match="neither"):
            seen(["-"])
    finally:
        os.close(write_end)


def test_a_list_of_paths_without_end_is_refused(standard_input):
    with subprocess.Popen(["yes", "x" * 1000], stdout=subprocess.PIPE) as writer:
        standard_input(os.dup(writer.stdout.fileno()))
        try:
            with pytest.raises(BadInput, match="longer than 16777216 bytes"):
                seen(["-"])
        finally:
            writer.kill()


def test_a_file_that_is_too_long_for_a_list_of_paths_is_refused(standard_input, tmp_path):
    (tmp_path / "list").write_bytes(b"some/path.h5\n" * 2_000_000)
    standard_input(os.open(tmp_path / "list", os.O_RDONLY))
    with pytest.raises(BadInput, match="longer than 16777216 bytes"):
        seen(["-"])


def test_a_list_of_paths_may_come_in_pieces_and_in_any_script(piped, tmp_path):
    (tmp_path / "é猫.h5").write_bytes(PART[2])
    data = f"{tmp_path / 'é猫.h5'}\n".encode()
    piped(*(data[i : i + 1] for i in range(len(data))))
    assert seen(["-"]) == [2]


def test_missing_inputs_are_told(tmp_path):
    for name in (tmp_path / "none.h5", tmp_path / "none" / "a.h5", tmp_path):
        with pytest.raises(InputMissing):
            locate([str(name)])
    with pytest.raises(BadInput):
        locate(["/dev/null"])


READER = """
import sys
from xseg.artifacts.stream import locate
(location,) = locate(["-"])
for again in range(2):
    print(location.again, location.where, [one.index for part in location.parts() for one in part.records()])
"""


def run(source, **options):
    command = [sys.executable, "-c", source]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def test_a_regular_file_as_standard_input_is_read_in_place(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"".join(PART[:2]))
    with path.open("rb") as file:
        done = run(READER, stdin=file)
    assert done.stdout.splitlines() == ["True standard input [0, 1]"] * 2, done.stderr


def test_a_file_of_paths_as_standard_input_is_read(tmp_path):
    names = [write(tmp_path / f"{i}.h5", [i]) for i in range(2)]
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in names))
    with (tmp_path / "list.txt").open("rb") as file:
        done = run(READER.replace("(location,) =", "_, location ="), stdin=file)
    assert done.stdout.splitlines() == [f"True {names[1]} [1]"] * 2, done.stderr


def test_only_one_part_is_open_at_a_time(tmp_path):
    path = tmp_path / "many.h5"
    path.write_bytes(b"".join(PART))
    found = parts([str(path)])
    next(found)
    one = next(found)  # the first has an image without maps, of which nothing is left to read
    next(found)
    with pytest.raises(BadInput):
        one.record(0)
    found.close()


def test_equal_data_joined_or_laid_end_to_end(tmp_path):
    whole = contents(write(tmp_path / "whole.h5", range(4)))
    digests = [part.digests[0] for part in parts([str(tmp_path / "whole.h5")])]
    (tmp_path / "many.h5").write_bytes(b"".join(PART))
    laid = [digest for part in parts([str(tmp_path / "many.h5")]) for digest in part.digests]
    assert header().content(laid) == whole[2]
    assert digests[0] == laid[0]


def test_a_window_behaves_like_a_file(tmp_path):
    from xseg.artifacts.stream import _Window

    (tmp_path / "x").write_bytes(bytes(range(100)))
    with (tmp_path / "x").open("rb") as file:
        window = io.BufferedReader(_Window(file, 10, 50))
        assert window.read() == bytes(range(10, 60))
        assert window.seek(-5, io.SEEK_END) == 45
        assert window.read(10) == bytes(range(55, 60))
        assert window.seek(60) == 60
        assert window.read(1) == b""
