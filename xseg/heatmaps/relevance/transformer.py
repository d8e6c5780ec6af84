"""The rules of Chefer, Gur and Wolf (2021) for transformers, at any batch size."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from xseg.heatmaps.attention import is_attention
from xseg.heatmaps.relevance.affine import Affine
from xseg.heatmaps.relevance.composites import bounds_of_image, first_layers
from xseg.heatmaps.relevance.operations import KINDS, tensors_in
from xseg.heatmaps.relevance.rules import (
    AlphaBeta,
    Box,
    Place,
    Rule,
    SeparatePlus,
    blocks_of,
    divide_as_published,
    sum_of,
)
from xseg.heatmaps.relevance.tape import Step, Tape
from xseg.heatmaps.relevance.walk import Walker, nonnegative, summed_to

#: The two files of rules of the published code: layers_ours and layers_lrp.
Variant = Literal["ours", "lrp"]


class TransformerWalker(Walker):
    """z-plus for layers with weights, products in halves, sums in proportion; all else passes relevance on.

    Args:
        tape: the forward pass.
        variant: `ours`: one denominator for inputs of both signs, and what a sum gives to its parts is scaled, image
            by image, to positive shares of what arrives; `lrp`: a denominator each, and sums are left as they are.
        wanted: as in `Walker`.
    """

    one_source: ClassVar[dict[str, str]] = {**Walker.one_source, "softmax": "_unchanged"}
    several_sources: ClassVar[dict[str, str]] = {**Walker.several_sources, "matmul": "_matmul", "product": "_product"}

    def __init__(self, tape: Tape, variant: Variant, wanted: Sequence[int] = (0,)) -> None:
        super().__init__(tape, divide_as_published, wanted)
        self._scaled = variant == "ours"
        self._rule: Rule = AlphaBeta(1, self.divide, bias=False) if self._scaled else SeparatePlus(self.divide)
        self._nonnegative = nonnegative(tape)
        self._firsts = first_layers(tape)
        self._torn = frozenset(step.sources[0] for step in tape.steps if step.part is not None)

    def affine(self, step: Step, layer: Affine, r: Tensor) -> Tensor:
        """By z-plus without biases, by the z-box at the image."""
        place = Place(layer, self.source(step), self.value(step), step.sources[0] in self._nonnegative)
        if step.target in self._firsts:
            return Box(bounds_of_image, self.divide, bias=False)(place, r)
        if step.kind != "dense" or r.ndim != 4 or torch.is_grad_enabled():
            return self._by_rule(place, r)
        # Of the last block only the tokens that the head reads have any: for the others nothing need be computed.
        tokens = (r != 0).any(-1).flatten(0, 1).any(0).nonzero()[:, 0]
        if len(tokens) == r.shape[2]:
            return self._by_rule(place, r)
        few = replace(place, x=place.x[:, tokens], y=place.y[:, tokens])
        zeros = r.new_zeros(len(r), *place.x.shape)
        return zeros.index_copy(2, tokens, self._by_rule(few, r[:, :, tokens]))

    def _by_rule(self, place: Place, r: Tensor) -> Tensor:
        return sum_of([self._rule(block, share) for block, share in blocks_of(place, r)])

    def join(self, number: int, parts: list[Tensor]) -> Tensor:
        """The sum; where several steps read it, not its pieces, divided and multiplied by the value, as published."""
        if len(parts) == 1 or number in self._torn:
            return sum_of(parts)
        y = self.tape.value(number)
        return y * self.divide(sum_of(parts), y)

    def _arrange(self, step: Step, r: Tensor) -> Tensor:
        """Back to where it came from; to the one token that a head chooses divided and multiplied, as published."""
        x, y = self.source(step), self.value(step)
        if step.function is not Tensor.__getitem__ or x.ndim == y.ndim:
            return self.pull(step, r)
        return x * self.pull(step, self.divide(r, y))

    def _matmul(self, step: Step, r: Tensor) -> list[Tensor | None]:
        """Half to each factor, in proportion to what it adds: the published scaling of both halves comes to this."""
        first, second = (self.tape.value(source) for source in step.sources)
        share = self.divide(r, self.value(step)) / 2
        parts = first * (share @ second.mT), second * (first.mT @ share)
        return [summed_to(part, len(r), x.shape) for part, x in zip(parts, (first, second), strict=True)]

    def _product(self, step: Step, r: Tensor) -> list[Tensor | None]:
        """Half to each factor, as in a matrix product."""
        y = self.value(step)
        half = y * self.divide(r, y) / 2
        return [summed_to(half, len(r), self.tape.values[source].shape) for source in step.sources]

    def _sum(self, step: Step, r: Tensor) -> list[Tensor | None]:
        terms = [self.tape.value(source) for source in step.sources]
        parts = self._shares(r, terms, self.value(step))
        return [summed_to(part, len(r), x.shape) for part, x in zip(parts, terms, strict=True)]

    def _constant(self, step: Step, r: Tensor) -> Tensor:
        """What tells places apart (position embeddings) has its share, which is lost; biases and factors have none."""
        x = self.source(step)
        if KINDS.get(step.function) == "sum" and self._tells_places_apart(step):
            r = self._shares(r, [x, self.value(step) - x], self.value(step))[0]
        return summed_to(r, len(r), x.shape)

    def _tells_places_apart(self, step: Step) -> bool:
        read = self.tape.values[step.sources[0]]
        terms = [value for value in tensors_in([*step.args, *step.kwargs.values()]) if value is not read]
        return any(term.ndim > 1 and term.shape[-2] > 1 for term in terms)

    def _shares(self, r: Tensor, terms: list[Tensor], total: Tensor) -> list[Tensor]:
        """What each term of a sum gets: term R / total, and scaled to |sum| / (sum of all |sums|) of what arrives."""
        share = self.divide(r, total)
        parts = [term * share for term in terms]
        if not self._scaled:
            return parts
        axes = tuple(range(2, r.ndim))
        sums, arriving = [part.sum(axes, keepdim=True) for part in parts], r.sum(axes, keepdim=True)
        size = sum_of([each.abs() for each in sums])
        return [
            part * self.divide(self.divide(each.abs(), size) * arriving, each)
            for part, each in zip(parts, sums, strict=True)
        ]


def attention_matrices(tape: Tape) -> list[int]:
    """Numbers of the attention matrices (N,H,Q,T), in the order of execution."""
    values = tape.values
    return [s.target for s in tape.steps if is_attention(s.function, s.args, s.kwargs, values[s.target])]
