"""Linear probes: a network that ends at one of its layers, and a linear head on what that layer gives on average."""

from collections.abc import Iterator
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from xseg.classifier.capture import module_at
from xseg.errors import UsageError

_PREFIX, _OF = "probe:", "@"


def probe_name(layer: str, model: str) -> str:
    """How a config calls a probe at `layer` of `model`."""
    return f"{_PREFIX}{layer}{_OF}{model}"


def probed(name: str) -> tuple[str, str | None]:
    """The model of a config's `name`, and at which layer a probe ends it; None if it is no probe."""
    if not name.startswith(_PREFIX):
        return name, None
    layer, _, model = name.removeprefix(_PREFIX).partition(_OF)
    return model, layer


class LinearProbe(nn.Module):
    """The mean over places (or tokens) of one layer of a network, and a linear head on it.

    Args:
        net: the network; what would run after the layer is taken out of it.
        layer: module path.
        classes: outputs of the head.
        input_size: height, width in pixels the network can be tried with.

    Raises:
        UsageError: no such layer, one that is never run, or whose output is no stack of features.
    """

    def __init__(self, net: nn.Module, layer: str, classes: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.trunk = Trunk(net, layer)
        features = trim(self.trunk, input_size)
        if features.ndim not in (2, 3, 4) or getattr(net, "output_fmt", "NCHW") != "NCHW":
            raise UsageError(
                f"--probe {layer}: its output has shape {tuple(features.shape)}, needed (N,F), (N,T,F) or (N,F,h,w)",
                "choose another layer",
            )
        self.pool = nn.AdaptiveAvgPool2d(1) if features.ndim == 4 else nn.Identity()
        self.head = nn.Linear(features.shape[2 if features.ndim == 3 else 1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N,C) of normalised images (N,3,H,W)."""
        features = self.trunk(images)
        return self.head(features.mean(1) if features.ndim == 3 else self.pool(features).flatten(1))


class Trunk(nn.Module):
    """A network up to the output of one of its layers.

    The pass is left by an exception as soon as the layer has its output, so the network's own code runs as it is. While
    `leaves` is False it runs to its end, for exporters, which follow a pass from outside and see no exceptions.

    Args:
        net: the network.
        layer: module path.

    Raises:
        UsageError: no such layer.
    """

    def __init__(self, net: nn.Module, layer: str) -> None:
        super().__init__()
        self.net, self.layer, self.leaves = net, layer, True
        module_at(net, layer).register_forward_hook(self._leave)

    def _leave(self, module: nn.Module, inputs: object, output: object) -> None:
        if self.leaves:
            raise _Reached(output)

    def forward(self, images: Tensor) -> Tensor:
        """The layer's output for normalised images (N,3,H,W).

        Raises:
            UsageError: the layer is never run, or its output is not a tensor.
        """
        try:
            self.net(images)
        except _Reached as reached:
            output = reached.output
            if isinstance(output, Tensor):
                return output
            raise UsageError(
                f"--probe {self.layer}: its output is a {type(output).__name__}, needed a tensor"
            ) from None
        raise UsageError(f"--probe {self.layer}: this module is never run", "choose another layer")


class _Reached(Exception):
    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output


def trim(trunk: Trunk, input_size: tuple[int, int]) -> Tensor:
    """Take out of the network what does not run before the layer; returns the features of one image of zeros."""
    begun: set[nn.Module] = set()
    finished: set[nn.Module] = {trunk.net.get_submodule(trunk.layer)}
    modes = [(module, module.training) for module in trunk.modules()]
    with ExitStack() as hooks, torch.no_grad():
        for module in trunk.net.modules():
            hooks.callback(module.register_forward_pre_hook(lambda m, _: begun.add(m)).remove)
            hooks.callback(module.register_forward_hook(lambda m, _, __: finished.add(m)).remove)
        try:
            features = trunk.eval()(torch.zeros(1, 3, *input_size))
        finally:
            for module, mode in modes:
                module.training = mode
    for parent, name in list(_never_begun(trunk.net, begun, finished)):
        parent._modules[name] = nn.Identity()
    return features


def _never_begun(module: nn.Module, begun: set[nn.Module], finished: set[nn.Module]) -> Iterator[tuple[nn.Module, str]]:
    """Parts of the modules that were running at the end which come after it.

    Modules that had finished are left whole: some use the weights of a part without running it.
    """
    for name, child in module.named_children():
        if child in finished:
            continue
        if any(part in begun for part in child.modules()):
            yield from _never_begun(child, begun, finished)
        else:
            yield module, name
