import pytest

from xseg.errors import CannotCreate, OutputFailed
from xseg.scores.journal import Journal


@pytest.fixture
def out(tmp_path):
    return tmp_path / "scores.h5"


def filled(out, count=3):
    journal = Journal(out, "run")
    for number in range(count):
        journal.add(f"image {number}", {"value": [number / 3, 1e-300]})
    return journal


def test_what_was_added_is_found_to_the_bit(out):
    path = filled(out).path
    again = Journal(out, "run")
    assert len(again) == 3
    assert [again.get(f"image {number}")["value"] for number in range(3)] == [[n / 3, 1e-300] for n in range(3)]
    assert again.get("image 9") is None
    again.remove()
    assert not path.exists()
    assert len(Journal(out, "run")) == 0


def test_without_an_output_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = Journal(None, "run")
    journal.add("a", 1)
    assert journal.get("a") == 1
    journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_cut_off_at_any_byte_what_is_whole_is_kept_and_goes_on(out):
    path = filled(out).path
    data = path.read_bytes()
    starts = [0] + [k + 1 for k, byte in enumerate(data) if byte == ord("\n")]
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        journal = Journal(out, "run")
        assert len(journal) == max(0, sum(start <= size for start in starts[1:]) - 1)
        journal.add("next", 1)
        again = Journal(out, "run")
        assert (len(again), again.get("next")) == (len(journal), 1)


def test_a_changed_byte_ends_what_is_read(out):
    path = filled(out).path
    data = bytearray(path.read_bytes())
    data[data.index(b"image 1")] ^= 1
    path.write_bytes(data)
    assert len(Journal(out, "run")) == 1


def test_another_runs_journal_stays_unless_it_may_be_replaced(out):
    path = filled(out).path
    for text in (path.read_bytes(), b"somebody's notes\n"):
        path.write_bytes(text)
        with pytest.raises(CannotCreate, match="is not the journal of this run"):
            Journal(out, "other")
        assert path.read_bytes() == text
    journal = Journal(out, "other", overwrite=True)
    journal.add("a", 1)
    assert Journal(out, "other").get("a") == 1


def test_a_disk_that_does_not_take_it_is_told(tmp_path):
    journal = Journal(tmp_path / "gone/scores.h5", "run")
    with pytest.raises((OutputFailed, CannotCreate), match=r"scores.h5.journal"):
        journal.add("a", 1)
