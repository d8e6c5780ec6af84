"""Optimisers with every number explicit, over groups of parameters that learn at different rates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from xseg.errors import UsageError


@dataclass(frozen=True)
class OptimSettings:
    """What an optimiser needs to know.

    Args:
        name: `sgd` or `adamw` (Loshchilov and Hutter 2019).
        lr: rate of the backbone's weights.
        head_lr_multiplier: factor for new layers.
        momentum: of SGD; AdamW uses its betas (0.9, 0.999).
        weight_decay: on weights; biases, norms and other vectors have none.
        bias_lr_multiplier: factor for biases; None takes 2 for SGD, as psa, and 1 for AdamW.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    head_lr_multiplier: float = 10.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bias_lr_multiplier: float | None = None


def psa_settings(lr: float = 0.1, weight_decay: float = 5e-4) -> OptimSettings:
    """What psa's published code runs, which is not what it says.

    Its PolyOptimizer hands the weight decay to SGD in the place of the momentum, and the `momentum=0.9` of its own
    signature is only the power of the schedule. The real momentum is therefore 5e-4, next to none; with a true 0.9
    the learning rate 0.1 would be about ten times too high. irn and others inherit this.
    """
    return OptimSettings("sgd", lr, 10.0, momentum=weight_decay, weight_decay=weight_decay, bias_lr_multiplier=2.0)


def make_optimizer(net: nn.Module, new: Sequence[str], settings: OptimSettings) -> torch.optim.Optimizer:
    """The optimiser of all parameters of `net` that need a gradient.

    Args:
        net: the network, frozen parts already frozen.
        new: module paths of new layers, which learn `head_lr_multiplier` times as fast.
        settings: numbers.

    Raises:
        UsageError: nothing is left to train, or the optimiser is unknown.
    """
    groups = parameter_groups(net, new, settings)
    if not groups:
        raise UsageError("--freeze: every parameter is frozen, nothing is left to train", "freeze fewer stages")
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)
    raise UsageError(f"--optimizer {settings.name}: unknown", "sgd or adamw")


def parameter_groups(net: nn.Module, new: Sequence[str], settings: OptimSettings) -> list[dict[str, Any]]:
    """Groups (backbone, new) x (weights, vectors, biases), each with `params`, `lr`, `base_lr`, `weight_decay`, `name`.

    `base_lr` is what the loop multiplies by the schedule; empty groups are left out. Weights are tensors of two axes
    or more; vectors are the scales of norms and the like.
    """
    bias = settings.bias_lr_multiplier
    bias = bias if bias is not None else (2.0 if settings.name == "sgd" else 1.0)
    groups: dict[str, dict[str, Any]] = {}
    for key, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        fresh = any(key.startswith(f"{path}.") for path in new)
        kind = "biases" if key.rpartition(".")[2] == "bias" else "weights" if parameter.ndim > 1 else "vectors"
        lr = settings.lr * (settings.head_lr_multiplier if fresh else 1.0) * (bias if kind == "biases" else 1.0)
        group = {"params": [], "lr": lr, "base_lr": lr, "weight_decay": settings.weight_decay * (kind == "weights")}
        name = f"{'new' if fresh else 'backbone'} {kind}"
        groups.setdefault(name, {**group, "name": name})["params"].append(parameter)
    return [groups[name] for name in sorted(groups)]
