"""Methods by relevance through transformers: of their attention matrices, or down to the pixels."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.layers import single
from xseg.heatmaps.registry import Query, instead, methods
from xseg.heatmaps.relevance.composites import require_one_of
from xseg.heatmaps.relevance.method import RelevanceMethod, one_hot, own_logits
from xseg.heatmaps.relevance.tape import Tape
from xseg.heatmaps.relevance.transformer import TransformerWalker, Variant, attention_matrices
from xseg.heatmaps.relevance.walk import Walker
from xseg.heatmaps.tokens import Tokens, readers_of, tokens_of

Precision = Literal["single", "double"]


@dataclass(frozen=True)
class TransformerMethod(RelevanceMethod):
    """A method by the rules of Chefer et al.; relevance starts with 1 at the class."""

    variant: Variant = "ours"
    precision: Precision = "single"

    models: ClassVar[str] = (
        "transformers whose blocks all look at the same tokens (ViT, DeiT, BEiT, EVA, CaiT, hybrids)"
    )
    source: ClassVar[str] = "Chefer, Gur and Wolf 2021, arXiv:2012.09838"

    def __post_init__(self) -> None:
        require_one_of("variant", self.variant, get_args(Variant))
        require_one_of("precision", self.precision, get_args(Precision))

    def record(self, classifier: Classifier, query: Query) -> Tape:
        """The forward pass, by no less than single precision.

        Raises:
            UsageError: `create_graph` with the copy of the network that double precision takes.
        """
        # where the terms of a residual sum all but cancel, rounding decides how much more than R each of them gets
        with torch.autocast(query.images.device.type, enabled=False):
            if self.precision == "single":
                return super().record(classifier, query)
            if query.create_graph:
                raise UsageError("--set precision=double: the maps are those of a copy", "double the network instead")
            return super().record(copy.deepcopy(classifier).double(), replace(query, images=query.images.double()))

    def _refusal(self, classifier: Classifier) -> str | None:
        try:
            readers_of(classifier)
            return super()._refusal(classifier)
        except UsageError as problem:
            return problem.problem.removeprefix("--method: ")

    def _advice(self, classifier: Classifier) -> str:
        return instead(classifier)


@methods.register("vit-lrp")
@dataclass(frozen=True)
class VitLrp(TransformerMethod):
    """Relevance of the class through all blocks and the embedding of patches, down to the pixels (`full` LRP).

    Args:
        variant: the rules: the `lrp` that Chefer et al. compare with, or `ours`, of transformer attribution.
        precision: of the computation: `single`, or `double` by a copy of the network.
    """

    variant: Variant = "lrp"

    signed: ClassVar[bool] = True
    summary: ClassVar[str] = "relevance through all blocks of a transformer down to the pixels"
    cost: ClassVar[str] = "3 f + 2 K b"

    def walker(self, classifier: Classifier, tape: Tape) -> TransformerWalker:
        """Down to the image."""
        readers_of(classifier)
        return TransformerWalker(tape, self.variant)

    def explain(self, walker: Walker, logits: Tensor, target: Tensor) -> Tensor:
        """Relevance (K,N,H,W), summed over colours."""
        return walker.walk(one_hot(target, logits.shape[1], logits)).sum(2)


class _AttentionWalker(TransformerWalker):
    """Down to the first attention matrix that is looked at.

    Args:
        tape: with its graph, if gradients are to be taken.
        variant: the rules.
        matrices: the numbers of the attention matrices.
        tokens: what the head reads.
    """

    def __init__(self, tape: Tape, variant: Variant, matrices: Sequence[int], tokens: Tokens) -> None:
        super().__init__(tape, variant, matrices)
        self.tokens = tokens

    def evidence(self, target: Tensor, gradient: bool) -> list[Tensor]:
        """(K,N,T,T) of each matrix, queries in rows: the mean over heads of the positive part of R, or of R gradient.

        Args:
            target: (K,N) classes.
            gradient: weigh by the gradient of the class's logit.
        """
        logits, create_graph = self.tape.logits, torch.is_grad_enabled()
        relevance = self.reach(one_hot(target, logits.shape[1], single(logits)))
        if gradient:
            with torch.enable_grad():
                totals = own_logits(logits, target).sum(1).unbind()  # images do not influence each other
            gradients = self.tape.gradients(totals, self.wanted, create_graph)
            relevance = {number: relevance[number] * gradients[number] for number in self.wanted}
        return [self.tokens.place(relevance[number].relu().mean(2)) for number in self.wanted]


@dataclass(frozen=True)
class _OfAttention(TransformerMethod):
    """Maps of the tokens by the relevance of attention matrices."""

    gradient: bool = True

    signed: ClassVar[bool] = False

    @property
    def needs_gradients(self) -> bool:
        """Of the attention matrices, unless they are not weighed by them."""
        return self.gradient

    def chosen(self, matrices: list[int]) -> list[int]:
        """Those of the matrices that are looked at.

        Raises:
            UsageError: there are none.
        """
        raise NotImplementedError

    def walker(self, classifier: Classifier, tape: Tape) -> _AttentionWalker:
        """Down to the first of the chosen matrices."""
        readers_of(classifier)
        matrices = self.chosen(attention_matrices(tape))
        height, width = tape.values[0].shape[2:]
        tokens = tokens_of(classifier, (height, width), tape.values[matrices[-1]].shape[-1])
        return _AttentionWalker(tape, self.variant, matrices, tokens)

    def explain(self, walker: Walker, logits: Tensor, target: Tensor) -> Tensor:
        """Maps (K,N,h,w) on the grid of the patches."""
        assert isinstance(walker, _AttentionWalker)
        return walker.tokens.read(self.combine(walker.evidence(target, self.gradient)))

    def combine(self, evidence: list[Tensor]) -> Tensor:
        """One (K,N,T,T) of those of all matrices."""
        raise NotImplementedError


@methods.register("transformer-attribution")
@dataclass(frozen=True)
class TransformerAttribution(_OfAttention):
    """Relevance of the attention matrices times their gradients, rolled out over the blocks.

    A = mean over heads of (R gradient)+ of each block; the product of all I + A from the last block down to
    `start_layer`, rows not normalised, less I; the row of the token that the head reads, or the mean of such rows.

    Args:
        start_layer: the first block that takes part: 1, as in all published scripts, or 0, as in the text and in
            Athanasiadis et al. 2022.
        variant: the rules: `ours`, or those that Chefer et al. call `lrp`.
        precision: of the computation: `single`, or `double` by a copy of the network.
        gradient: weigh relevance by the gradient; without, the published code's relevance rollout.
    """

    start_layer: int = 1

    summary: ClassVar[str] = "relevance of attention times its gradient, rolled out over a transformer's blocks"
    cost: ClassVar[str] = "3 f + 3 K b"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start_layer < 0:
            raise UsageError(f"--set start_layer={self.start_layer}: needs a block, counted from 0")

    def chosen(self, matrices: list[int]) -> list[int]:
        """From `start_layer` on."""
        if self.start_layer >= len(matrices):
            last = f"the last of its {len(matrices)} blocks with attention is {len(matrices) - 1}"
            raise UsageError(f"--set start_layer={self.start_layer}: {last}", "start_layer=0 looks at all")
        return matrices[self.start_layer :]

    def combine(self, evidence: list[Tensor]) -> Tensor:
        """(I + A_last) ... (I + A_first) - I: a head that averages the patches would find the same I at each."""
        return reduce(lambda product, matrix: product + matrix + matrix @ product, evidence)


@methods.register("partial-lrp")
@dataclass(frozen=True)
class PartialLrp(_OfAttention):
    """Relevance of the last block's attention matrix: what the head's token looked at, mean over heads.

    Args:
        variant: the rules: the `lrp` that Chefer et al. compare with, or `ours`, of transformer attribution.
        precision: of the computation: `single`, or `double` by a copy of the network.
        gradient: weigh relevance by the gradient (the published ablation).
    """

    variant: Variant = "lrp"
    gradient: bool = False

    summary: ClassVar[str] = "relevance of a transformer's last attention matrix"
    cost: ClassVar[str] = "f"

    def chosen(self, matrices: list[int]) -> list[int]:
        """The last."""
        return matrices[-1:]

    def combine(self, evidence: list[Tensor]) -> Tensor:
        """The only one."""
        return evidence[0]
