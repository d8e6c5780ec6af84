"""Where a network's last spatial features and its head are, found by watching one forward pass."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xseg.errors import UsageError

_TRANSPARENT = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)
_ADAPTIVE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True)
class Call:
    """One finished call of a module.

    Args:
        path: module path within the network.
        module: the module.
        shape: shape of its output, batch axis first.
    """

    path: str
    module: nn.Module
    shape: tuple[int, ...]

    @property
    def spatial(self) -> bool:
        """Whether the output is a feature map (1,K,h,w) with more than one position."""
        channels_last = str(getattr(self.module, "output_fmt", "")) == "NHWC"  # timm's patches, on their way to tokens
        return len(self.shape) == 4 and self.shape[2] * self.shape[3] > 1 and not channels_last


def trace(net: nn.Module, input_size: tuple[int, int]) -> tuple[list[Call], int]:
    """Run `net` once on zeros (1,3,H,W) in eval mode.

    Returns:
        The calls in the order in which they finished (a container after its children; modules that run several times
        are left out, since their path does not name one output), and the number of logits.

    Raises:
        UsageError: the network does not return logits (1,C) or (1,C,1,1).
    """
    calls: list[Call] = []

    def note(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            calls.append(Call(path, module, tuple(output.shape) if isinstance(output, Tensor) else ()))

        return hook

    training = {module: module.training for module in net.modules()}
    parameter = next(net.parameters(), torch.empty(0))
    images = torch.zeros(1, 3, *input_size, device=parameter.device, dtype=parameter.dtype)
    with ExitStack() as hooks, torch.no_grad():
        for path, module in net.named_modules():
            if path:
                hooks.callback(module.register_forward_hook(note(path)).remove)
        try:
            logits = net.eval()(images)
        finally:
            for module, mode in training.items():
                module.training = mode
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else ()
    if len(shape) not in (2, 4) or shape[2:] not in ((), (1, 1)):
        found = shape or type(logits).__name__
        raise UsageError(f"--model: the network returns {found}, needed logits (N, C)", "let its forward return logits")
    runs = Counter(call.path for call in calls)
    return [call for call in calls if runs[call.path] == 1], shape[1]


def find_head(calls: list[Call], logits: int) -> int:
    """Index in `calls` of the layer that makes the logits: the last linear layer or 1x1 convolution of that width.

    Raises:
        UsageError: there is none.
    """
    for index in range(len(calls) - 1, -1, -1):
        call = calls[index]
        linear = isinstance(call.module, nn.Linear)
        pointwise = isinstance(call.module, nn.Conv2d) and call.module.kernel_size == (1, 1)
        if (linear or pointwise) and len(call.shape) > 1 and call.shape[-1 if linear else 1] == logits:
            return index
    raise UsageError(
        f"--model: no linear layer or 1x1 convolution with {logits} outputs ends the network",
        "the last layer has to be a linear head on the classes",
    )


def find_layer(calls: list[Call], head: int) -> Call:
    """The last feature map before global pooling: the last spatial output before the head.

    Adaptive pools are passed over (their grid does not follow the image), identities and dropout too; of a nested
    chain with one output the outermost module is taken.

    Raises:
        UsageError: there is none.
    """
    for call in reversed(calls[:head]):
        if call.spatial and not is_transparent(call.module):
            return call
    raise UsageError(
        "--layer: the network has no spatial feature map before its head",
        "name one with --layer, or use a larger input size",
    )


def token_blocks(net: nn.Module, calls: Sequence[Call]) -> list[str]:
    """Paths of the outermost modules with weights that run in a sequence and give several tokens (1,T,K).

    Args:
        net: the network.
        calls: those to look among, as of `trace`.
    """
    paths = [
        call.path
        for call in calls
        if len(call.shape) == 3
        and call.shape[1] > 1
        and isinstance(net.get_submodule(call.path.rpartition(".")[0]), nn.Sequential | nn.ModuleList)
        and any(True for _ in call.module.parameters())
    ]
    return [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]


def is_transparent(module: nn.Module) -> bool:
    """Whether `module` passes features on unchanged, or pools them to a fixed grid."""
    return isinstance(module, _TRANSPARENT + _ADAPTIVE) or "AdaptivePool" in type(module).__name__
