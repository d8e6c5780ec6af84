"""Weights drawn anew, stage by stage, in a copy of a classifier (Adebayo et al. 2018, arXiv:1810.03292)."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xseg.classifier.features import feature_layers
from xseg.classifier.model import Classifier
from xseg.classifier.probe import token_blocks, trace
from xseg.seeding import generator, key_seed

Order = Literal["cascading", "independent"]


@dataclass(frozen=True)
class Stage:
    """A part of a network.

    Attributes:
        name: path of the head, or of the feature layer that the part ends in.
        modules: paths of the modules in it that have weights or buffers of their own; "" is the network itself.
    """

    name: str
    modules: tuple[str, ...]


def stages_of(classifier: Classifier) -> list[Stage]:
    """The network cut at its `feature_layers`, from the head to the input; every module is in exactly one stage.

    The first stage is all that runs after the last feature layer: the head, and fully connected layers before it. Each
    further one is what makes a feature layer from the one before. The blocks of a transformer, which run in sequence
    on tokens (N,T,K) after the last feature map, count as feature layers here. A module counts as running when it
    ends; one that never runs by itself, or several times, counts with the module around it, and else with the first
    layers.
    """
    calls, _ = trace(classifier.net, classifier.config.input_size)
    order = {call.path: place for place, call in enumerate(calls)}
    ends = {layer.path: order[layer.path] for layer in feature_layers(classifier)}
    ends |= {path: order[path] for path in token_blocks(classifier.net, calls[max(ends.values()) + 1 :])}
    bounds = sorted(ends.items(), key=lambda end: end[1])
    parts: list[list[str]] = [[] for _ in range(len(bounds) + 1)]
    for path, module in classifier.net.named_modules():
        if _own(module):
            place = _place(path, order)
            parts[sum(end < place for _, end in bounds)].append(path)
    names = [*(path for path, _ in bounds), classifier.config.head]
    found = [Stage(name, tuple(modules)) for name, modules in zip(names, parts, strict=True)]
    return [stage for stage in reversed(found) if stage.modules]


def _place(path: str, order: dict[str, int]) -> int:
    while path and path not in order:
        path = path.rpartition(".")[0]
    return order.get(path, -1)


def _own(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that belong to the module itself, not to its children."""
    return dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))


def redrawn(module: nn.Module, path: str, seed: int) -> dict[str, Tensor]:
    """New values of a module's own weights and buffers, on the CPU; the module is left as it is.

    What `reset_parameters` gives, under a generator keyed by seed and path, where the module has it: running
    statistics return to mean 0 and variance 1. Parameters that it leaves as they were, and those of modules without
    it, are permuted: every value stays, its place is drawn. Buffers of modules without it stay.

    Args:
        module: any module.
        path: its path in the network, the key of the draws.
        seed: seed of the draws.
    """
    before = {name: tensor.detach().cpu().clone() for name, tensor in _own(module).items()}
    after = dict(before)
    if hasattr(module, "reset_parameters"):
        twin: Any = copy.deepcopy(module).cpu()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(key_seed(seed, "randomise", path))
            twin.reset_parameters()
        after = {name: tensor.detach().clone() for name, tensor in _own(twin).items()}
    for name, _ in module.named_parameters(recurse=False):
        if torch.equal(after[name], before[name]):
            order = torch.from_numpy(generator(seed, "randomise", path, name).permutation(before[name].numel()))
            after[name] = before[name].flatten()[order].reshape(before[name].shape)
    return after


def _spread(total: int, count: int | None) -> list[int]:
    """`count` of the places 0..total-1, evenly spread, the first and the last among them; all if count allows it."""
    if count is None or count >= total:
        return list(range(total))
    return [round(step * (total - 1) / (count - 1)) for step in range(count)]


class RandomWeights:
    """A classifier with more and more of its weights drawn anew; the one it is made from is never touched.

    Iterating yields the same copy again and again, with other weights each time, once for each of `stages`: names of
    those looked at, the head first, the layers next to the input last.

    Args:
        classifier: the network to begin with.
        order: `cascading` redraws a stage and all between it and the logits; `independent` one stage at a time.
        seed: seed of the draws. A weight gets the same new value in every stage and in both orders.
        count: how many stages to look at, spread evenly; None or more than there are: every one.
    """

    def __init__(self, classifier: Classifier, order: Order, seed: int, count: int | None = None) -> None:
        self._classifier, self._twin = classifier, copy.deepcopy(classifier)
        stages = stages_of(classifier)
        parts = [stage.modules for stage in stages]
        chosen = list(accumulate(parts)) if order == "cascading" else parts
        looked_at = _spread(len(stages), count)
        self.stages = [stages[place].name for place in looked_at]
        self._chosen = [chosen[place] for place in looked_at]
        net = classifier.net
        self._new = {path: redrawn(net.get_submodule(path), path, seed) for part in parts for path in part}

    def redrawn(self, stage: int) -> int:
        """Number of weights that are drawn anew at a stage, buffers not counted."""
        net = self._classifier.net
        modules = [net.get_submodule(path) for path in self._chosen[stage]]
        return sum(weights.numel() for module in modules for weights in module.parameters(recurse=False))

    def __iter__(self) -> Iterator[Classifier]:
        """The copy at each stage."""
        for chosen in self._chosen:
            self._set(set(chosen))
            yield self._twin

    @torch.no_grad()
    def _set(self, chosen: set[str]) -> None:
        twins = dict(self._twin.net.named_modules())
        for path, module in self._classifier.net.named_modules():
            values = self._new[path] if path in chosen else _own(module)
            for name, tensor in _own(twins[path]).items():
                tensor.copy_(values[name])
