"""Parts of a network that training leaves alone: parameters without gradients, statistics that do not move."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from xseg.classifier.capture import module_at


@contextmanager
def frozen(
    net: nn.Module,
    paths: Sequence[str] = (),
    *,
    batch_norm: bool = False,
    affine: bool = False,
    fresh: Sequence[str] = (),
) -> Iterator[list[nn.Module]]:
    """Freeze parts of `net` while the block runs.

    Args:
        net: the network.
        paths: module paths; everything below each gets no gradient and stays in eval mode.
        batch_norm: keep every batch norm's running statistics (eval mode), as psa and irn do.
        affine: also keep the scale and shift of every batch norm.
        fresh: module paths below which batch norms have learned nothing yet that could be kept.

    Yields:
        The modules that `net.train()` leaves in eval mode.

    Raises:
        UsageError: no module at a path; near misses are listed.
    """
    parts = [module for path in paths for module in module_at(net, path).modules()]
    new = {module for path in fresh for module in module_at(net, path).modules()}
    norms: list[nn.Module] = [m for m in net.modules() if isinstance(m, _BatchNorm) and m not in new]
    still = list(dict.fromkeys(parts + (norms if batch_norm else [])))
    fixed = [p for module in parts + (norms if affine else []) for p in module.parameters(recurse=False)]
    before = [(parameter, parameter.requires_grad) for parameter in fixed]
    modes = [(module, module.training) for module in still]
    try:
        for parameter in fixed:
            parameter.requires_grad_(False)
        for module in still:
            module.training = False
            # An instance attribute shadows the method, so that a parent's train() cannot switch this module back.
            module.__dict__["train"] = _StayInEval(module)
        yield still
    finally:
        for module, mode in modes:
            module.__dict__.pop("train", None)
            module.training = mode
        for parameter, needed in before:
            parameter.requires_grad_(needed)


class _StayInEval:
    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        for child in self.module.children():
            child.train(mode)
        self.module.training = False
        return self.module
