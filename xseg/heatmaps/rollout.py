"""Attention as it is, without gradients: the last block's, or all blocks' multiplied. The same for every class."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.attention import watching
from xseg.heatmaps.attention_method import AttentionMethod
from xseg.heatmaps.batches import sides_of
from xseg.heatmaps.layers import evaluating, single
from xseg.heatmaps.registry import Query, methods
from xseg.heatmaps.tokens import Tokens, tokens_of

Variant = Literal["published", "vit-explain"]
Heads = Literal["mean", "max", "min"]


class _PlainAttention(AttentionMethod):
    """What `raw-attention` and `rollout` share: one forward pass, one map per image whatever is asked about it."""

    class_specific: ClassVar[bool] = False
    cost: ClassVar[str] = "1 f"

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,h,w) on the grid of the patches, equal for all classes of an image.

        Raises:
            UsageError: the network has no attention over the tokens of the image.
        """
        graph, first = query.create_graph, self.first_of(classifier)
        with evaluating(classifier, graph), watching(graph, first, self.fuse) as matrices:
            classifier(query.images)
        tokens = tokens_of(classifier, sides_of(query.images), matrices[-1].shape[-1])
        with torch.set_grad_enabled(graph), torch.autocast(query.images.device.type, enabled=False):
            return self.look(tokens, matrices)[query.image]

    def fuse(self, matrix: Tensor) -> Tensor:
        """The heads' matrices (N,H,Q,K) as one, (N,Q,K)."""
        return single(matrix).mean(1)

    def look(self, tokens: Tokens, matrices: list[Tensor]) -> Tensor:
        """Maps (N,h,w) from the fused matrices (N,Q,K) of the blocks looked at."""
        raise NotImplementedError


@methods.register("raw-attention")
@dataclass(frozen=True)
class RawAttention(_PlainAttention):
    """mean_h A_h of the last block, in the row of the token that the head reads, at the patches."""

    summary: ClassVar[str] = "attention of the last block from the class token to the patches; the same for every class"
    source: ClassVar[str] = "Chefer et al. 2021, arXiv:2012.09838, baseline"

    def look(self, tokens: Tokens, matrices: list[Tensor]) -> Tensor:
        """The only matrix, as it is: a softmax is never negative, so that the published clamp does nothing."""
        return tokens.read(matrices[-1])


@methods.register("rollout")
@dataclass(frozen=True)
class Rollout(_PlainAttention):
    """The head's row of the product of (A_b + I) over the blocks, rows normalised to 1 (Abnar and Zuidema 2020).

    Args:
        variant: `published`: A_b + I divided by its row sums, as in the code of Chefer et al. 2021. `vit-explain`: the
            usual picture tool, which keeps only the largest entries and divides column j by the sum of row j.
        start_layer: first block; auto: 1 for `published`, as all its scripts pass, and 0 for `vit-explain`; the paper
            has 0.
        discard_ratio: share of the smallest entries of each fused A_b that are zeroed, the first entry kept; auto: none
            for `published`, 0.9 for `vit-explain`.
        heads: how the heads' matrices become one.
    """

    variant: Variant = "published"
    start_layer: int | None = None
    discard_ratio: float | None = None
    heads: Heads = "mean"

    summary: ClassVar[str] = "attention of all blocks multiplied, with the skip connections; the same for every class"
    source: ClassVar[str] = "Abnar and Zuidema 2020, arXiv:2005.00928"

    def __post_init__(self) -> None:
        if self.start_layer is not None and self.start_layer < 0:
            raise UsageError(f"--set start_layer={self.start_layer}: needs a block's number, from 0")
        if self.discard_ratio is not None and not 0 <= self.discard_ratio < 1:
            raise UsageError(f"--set discard_ratio={self.discard_ratio:g}: needs a share from 0 to below 1")

    def first(self, blocks: int) -> int:
        """`start_layer`."""
        return int(self.variant == "published") if self.start_layer is None else self.start_layer

    def fuse(self, matrix: Tensor) -> Tensor:
        """The heads' matrices (N,H,Q,K) as one, (N,Q,K), without its smallest entries."""
        values = single(matrix)
        fused = values.mean(1) if self.heads == "mean" else getattr(values, f"a{self.heads}")(1)
        usual = 0.9 if self.variant == "vit-explain" else 0.0
        return without_smallest(fused, usual if self.discard_ratio is None else self.discard_ratio)

    def look(self, tokens: Tokens, matrices: list[Tensor]) -> Tensor:
        """Maps (N,h,w): what the tokens that the head reads have got from each patch."""
        row = tokens.start(matrices[0])  # of the product, which is never made: from the last block down a row is enough
        for matrix in reversed(matrices):
            row = row @ self._step(tokens.place(matrix))
        return tokens.of_patches(row[:, 0])

    def _step(self, attention: Tensor) -> Tensor:
        """(N,T,T) with the skip connection, normalised."""
        mixed = attention + torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
        if self.variant == "published":
            return mixed / mixed.sum(-1, keepdim=True)
        mixed = mixed / 2
        return mixed / mixed.sum(-1)[:, None]


def without_smallest(matrix: Tensor, share: float) -> Tensor:
    """(N,Q,K) with the given share of the smallest entries of each image zeroed, but for the first entry."""
    flat = matrix.flatten(1)
    if not (count := int(flat.shape[1] * share)):
        return matrix
    keep = torch.ones_like(flat).scatter(1, flat.detach().topk(count, largest=False).indices, 0)
    keep[:, 0] = 1
    return (flat * keep).view_as(matrix)
