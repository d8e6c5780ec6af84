"""Composites: which rule each layer of a network gets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from xseg.classifier.config import ClassifierConfig
from xseg.errors import UsageError
from xseg.heatmaps.relevance.affine import Affine
from xseg.heatmaps.relevance.operations import AFFINE
from xseg.heatmaps.relevance.rules import (
    AlphaBeta,
    Box,
    Division,
    Epsilon,
    Flat,
    Gamma,
    Place,
    Rule,
    blocks_of,
    divide_as_published,
    sum_of,
)
from xseg.heatmaps.relevance.tape import Step, Tape
from xseg.heatmaps.relevance.walk import Walker, nonnegative

RuleName = Literal["zero", "epsilon", "gamma", "z-plus", "alpha-beta", "z-box", "flat", "w-square"]
CompositeName = Literal[
    "epsilon-plus",
    "epsilon-alpha2-beta1",
    "epsilon-plus-flat",
    "epsilon-alpha2-beta1-flat",
    "epsilon-gamma-box",
    "epsilon",
    "zero",
    "z-plus",
    "alpha-beta",
    "published",
]

#: Rules of convolutions, of linear layers, and of the layers that read the image.
COMPOSITES: dict[CompositeName, tuple[RuleName, RuleName, RuleName]] = {
    "epsilon-plus": ("z-plus", "epsilon", "z-plus"),
    "epsilon-alpha2-beta1": ("alpha-beta", "epsilon", "alpha-beta"),
    "epsilon-plus-flat": ("z-plus", "epsilon", "flat"),
    "epsilon-alpha2-beta1-flat": ("alpha-beta", "epsilon", "flat"),
    "epsilon-gamma-box": ("gamma", "epsilon", "z-box"),
    "epsilon": ("epsilon", "epsilon", "epsilon"),
    "zero": ("zero", "zero", "zero"),
    "z-plus": ("z-plus", "z-plus", "z-plus"),
    "alpha-beta": ("alpha-beta", "alpha-beta", "alpha-beta"),
    "published": ("alpha-beta", "alpha-beta", "z-box"),
}


@dataclass(frozen=True)
class RuleSettings:
    """The constants of the rules.

    Attributes:
        epsilon: of the epsilon rule, in units of the layer's output.
        gamma: of the gamma rule.
        alpha: of the alpha-beta rule; beta is alpha - 1.
        stabiliser: added to the denominators of the other rules, with their sign.
        published: divide as the code of AGF and RAP does, and let no bias take a share.
        bias: the biases take a share.
        bounds: of the z-box: x (N,3,H,W) to the least and the largest value a pixel could have.
    """

    epsilon: float
    gamma: float
    alpha: float
    stabiliser: float
    published: bool
    bias: bool
    bounds: Callable[[Tensor], tuple[Tensor, Tensor]]

    @property
    def divide(self) -> Division:
        """The division of every rule but epsilon."""
        return divide_as_published if self.published else Division(self.stabiliser)

    def rule(self, name: RuleName) -> Rule:
        """The rule called `name` with these constants."""
        made: dict[str, Callable[[], Rule]] = {
            "zero": lambda: Epsilon(Division(0), self.bias),
            "epsilon": lambda: Epsilon(Division(self.epsilon), self.bias),
            "gamma": lambda: Gamma(self.gamma, self.divide, self.bias),
            "z-plus": lambda: AlphaBeta(1, self.divide, self.bias),
            "alpha-beta": lambda: AlphaBeta(self.alpha, self.divide, self.bias),
            "z-box": lambda: Box(self.bounds, self.divide, self.bias),
            "flat": lambda: Flat(self.divide),
            "w-square": lambda: Flat(self.divide, squared=True, bias=self.bias),
        }
        return made[name]()


class RuleWalker(Walker):
    """Relevance by one rule for convolutions, one for linear layers, and one for the layers that read the image.

    Args:
        tape: the forward pass, batch norms folded or not.
        names: the three rules.
        settings: their constants.
    """

    def __init__(self, tape: Tape, names: tuple[RuleName, RuleName, RuleName], settings: RuleSettings) -> None:
        super().__init__(tape, settings.divide)
        self._conv, self._dense, self._first = (settings.rule(name) for name in names)
        self._nonnegative = nonnegative(tape)
        self._firsts = first_layers(tape)

    def affine(self, step: Step, layer: Affine, r: Tensor) -> Tensor:
        """By the rule for its place; a batch norm on its own counts as a convolution."""
        rule = self._first if step.target in self._firsts else self._dense if step.kind == "dense" else self._conv
        place = Place(layer, self.source(step), self.value(step), step.sources[0] in self._nonnegative)
        return sum_of([rule(block, share) for block, share in blocks_of(place, r)])


def first_layers(tape: Tape) -> frozenset[int]:
    """Targets of the layers with weights that read the image itself, or it rearranged."""
    image, found = {0}, set()
    for step in tape.steps:
        if step.sources[0] not in image:
            continue
        if step.kind in ("reshape", "arrange", "constant"):
            image.add(step.target)
        elif step.kind in AFFINE:
            found.add(step.target)
    return frozenset(found)


def bounds_of_pixels(config: ClassifierConfig) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Black and white as the network sees them, for each colour."""

    def bounds(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device).view(-1, 1, 1) for v in (config.mean, config.std))
        return -mean / std, (1 - mean) / std

    return bounds


def bounds_of_image(x: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value of each image over all colours, as the code of AGF and RAP has them."""
    return x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)


def require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a parameter that is none of the choices.

    Raises:
        UsageError: it is not.
    """
    if value not in allowed:
        raise UsageError(f"--set {name}={value}: no such choice", f"one of {', '.join(allowed)}")
