"""Images of any size as batches of equal size, without padding."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

BATCH_SIZE = 8


def default_batch_size(module: nn.Module) -> int:
    """How many images go through `module` at once when nobody says.

    On a CPU several at once are no faster, take gigabytes, and change the last bits of the result, so that shards would
    not join to the bytes of the whole.
    """
    return 1 if device_of(module).type == "cpu" else BATCH_SIZE


def equal_sized(images: Sequence[np.ndarray], chosen: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices of the `chosen` images, in lists of equal image size and at most `batch_size` long.

    Raises:
        ValueError: `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, needed at least 1")
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index in chosen:
        by_size.setdefault(images[index].shape, []).append(index)
    for indices in by_size.values():
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]


def stack(images: Sequence[np.ndarray]) -> Tensor:
    """Images (H,W,3) uint8 of one size as (N,3,H,W) uint8."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def sides_of(array: Tensor) -> tuple[int, int]:
    """Height and width: the last two axes."""
    height, width = array.shape[-2:]
    return height, width


def device_of(module: nn.Module) -> torch.device:
    """Where the module's parameters are."""
    return next(module.parameters()).device
