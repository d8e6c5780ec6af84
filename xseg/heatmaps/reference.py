"""Maps that look at neither classifier nor picture: what every explanation has to beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.registry import Method, Query, methods
from xseg.heatmaps.sampling import require_within
from xseg.seeding import generator


@methods.register("random")
@dataclass(frozen=True)
class RandomMap(Method):
    """Uniform noise on a coarse grid, keyed by seed, image id and class: the same in any batch, shard or restart.

    Args:
        grid: cells per side; interpolation to the size of the map makes blobs of about one cell.
    """

    grid: int = 7

    signed: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    needs_model: ClassVar[bool] = False
    models: ClassVar[str] = "any"
    cost: ClassVar[str] = "none"
    summary: ClassVar[str] = "reference: uniform noise on a coarse grid, keyed by seed, image and class"
    source: ClassVar[str] = "none (reference map)"

    def __post_init__(self) -> None:
        require_within("grid", self.grid, 1, 1024)

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,grid,grid) in [0,1)."""
        shape = (self.grid, self.grid)
        maps = torch.empty(len(query.target), *shape)
        pairs = zip(query.image.tolist(), query.target.tolist(), strict=True)
        for row, (image, target) in zip(maps, pairs, strict=True):
            noise = generator(query.seed, "random map", query.ids[image], target + 1).random(shape, dtype="float32")
            row.copy_(torch.from_numpy(noise))
        return maps.to(query.images.device)


@methods.register("centre-prior")
@dataclass(frozen=True)
class CentrePrior(Method):
    """exp(-(u^2 + v^2) / (2 sigma^2)) with u, v the offsets from the centre as fractions of the image's sides.

    Args:
        sigma: standard deviation as a fraction of the sides.
    """

    sigma: float = 0.25

    signed: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    needs_model: ClassVar[bool] = False
    models: ClassVar[str] = "any"
    cost: ClassVar[str] = "none"
    summary: ClassVar[str] = "reference: a Gaussian at the centre of the picture, the same for every class"
    source: ClassVar[str] = "none (reference map)"

    def __post_init__(self) -> None:
        if not 0 < self.sigma < float("inf"):
            raise UsageError(f"--set sigma={self.sigma}: needs a positive number")

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,H,W) in (0,1] at the resolution of the images."""
        height, width = query.images.shape[-2:]
        device = query.images.device

        def profile(length: int) -> Tensor:
            offset = (torch.arange(length, device=device, dtype=torch.float32) + 0.5) / length - 0.5
            return torch.exp(-0.5 * (offset / self.sigma) ** 2)

        return (profile(height)[:, None] * profile(width)).expand(len(query.target), -1, -1).clone()
