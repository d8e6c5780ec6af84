"""Where a network's last spatial features and its head are, found by watching one forward pass."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xseg.classifier.capture import capture
from xseg.errors import UsageError
from xseg.seeding import generator

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
        channels_last = getattr(self.module, "output_fmt", "") == "NHWC"  # timm's patches, on their way to tokens
        return len(self.shape) == 4 and self.shape[2] * self.shape[3] > 1 and not channels_last

    @property
    def of_tokens(self) -> bool:
        """Whether the output is several tokens (1,T,K)."""
        return len(self.shape) == 3 and self.shape[1] > 1


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

    parameter = next(net.parameters(), torch.empty(0))
    images = torch.zeros(1, 3, *input_size, device=parameter.device, dtype=parameter.dtype)
    with ExitStack() as hooks, torch.no_grad(), in_evaluation(net):
        for path, module in net.named_modules():
            if path:
                hooks.callback(module.register_forward_hook(note(path)).remove)
        logits = net(images)
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


def find_layer(net: nn.Module, calls: list[Call], head: int, input_size: tuple[int, int]) -> Call:
    """The last feature map before global pooling: the last spatial output before the head.

    Adaptive pools are passed over (their grid does not follow the image), identities and dropout too; of a nested
    chain with one output the outermost module is taken. Where blocks of tokens (1,T,K) come later, it is the last
    output of tokens whose patches the head reads, outside of a block or of a norm: the norm with which the last block
    begins where the head reads a class token alone. The sum before that norm would not do: norms take its scale away,
    so that there gradient times value vanishes.

    Args:
        net: the network.
        calls: those of `trace`.
        head: index of the head among them.
        input_size: height and width in pixels.

    Raises:
        UsageError: there is none.
    """
    blocks = token_blocks(net, calls[:head])
    # What pools the tokens or reads them by attention has tokens inside too, but no longer at their places.
    poolings = [call.path for call in calls[:head] if call.shape and not (call.spatial or call.of_tokens)]
    inside = [*blocks, *poolings]

    def counts(call: Call) -> bool:
        if call.of_tokens:
            return "Norm" in type(call.module).__name__ or not _within(call.path, inside)
        return call.spatial and not _within(call.path, blocks)

    found = [call for call in calls[:head] if counts(call) and not is_transparent(call.module)]
    last = max((place for place, call in enumerate(found) if call.spatial), default=-1)
    tokens = found[last + 1 :]
    if any(call.path in blocks for call in tokens) and (read := _read(net, tokens, calls[head].shape[-1], input_size)):
        return read[-1]
    if last >= 0:
        return found[last]
    raise UsageError(
        "--layer: the network has no spatial feature map before its head",
        "name one with --layer, or use a larger input size",
    )


def _read(net: nn.Module, tokens: Sequence[Call], logits: int, input_size: tuple[int, int]) -> list[Call]:
    """Those of the outputs of tokens of which the head reads most, not class and register tokens alone."""
    paths = [call.path for call in tokens]
    with in_evaluation(net), torch.enable_grad(), capture(net, paths, grad=True) as features:
        read = what_heads_read(net, noise_image(net, input_size), logits)
        gradients = torch.autograd.grad(read, [features[path] for path in paths], allow_unused=True)
    counts = [0 if gradient is None else int((gradient != 0).any(2).sum()) for gradient in gradients]
    return [call for call, count in zip(tokens, counts, strict=True) if 2 * count > call.shape[1]]


def what_heads_read(net: nn.Module, images: Tensor, logits: int) -> Tensor:
    """A number that depends on all that the head reads, also where the head's weights are zero.

    Args:
        net: the network.
        images: (N,3,H,W).
        logits: number of logits.

    Returns:
        A scalar: a random mixture of the inputs (N,K) of all linear layers that make logits (there are two in a
        distilled transformer), or of the logits where no such layer makes them.
    """
    inputs: list[Tensor] = []
    with ExitStack() as hooks:
        for module in net.modules():
            if isinstance(module, nn.Linear) and module.out_features == logits:
                hooks.callback(module.register_forward_pre_hook(lambda _, given: inputs.append(given[0])).remove)
        output = net(images)
    read = [values for values in inputs if values.ndim == 2] or [output]
    random = generator(0, "read")
    return torch.stack(
        [(values * torch.from_numpy(random.standard_normal(tuple(values.shape))).to(values)).sum() for values in read]
    ).sum()


def noise_image(net: nn.Module, input_size: tuple[int, int]) -> Tensor:
    """One image (1,3,H,W) of noise, always the same, in the network's type and on its device.

    Noise, so that no accidental symmetry makes a network look as if it pooled and projected.
    """
    noise = generator(0, "probe").standard_normal((1, 3, *input_size), dtype="float32")
    return torch.from_numpy(noise).to(next(net.parameters()))


@contextmanager
def in_evaluation(net: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; every module's mode is put back after it."""
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def token_blocks(net: nn.Module, calls: Sequence[Call]) -> list[str]:
    """Paths of the outermost modules with weights that run in a sequence and give several tokens (1,T,K).

    Args:
        net: the network.
        calls: those to look among, as of `trace`.
    """
    paths = [
        call.path
        for call in calls
        if call.of_tokens
        and isinstance(net.get_submodule(call.path.rpartition(".")[0]), nn.Sequential | nn.ModuleList)
        and any(True for _ in call.module.parameters())
    ]
    return [path for path in paths if not _within(path, paths)]


def _within(path: str, others: Sequence[str]) -> bool:
    return any(path.startswith(f"{other}.") for other in others)


def is_transparent(module: nn.Module) -> bool:
    """Whether `module` passes features on unchanged, or pools them to a fixed grid."""
    return isinstance(module, _TRANSPARENT + _ADAPTIVE) or "AdaptivePool" in type(module).__name__
