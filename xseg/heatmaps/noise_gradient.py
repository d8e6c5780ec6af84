"""Gradients averaged over noisy copies of the picture."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.layers import image_leaf
from xseg.heatmaps.registry import Method, Query, methods
from xseg.heatmaps.sampling import normal, require_positive, summed_gradients
from xseg.registry import memory_only

_SAMPLES = {"paper": 50, "official": 100, "agf": 50}
_NOISE = {"paper": 0.15, "official": 0.15, "agf": 4.0}


def noise_deviation(images: Tensor, variant: str, noise: float) -> Tensor:
    """Standard deviation of the noise for each image, from the range (max - min) of all its values.

    Args:
        images: (N,3,H,W) normalised float.
        variant: `agf`: (noise / range)^2; else noise * range.
        noise: strength.

    Returns:
        (N,1,1,1); 0 for an image of one value.
    """
    extent = images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True)
    if variant != "agf":
        return noise * extent
    flat = extent == 0
    return torch.where(flat, 0.0, (noise / torch.where(flat, 1.0, extent)) ** 2)


def noisy_gradients(
    classifier: Classifier,
    query: Query,
    noise: Callable[[int], Tensor],
    samples: int,
    chunk: int,
    squared: bool = False,
) -> Tensor:
    """Mean over draws of dy_k/dx (x + noise), or of its square.

    Args:
        classifier: any mode, left as it was.
        query: the P questions.
        noise: sample number to the noise (N,3,H,W) that is added.
        samples: number of draws.
        chunk: draws per image in one forward pass.
        squared: average the squares of the gradients.

    Returns:
        (P,3,H,W) float32, or float64 where the images are.
    """
    images = image_leaf(query)
    share = images.new_tensor(1 / samples)
    return summed_gradients(classifier, query, lambda i: (images + noise(i), share), samples, chunk, squared)


@methods.register("smooth-grad")
@dataclass(frozen=True)
class SmoothGrad(Method):
    """sum_rgb |mean_s dy_k/dx (x + e_s)| with raw logits y and normal noise e_s (Smilkov et al. 2017).

    Each draw is keyed by seed, image id and its number, and shared by all classes of the image.

    Args:
        variant: `paper`: 50 samples, noise 0.15 of the range (max - min) of the normalised image. `official`: the
            published code of Idiap's FullGrad, the same with 100 samples. `agf`: the baseline in the published code of
            Gur et al. 2021, 50 samples, standard deviation (4 / range)^2.
        samples: draws per image; auto is the variant's.
        noise: standard deviation as a fraction of the range, or for `agf` the number squared over the range; auto is
            the variant's.
        absolute: false leaves the sign of the gradient: sum_rgb mean_s dy_k/dx, a signed map.
        squared: sum_rgb mean_s (dy_k/dx)^2 instead (SmoothGrad-Squared, Hooker et al. 2019), never negative.
        chunk: draws per image in one forward pass; only memory and rounding depend on it.
    """

    variant: Literal["paper", "official", "agf"] = "paper"
    samples: int | None = None
    noise: float | None = None
    absolute: bool = True
    squared: bool = False
    chunk: int = memory_only(4)

    signed: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    models: ClassVar[str] = "any"
    cost: ClassVar[str] = "n (f + K b), n = samples"
    summary: ClassVar[str] = "gradient averaged over noisy copies of the picture, its absolute value summed over colour"
    source: ClassVar[str] = "Smilkov et al. 2017, arXiv:1706.03825"

    def __post_init__(self) -> None:
        require_positive(samples=self.samples, chunk=self.chunk)
        if self.noise is not None and not 0 <= self.noise < float("inf"):
            raise UsageError(f"--set noise={self.noise}: needs a number from 0 on")
        if self.squared and not self.absolute:
            raise UsageError("--set absolute=false: squares have no sign to keep", "leave squared=false")

    @property
    def is_signed(self) -> bool:
        """Signed without `absolute`."""
        return not self.absolute

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,H,W) at the resolution of the images; all classes share each sample's forward pass."""
        samples = _SAMPLES[self.variant] if self.samples is None else self.samples
        strength = _NOISE[self.variant] if self.noise is None else self.noise
        with torch.set_grad_enabled(query.create_graph):
            deviation = noise_deviation(query.images, self.variant, strength)
            gradient = noisy_gradients(
                classifier,
                query,
                lambda number: deviation * normal(query, "smooth-grad", number),
                samples,
                self.chunk,
                self.squared,
            )
            return (gradient.abs() if self.absolute else gradient).sum(1)
