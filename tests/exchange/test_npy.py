import io
import os
import pickle

import numpy as np
import pytest
import torch

from xseg.errors import BadInput
from xseg.exchange.npy import read_npy

CAM = np.random.default_rng(0).random((3, 4)).astype(np.float32)


def saved(value, protocol=None):
    buffer = io.BytesIO()
    if protocol is None:
        np.save(buffer, value)
    else:
        array = np.array(value, dtype=object)
        np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(array, buffer, protocol)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64"])
def test_arrays_of_numbers(dtype):
    array = (CAM * 9).astype(dtype)
    found = read_npy(saved(array), "a.npy")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@pytest.mark.parametrize("protocol", [None, 2, 3, 4, 5])
def test_the_dictionaries_of_psa_and_irn(protocol):
    psa = read_npy(saved({14: CAM, 3: CAM * 2, "n": np.float64(0.5)}, protocol), "a.npy")
    assert list(psa) == [14, 3, "n"]
    assert np.array_equal(psa[3], CAM * 2)
    assert psa["n"] == 0.5
    irn = {"keys": torch.tensor([3, 14]), "cam": torch.from_numpy(CAM)[None], "high_res": np.stack([CAM, CAM])}
    found = read_npy(saved(irn, protocol), "a.npy")
    assert found["keys"].tolist() == [3, 14]
    assert np.array_equal(found["cam"], CAM[None])
    assert np.array_equal(found["high_res"], irn["high_res"])


class Evil:
    def __init__(self, call, *arguments):
        self.made_of = call, arguments

    def __reduce__(self):
        return self.made_of


@pytest.mark.parametrize("call", [os.mkdir, eval, getattr, torch.load, pickle.loads, np.load, os.system])
def test_a_pickle_that_names_anything_else_is_refused_and_nothing_runs(tmp_path, call):
    target = tmp_path / "ran"
    argument = f"__import__('os').mkdir({str(target)!r})" if call is eval else str(target)
    for value in ({1: Evil(call, argument)}, Evil(call, argument)):
        with pytest.raises(BadInput, match=r"it names .* which is no array"):
            read_npy(saved(value), "evil.npy")
    assert not target.exists()


def test_a_tensor_whose_bytes_hold_a_pickle_is_refused(tmp_path):
    target = tmp_path / "ran"
    inner = io.BytesIO()
    torch.save({"a": Evil(os.mkdir, str(target))}, inner)
    with pytest.raises(BadInput, match=r"evil.npy: cannot be read"):
        read_npy(saved({1: Evil(torch.storage._load_from_bytes, inner.getvalue())}), "evil.npy")
    assert not target.exists()


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"junk", saved(CAM)[:-3], saved({1: CAM})[:-40], saved([{}, {}])])
def test_what_is_damaged_or_no_dictionary_is_bad_input(data):
    with pytest.raises(BadInput, match=r"^a.npy: "):
        read_npy(data, "a.npy")


def test_every_cut_and_a_thousand_flipped_bits_are_told_or_harmless():
    data, random = saved({1: CAM, "cam": torch.from_numpy(CAM)}), np.random.default_rng(0)
    for size in range(0, len(data), 7):
        with pytest.raises(BadInput):
            read_npy(data[:size], "a.npy")
    for _ in range(1000):
        damaged = bytearray(data)
        damaged[random.integers(len(data))] ^= 1 << int(random.integers(8))
        try:
            read_npy(bytes(damaged), "a.npy")
        except BadInput:
            continue
