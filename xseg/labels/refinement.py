"""What makes the scores of an image follow its colours: the dense CRF, or pixel-adaptive averages."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from xseg.labels.meanfield import Backend, Kernels, mean_field


class Refinement(Protocol):
    """Scores of one image to scores that follow its colours; `DenseCrf` and `PixelAdaptive` are such."""

    def __call__(self, scores: Tensor, image: Tensor) -> Tensor:
        """Of scores (A,L,H,W) float32 in [0,1], A sets of L labels, over `image` (H,W,3) uint8 on their device."""


@dataclass(frozen=True)
class DenseCrf:
    """Mean field in a dense CRF; scores become posteriors, which sum to 1 over the labels.

    Attributes:
        kernels: the pairwise terms.
        backend: as from `resolve_backend`.
    """

    kernels: Kernels
    backend: Backend

    def __call__(self, scores: Tensor, image: Tensor) -> Tensor:
        """See `Refinement` and `mean_field`."""
        return mean_field(scores, image, self.kernels, self.backend)
