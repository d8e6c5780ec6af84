"""How many bytes of tensors a computation has at most at a time: exact, and the same on every machine."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Ledger(TorchDispatchMode):
    """Bytes of the storages that operations have made and that are still there; one seen through views counts once."""

    def __init__(self) -> None:
        super().__init__()
        self.held, self.peak = 0, 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        given = {id(t.untyped_storage()) for t in _dense((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _dense(result):
            if id(tensor.untyped_storage()) not in given:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._seen:
            return
        self._seen.add(id(storage))
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._drop, id(storage), storage.nbytes())

    def _drop(self, identity: int, size: int) -> None:
        self._seen.discard(identity)
        self.held -= size


def _dense(values: Any) -> list[Tensor]:  # noqa: ANN401
    """The tensors among them that have a storage; a sparse one holds dense ones, which were made before it."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]


def peak_bytes(way: Callable[[], object]) -> int:
    """The most bytes that the tensors made in `way` take at a time, graphs and gradients among them.

    What was there before, as weights, does not count, nor what a single operation needs for itself.
    """
    with _Ledger() as ledger:
        way()
    return ledger.peak
