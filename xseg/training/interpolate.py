"""Weights between those training started from and those it ended with (Wortsman et al. 2022, arXiv:2109.01903, eq. 1).

Fine-tuned on a few thousand images, a network learns what is peculiar to them; half way back it keeps most of what it
learned and explains unseen images better than at either end.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def interpolate(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """(1 - share) start + share end, tensor by tensor.

    Args:
        start: a state dict.
        end: another of the same network; its integer tensors (counters) are kept as they are.
        share: in [0, 1].

    Returns:
        A state dict of new tensors, in the dtypes and on the devices of `end`.

    Raises:
        ValueError: other keys or shapes, or a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}, needed a number in [0, 1]")
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (start, end)]
    if shapes[0] != shapes[1]:
        raise ValueError("the two states are not of the same network")
    return {
        name: torch.lerp(start[name].to(tensor), tensor, share) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in end.items()
    }
