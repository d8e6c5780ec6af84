"""Rules of layer-wise relevance propagation for affine maps; all distribute R over the inputs of y = W x + b.

Axes: x (N,...) and y (N,...) are the layer's input and output, R (K,N,...) the relevance of K classes of N images at y;
what comes back is R at x, (K,N,...). The work that does not depend on the class is done once. Nothing is detached and
nothing works in place, so maps can be differentiated again. Each rule names where it comes from; zennit (Anders et al.
2021, arXiv:2106.13200) has the same definitions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xseg.heatmaps.relevance.affine import Affine


@dataclass(frozen=True)
class Division:
    """Quotient r / (y + epsilon sign(y)), and 0 where the denominator is 0; sign(0) = 1.

    Attributes:
        epsilon: in the unit of y.
    """

    epsilon: float

    def __call__(self, r: Tensor, y: Tensor) -> Tensor:
        """For r (K,N,...) and y (N,...) of any sign."""
        if self.epsilon:
            return r / torch.where(y < 0, y - self.epsilon, y + self.epsilon)
        return torch.where(y == 0, 0, r / torch.where(y == 0, 1, y))

    def above(self, r: Tensor, y: Tensor) -> Tensor:
        """The same in less time for y known to be nowhere negative."""
        return r / (y + self.epsilon) if self.epsilon else self(r, y)

    def kept(self, r: Tensor, y: Tensor) -> Tensor:
        """What is left of r where y takes it all: y times the quotient, which is r but for rounding."""
        return r


@dataclass(frozen=True)
class PublishedDivision(Division):
    """Quotient r / (y + 1e-9), and 0 where y is 0: what the code of AGF, RAP and Chefer et al. computes.

    The constant does not follow the sign of y, as their comment says it does (see docs/methods.md).
    """

    epsilon: float = 1e-9

    def __call__(self, r: Tensor, y: Tensor) -> Tensor:
        """For r (K,N,...) and y (N,...) of any sign."""
        return torch.where(y == 0, 0, r / torch.where(y == 0, 1, y + self.epsilon))

    def above(self, r: Tensor, y: Tensor) -> Tensor:
        """The same in less time for y known to be nowhere negative."""
        return torch.where(y == 0, 0, r / (y + self.epsilon))

    def kept(self, r: Tensor, y: Tensor) -> Tensor:
        """R, lost where y is 0."""
        return r * (y != 0)


divide_as_published = PublishedDivision()

_BLOCK = 2**20  # weights, 4 MB in single precision


@dataclass(frozen=True)
class Place:
    """Where a rule is applied.

    Attributes:
        layer: the affine map.
        x: (N,...) its input.
        y: (N,...) its output, bias included.
        nonnegative: x is known to have no negative value (it comes from a ReLU), so half of many rules is 0.
    """

    layer: Affine
    x: Tensor
    y: Tensor
    nonnegative: bool

    def back(self, r: Tensor, weight: Tensor) -> Tensor:
        """The transpose of `weight` applied to (K,N,...) in the shape of y."""
        return self.layer.transpose(r, weight, self.x)

    def contributions(self, up: bool, bias: bool) -> "Part":
        """The positive (`up`) or negative part of W x + b, split by the signs of x and W."""
        towards, against = (_positive, _negative) if up else (_negative, _positive)
        weight = towards(self.layer.weight)
        offset = towards(self.layer.bias) if bias and self.layer.bias is not None else None
        if self.nonnegative:
            return Part(self, ((self.x, weight),), self.layer(self.x, weight, offset))
        above, below, other = _positive(self.x), _negative(self.x), against(self.layer.weight)
        total = self.layer(above, weight, offset) + self.layer(below, other)
        return Part(self, ((above, weight), (below, other)), total)


def blocks_of(place: Place, r: Tensor) -> Iterator[tuple[Place, Tensor]]:
    """A large linear layer cut into blocks of outputs, with their relevance; anything else whole.

    Relevance of the inputs is a sum over outputs, so that of the blocks adds up. No rule then copies all weights at
    once to clamp them, and a block is still in the cache when it is used again.
    """
    layer, step = place.layer, max(1, _BLOCK // place.layer.weight.shape[-1])
    if layer.kind != "dense" or len(layer.weight) <= step:
        yield place, r
        return
    for start in range(0, len(layer.weight), step):
        rows = slice(start, start + step)
        bias = None if layer.bias is None else layer.bias[rows]
        block = replace(layer, weight=layer.weight[rows], bias=bias)
        yield replace(place, layer=block, y=place.y[..., rows]), r[..., rows]


@dataclass(frozen=True)
class Part:
    """A sum of terms W' x' and its value (N,...)."""

    place: Place
    terms: tuple[tuple[Tensor, Tensor], ...]
    total: Tensor

    def distribute(self, share: Tensor) -> Tensor:
        """Sum over the terms of x' (W'^T share), for `share` (K,N,...) in the shape of y."""
        return sum_of([x * self.place.back(share, weight) for x, weight in self.terms])


def sum_of(parts: list[Tensor]) -> Tensor:
    """Parts of equal shape added up."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _positive(values: Tensor) -> Tensor:
    return values.clamp(min=0)


def _negative(values: Tensor) -> Tensor:
    return values.clamp(max=0)


class Rule(ABC):
    """R at the output of an affine map to R at its input."""

    @abstractmethod
    def __call__(self, place: Place, r: Tensor) -> Tensor:
        """R (K,N,...) at x."""


@dataclass(frozen=True)
class Epsilon(Rule):
    """x_i W_ij R_j / (y_j + epsilon sign y_j) (Bach et al. 2015, Eq. 58); rule 0 with epsilon 0.

    Attributes:
        divide: holds epsilon.
        bias: the bias keeps its share, or takes none.
    """

    divide: Division
    bias: bool = True

    def __call__(self, place: Place, r: Tensor) -> Tensor:
        """R (K,N,...) at x."""
        layer = place.layer
        y = place.y if self.bias or layer.bias is None else layer(place.x, layer.weight)
        return place.x * place.back(self.divide(r, y), layer.weight)


@dataclass(frozen=True)
class AlphaBeta(Rule):
    """alpha (positive contributions) - (alpha - 1) (negative ones) (Bach et al. 2015, Eq. 60); z-plus with alpha 1.

    Contributions of negative inputs through negative weights are positive; one denominator joins both kinds, unlike
    the code of AGF and RAP, which gives each its own and so doubles the relevance of inputs of mixed sign.
    """

    alpha: float
    divide: Division
    bias: bool = True

    def __call__(self, place: Place, r: Tensor) -> Tensor:
        """R (K,N,...) at x."""
        up = place.contributions(True, self.bias)
        result = up.distribute(self.divide.above(r, up.total))
        if self.alpha == 1:
            return result
        down = place.contributions(False, self.bias)
        return self.alpha * result - (self.alpha - 1) * down.distribute(self.divide(r, down.total))


@dataclass(frozen=True)
class SeparatePlus(Rule):
    """z-plus without biases, with a denominator for inputs of each sign: relevance doubles where both occur.

    What the code of Chefer et al. calls LRP.
    """

    divide: Division

    def __call__(self, place: Place, r: Tensor) -> Tensor:
        """R (K,N,...) at x."""
        weight, parts = place.layer.weight, []
        for split in (_positive,) if place.nonnegative else (_positive, _negative):
            x, favoured = split(place.x), split(weight)
            parts.append(x * place.back(self.divide.above(r, place.layer(x, favoured)), favoured))
        return sum_of(parts)


@dataclass(frozen=True)
class Gamma(Rule):
    """Like rule 0 with positive contributions counted 1 + gamma times (Montavon et al. 2019), for inputs of any sign.

    Where y > 0 the contributions to favour are the positive ones, where y < 0 the negative ones (Andeol et al. 2021).
    """

    gamma: float
    divide: Division
    bias: bool = True

    def __call__(self, place: Place, r: Tensor) -> Tensor:
        """R (K,N,...) at x."""
        above = self._favour(place, r, up=True)
        below = self._favour(place, r, up=False)
        return above + below

    def _favour(self, place: Place, r: Tensor, up: bool) -> Tensor:
        layer = place.layer
        towards, against = (_positive, _negative) if up else (_negative, _positive)
        weight = layer.weight + self.gamma * towards(layer.weight)
        offset = None
        if self.bias and layer.bias is not None:
            offset = layer.bias + self.gamma * towards(layer.bias)
        chosen = place.y > 0 if up else place.y < 0
        if place.nonnegative:
            return place.x * place.back(self.divide(r * chosen, layer(place.x, weight, offset)), weight)
        high, low, other = _positive(place.x), _negative(place.x), layer.weight + self.gamma * against(layer.weight)
        share = self.divide(r * chosen, layer(high, weight, offset) + layer(low, other))
        return high * place.back(share, weight) + low * place.back(share, other)


@dataclass(frozen=True)
class Box(Rule):
    """z-box for pixels between two bounds (Montavon et al. 2017, Eq. 16), with l <= x <= h.

    Attributes:
        bounds: x (N,3,H,W) to l and h that broadcast with it.
        divide: of the denominator.
        bias: in the denominator.
    """

    bounds: Callable[[Tensor], tuple[Tensor, Tensor]]
    divide: Division
    bias: bool = True

    def __call__(self, place: Place, r: Tensor) -> Tensor:
        """R (K,N,...) at x."""
        layer, weight = place.layer, place.layer.weight
        low, high = (bound.expand_as(place.x) for bound in self.bounds(place.x))
        up, down = _positive(weight), _negative(weight)
        bias = layer.bias if self.bias else None
        above, below = (None, None) if bias is None else (_positive(bias), _negative(bias))
        y = layer(place.x, weight, bias) - layer(low, up, above) - layer(high, down, below)
        share = self.divide(r, y)
        return place.x * place.back(share, weight) - low * place.back(share, up) - high * place.back(share, down)


@dataclass(frozen=True)
class Flat(Rule):
    """The same share for every input of an output (Lapuschkin et al. 2019), or one in proportion to the squared weight.

    Attributes:
        squared: the w-square rule (Montavon et al. 2017, Eq. 12) instead.
        bias: its square in the w-square rule's denominator.
    """

    divide: Division
    squared: bool = False
    bias: bool = True

    def __call__(self, place: Place, r: Tensor) -> Tensor:
        """R (K,N,...) at x."""
        layer = place.layer
        weight = layer.weight**2 if self.squared else torch.ones_like(layer.weight)
        offset = layer.bias**2 if self.squared and self.bias and layer.bias is not None else None
        return place.back(self.divide.above(r, layer(torch.ones_like(place.x[:1]), weight, offset)), weight)


def share_by_magnitude(place: Place, r: Tensor) -> Tensor:
    """|x| |W|^T (R / (|W| |x|)): in proportion to the size of the contributions, as RAP and AGF share."""
    x = place.x.abs()
    parts = []
    for block, share in blocks_of(place, r):
        weight = block.layer.weight.abs()
        parts.append(block.back(divide_as_published.above(share, block.layer(x, weight)), weight))
    return x * sum_of(parts)
