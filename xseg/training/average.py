"""A moving average of a network's weights along its training, which generalises better than the last step's."""

from copy import deepcopy

import torch
from torch import Tensor, nn


def decay_at(update: int, decay: float) -> float:
    """Weight of the past in the `update`-th average (1, 2, ...): min(decay, (1 + n) / (10 + n)).

    The start is given less weight than `decay` says, or a short training would end near the weights it began with (the
    `num_updates` of TensorFlow's ExponentialMovingAverage).
    """
    return min(decay, (1 + update) / (10 + update))


class MovingAverage(nn.Module):
    """Exponential moving average: average <- d average + (1 - d) weights, d = `decay_at` (Polyak and Juditsky 1992).

    Batch-norm statistics are averaged alike; counters are taken over. Its parameters need no gradient, so processes
    that train together exchange nothing for it: each makes the same average.

    Args:
        net: whose weights; a copy of it is kept, in evaluation mode.
        decay: in (0, 1).

    Raises:
        ValueError: another decay.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        super().__init__()
        if not 0 < decay < 1:
            raise ValueError(f"decay is {decay}, needed a number between 0 and 1")
        self._decay = decay
        self.net = deepcopy(net).requires_grad_(False).eval()
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Take the weights of `net`, as they are after a step, into the average."""
        self.updates += 1
        share = 1 - decay_at(int(self.updates), self._decay)
        latest = net.state_dict()
        for name, tensor in self.net.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(latest[name], share)
            else:
                tensor.copy_(latest[name])
