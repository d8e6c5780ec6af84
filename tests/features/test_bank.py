import os

import numpy as np
import pytest

from tests.artifacts.build import CLASSES, encoded, ids
from xseg.artifacts import Header, Record, WorkList
from xseg.errors import BadInput, UsageError
from xseg.features.bank import Bank


def write(path, vectors, *, total=None, only=None, shard=""):
    work = WorkList.of(ids(total or len(vectors)))
    header = Header("features", CLASSES, "features", {}, extra={"layer": ""}, work=work, shard=shard)
    labels = np.zeros(len(CLASSES), np.uint8)
    records = [
        Record(k, ids(k + 1)[k], f"{k}.jpg", (4, 5), f"{k:064x}", labels, {"latent": np.asarray(vector, np.float32)})
        for k, vector in enumerate(vectors)
        if only is None or k in only
    ]
    path.write_bytes(encoded(records, header))
    return str(path)


@pytest.fixture
def vectors():
    return np.random.default_rng(0).random((10, 3), np.float32)


def test_the_blocks_of_a_bank_are_its_vectors_whether_it_is_kept_or_read_again(tmp_path, vectors):
    name = write(tmp_path / "bank.h5", vectors)
    for keep in (1 << 20, 0):
        bank = Bank(name, keep, block=4 * 3 * 4)
        assert (bank.kept, bank.width) == (keep > 0, 3)
        for _ in range(2):
            blocks = list(bank.blocks())
            assert [len(block.vectors) for block in blocks] == [4, 4, 2]
            np.testing.assert_array_equal(np.concatenate([block.vectors for block in blocks]), vectors)
            assert np.concatenate([block.index for block in blocks]).tolist() == list(range(10))
            assert [name for block in blocks for name in block.ids] == ids(10)


def test_a_bank_may_come_in_parts_but_not_in_part(tmp_path, vectors):
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts" / "b.h5", vectors, only=range(6))
    with pytest.raises(BadInput, match="4 of 10 images are missing"):
        Bank(str(tmp_path / "parts"))
    write(tmp_path / "parts" / "a.h5", vectors, only=range(6, 10))
    blocks = list(Bank(str(tmp_path / "parts")).blocks())
    assert np.concatenate([block.index for block in blocks]).tolist() == [6, 7, 8, 9, 0, 1, 2, 3, 4, 5]
    shard = write(tmp_path / "shard.h5", vectors, only=range(5), shard="0/2")
    with pytest.raises(BadInput, match="5 of 10 images are missing"):
        Bank(shard)


def test_what_is_no_bank_is_refused(tmp_path, vectors):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="only once"):
        Bank(str(tmp_path / "pipe"))
    uneven = write(tmp_path / "uneven.h5", [*vectors, np.ones(4)])
    with pytest.raises(BadInput, match="a vector of 4 numbers, others of 3"):
        list(Bank(uneven).blocks())
    with pytest.raises(BadInput, match="no image of this bank"):
        Bank(write(tmp_path / "empty.h5", np.zeros((2, 0))))
