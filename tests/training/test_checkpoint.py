import os

import pytest
import torch

from xseg.errors import BadInput, CannotCreate, OutputFailed
from xseg.training.checkpoint import Checkpoint


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def checkpoint(tmp_path):
    made = Checkpoint(tmp_path / "out.h5", "run-a")
    made.claim()
    return made


def test_what_is_saved_comes_back_and_the_one_before_is_kept(checkpoint, tmp_path):
    assert checkpoint.load() is None
    for step in (1, 2, 3):
        checkpoint.save({"step": step, "weights": torch.full((3,), float(step))})
    assert checkpoint.load()["step"] == 3
    (checkpoint.directory / "last.pt").unlink()
    assert checkpoint.load()["step"] == 2
    assert sorted(p.name for p in checkpoint.directory.iterdir()) == ["previous.pt", "run"]
    assert checkpoint.directory == tmp_path / "out.h5.checkpoint"


@pytest.mark.parametrize("damage", ["truncated", "empty", "absent", "text", "flipped"])
def test_the_previous_one_is_used_when_the_last_does_not_load(checkpoint, damage, caplog):
    checkpoint.save({"step": 1})
    checkpoint.save({"step": 2})
    last = checkpoint.directory / "last.pt"
    whole = last.read_bytes()
    if damage == "absent":
        last.unlink()
    else:
        flipped = bytes([*whole[:200], whole[200] ^ 1, *whole[201:]])
        cut = whole[: len(whole) // 2]
        last.write_bytes({"truncated": cut, "empty": b"", "text": b"hello", "flipped": flipped}[damage])
    assert checkpoint.load()["step"] == 1
    assert ("last.pt cannot be read" in caplog.text) == (damage != "absent")


def test_no_readable_checkpoint_at_all_is_told_and_not_passed_over(checkpoint):
    checkpoint.save({"step": 1})
    (checkpoint.directory / "last.pt").write_bytes(b"")
    with pytest.raises(BadInput) as caught:
        checkpoint.load()
    assert "rm -r" in caught.value.hint


def test_code_in_a_checkpoint_is_not_run(checkpoint, tmp_path):
    checkpoint.save({"x": Malicious(tmp_path / "ran")})
    with pytest.raises(BadInput):
        checkpoint.load()
    assert not (tmp_path / "ran").exists()


def test_another_runs_checkpoint_is_told_at_once(checkpoint, tmp_path):
    other = Checkpoint(tmp_path / "out.h5", "run-b")
    with pytest.raises(CannotCreate, match="another run"):
        other.claim()
    (checkpoint.directory / "run").write_text("run-b")
    checkpoint.save({"step": 1})
    other.claim()
    with pytest.raises(CannotCreate, match="another run"):
        other.load()


def test_a_claim_cut_short_by_a_kill_can_be_claimed_again(checkpoint):
    (checkpoint.directory / "run").write_text("")
    checkpoint.claim()
    assert (checkpoint.directory / "run").read_text() == "run-a"


def test_a_directory_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCreate):
        Checkpoint(tmp_path / "file" / "out.h5", "run-a").claim()


def test_a_failed_save_leaves_the_last_one_and_no_rubbish(checkpoint, monkeypatch):
    checkpoint.save({"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputFailed, match="No space left"):
        checkpoint.save({"step": 2})
    assert checkpoint.load()["step"] == 1
    assert sorted(p.name for p in checkpoint.directory.iterdir()) == ["last.pt", "run"]


def test_saves_are_due_by_steps_and_by_time(tmp_path):
    by_steps = Checkpoint(tmp_path / "a", "r", steps=5)
    assert [step for step in range(1, 12) if by_steps.due(step)] == [5, 10]
    assert Checkpoint(tmp_path / "b", "r", seconds=0).due(1)


def test_what_others_put_into_the_directory_stays(checkpoint):
    checkpoint.save({"step": 1})
    (checkpoint.directory / "precious.txt").write_text("mine")
    checkpoint.remove()
    assert [path.name for path in checkpoint.directory.iterdir()] == ["precious.txt"]


def test_a_directory_that_is_a_link_is_used_and_left(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "out.h5.checkpoint").symlink_to(tmp_path / "scratch")
    checkpoint = Checkpoint(tmp_path / "out.h5", "run-a")
    checkpoint.claim()
    checkpoint.save({"step": 1})
    assert checkpoint.load()["step"] == 1
    checkpoint.remove()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_a_kill_left_half_written_is_swept(checkpoint):
    (checkpoint.directory / "tmp-abc").write_bytes(b"half")
    checkpoint.claim()
    assert [path.name for path in checkpoint.directory.iterdir()] == ["run"]


def test_a_file_in_the_place_of_the_directory_is_told(tmp_path):
    (tmp_path / "out.h5.checkpoint").write_text("")
    with pytest.raises(CannotCreate, match="in the way"):
        Checkpoint(tmp_path / "out.h5", "run-a").claim()
    Checkpoint(tmp_path / "out.h5", "run-a").remove()
    assert (tmp_path / "out.h5.checkpoint").exists()


def test_it_is_gone_after_removal(checkpoint):
    checkpoint.save({"step": 1})
    checkpoint.remove()
    assert not checkpoint.directory.exists()
    checkpoint.remove()
