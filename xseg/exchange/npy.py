"""`.npy` files of other programs, read without running what a pickle may hold.

An array of numbers is read as it is. psa and irn save dictionaries, which NumPy stores as pickles: those are taken
apart by an unpickler that puts plain stand-ins in the place of NumPy's arrays and types, hands the bytes of a tensor to
torch's own restricted unpickler, and refuses every other name.
"""

import collections
import io
import pickle
import pickletools
import re
from math import prod
from typing import Any

import numpy as np

from xseg.errors import BadInput

_HINT = "save arrays with numpy.save, or dictionaries of arrays as psa and irn do"


def read_npy(data: bytes, where: str) -> np.ndarray | dict[Any, Any]:
    """An array of numbers, or a dictionary whose values are arrays, numbers or strings.

    Args:
        data: the file.
        where: its name, for messages.

    Raises:
        BadInput: damaged, something else, or a pickle that names anything but arrays and tensors.
    """
    stream = io.BytesIO(data)
    try:
        shape, dtype = _head(stream)
        if not dtype.hasobject:
            return np.load(io.BytesIO(data), allow_pickle=False)
        _check_steps(data[stream.tell() :])
        found = _plain(_Arrays(stream).load())
    except Exception as error:  # whatever NumPy, pickle and torch make of bytes that they never wrote
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadInput(f"{where}: cannot be read ({reason})", _HINT) from error
    if shape != () or not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], dict):
        raise BadInput(f"{where}: holds Python objects that are no dictionary", _HINT)
    return {key: _plain(value) for key, value in found[0].items()}


def _head(stream: io.BytesIO) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"format {version[0]}.{version[1]}")
    shape, _, dtype = read(stream)
    return shape, dtype


# What arrays and tensors never need, and what would reach beyond the file.
_REFUSED = {"NEXT_BUFFER", "READONLY_BUFFER", "PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ"}


def _check_steps(data: bytes) -> None:
    for step, _, _ in pickletools.genops(data):
        if step.name in _REFUSED:
            raise pickle.UnpicklingError(f"its pickle has a step {step.name}")


class _Dtype:
    """Stands in for `numpy.dtype`, whose own way to take a pickled state trusts it."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch(r"b1|[iuf][1248]|O8?", code):
            raise pickle.UnpicklingError(f"an array of type {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        self.order = order if order in ("<", ">") else "="

    def numbers(self) -> np.dtype:
        """The type itself."""
        if self.code.startswith("O"):
            raise pickle.UnpicklingError("an array of objects where numbers are needed")
        return np.dtype({"=": ""}.get(self.order, self.order) + self.code)


class _Array:
    """Stands in for `numpy.ndarray`; what it holds is an array of numbers or a list of objects."""

    def __init__(self) -> None:
        self.value: np.ndarray | list[Any] = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        if isinstance(raw, list):
            if prod(shape) != len(raw):
                raise pickle.UnpicklingError(f"{len(raw)} objects for an array of shape {shape}")
            self.value = raw
        else:
            self.value = _numbers(raw, dtype, shape, "F" if fortran else "C")


def _numbers(raw: bytes, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:  # noqa: ANN401 - "C" or "F"
    return np.frombuffer(raw, dtype.numbers()).reshape(shape, order=order)


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, raw: bytes) -> Any:  # noqa: ANN401 - a number
    return np.frombuffer(raw, dtype.numbers(), 1)[0]


def _latin(text: str, encoding: str) -> bytes:
    # Protocol 2 keeps bytes as text in this encoding.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding}")
    return text.encode("latin1")


def _storage(data: bytes) -> object:
    import torch

    return torch.load(io.BytesIO(data), "cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: object) -> object:  # noqa: ANN401 - see torch
    import torch

    return torch._utils._rebuild_tensor(storage, offset, size, stride)


_KNOWN = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _numbers,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("_codecs", "encode"): _latin,
}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as in the base class
        found = _KNOWN.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return found


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever was stored
    import torch

    if isinstance(value, _Array):
        return value.value
    return value.numpy() if isinstance(value, torch.Tensor) else value
