"""Attention weighted by the gradient of a logit with respect to it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.attention import watching
from xseg.heatmaps.attention_method import AttentionMethod
from xseg.heatmaps.batches import sides_of
from xseg.heatmaps.layers import answer_by_gradients, evaluating
from xseg.heatmaps.registry import Query, methods
from xseg.heatmaps.tokens import Tokens, tokens_of


class _AttentionGradient(AttentionMethod):
    """What methods share that weigh attention matrices by the gradient of a raw logit with respect to them."""

    class_specific: ClassVar[bool] = True

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,h,w) on the grid of the patches; all classes share one forward pass.

        Raises:
            UsageError: the network has no attention over the tokens of the image.
        """
        first = self.first_of(classifier)
        with evaluating(classifier, query.create_graph), watching(True, first) as matrices:
            logits = classifier(query.images)
        tokens = tokens_of(classifier, sides_of(query.images), matrices[-1].shape[-1])

        def weigh(gradients: list[Tensor], attentions: list[Tensor]) -> Tensor:
            return self._weigh(tokens, gradients, attentions)

        return answer_by_gradients(query, matrices, logits, weigh)

    def _weigh(self, tokens: Tokens, gradients: list[Tensor], attentions: list[Tensor]) -> Tensor:
        """Maps (p,h,w) from gradients and matrices (p,H,Q,K) of the blocks looked at."""
        raise NotImplementedError


@methods.register("attention-grad-cam")
@dataclass(frozen=True)
class AttentionGradCam(_AttentionGradient):
    """ReLU(mean_h w_h a_h), a_h head h's attention to the patches in the last block, w_h the mean of dy_k/da_h.

    Grad-CAM with the rows that the head reads for feature maps: one a head for a class token, and where patches are
    averaged one a head and patch.
    """

    cost: ClassVar[str] = "1 f + K b of what follows the last attention"
    summary: ClassVar[str] = "Grad-CAM on the last block's attention: each head weighted by its mean gradient"
    source: ClassVar[str] = "Chefer et al. 2021, arXiv:2012.09838, baseline"

    def _weigh(self, tokens: Tokens, gradients: list[Tensor], attentions: list[Tensor]) -> Tensor:
        gradient, attention = (tokens.of_patches(of[0][:, :, tokens.rows()]) for of in (gradients, attentions))
        return (gradient.mean((-2, -1), keepdim=True) * attention).mean((1, 2)).relu()


@methods.register("attention-gradient-rollout")
@dataclass(frozen=True)
class AttentionGradientRollout(_AttentionGradient):
    """The head's row of R after R <- R + mean_h ReLU(dy_k/dA_h * A_h) R in each block, from R = I (Chefer et al. 2021).

    Where the head reads the mean of the patches, the mean of their rows of R - I: what a patch has of itself would be
    the same constant everywhere. At a class token's row, which is what was published, I is zero at all patches.

    Args:
        start_layer: first block; what comes before counts as the identity.
    """

    start_layer: int = 0

    cost: ClassVar[str] = "1 f + K b"
    summary: ClassVar[str] = "attention times gradient of all blocks multiplied; the safe choice for any transformer"
    source: ClassVar[str] = "Chefer et al. 2021, arXiv:2103.15679"

    def __post_init__(self) -> None:
        if self.start_layer < 0:
            raise UsageError(f"--set start_layer={self.start_layer}: needs a block's number, from 0")

    def first(self, blocks: int) -> int:
        """`start_layer`."""
        return self.start_layer

    def _weigh(self, tokens: Tokens, gradients: list[Tensor], attentions: list[Tensor]) -> Tensor:
        start = tokens.start(attentions[0])
        gained = torch.zeros_like(
            start
        )  # the row of R - I: beside I, the little that a block adds would be rounded off
        for gradient, attention in zip(reversed(gradients), reversed(attentions), strict=True):
            gained = gained + (start + gained) @ tokens.place((gradient * attention).relu().mean(1))
        return tokens.of_patches(gained[:, 0])
