"""The smallest blurred region that makes the classifier lose a class, found by optimisation."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.baselines import median_blur
from xseg.heatmaps.cells import linear_weights
from xseg.heatmaps.layers import HALF_GRADIENT_SCALE, evaluating, single
from xseg.heatmaps.registry import Method, Query, methods
from xseg.heatmaps.sampling import require_positive, require_within
from xseg.registry import memory_only
from xseg.seeding import generator


def mask_penalty(masks: Tensor, l1: float, tv: float, beta: float) -> Tensor:
    """l1 * mean |1 - m| + tv * (mean |difference of rows|^beta + mean |difference of columns|^beta).

    Args:
        masks: (P,g,g) with g at least 2.
        l1: weight of what is hidden.
        tv: weight of the total variation.
        beta: its exponent, at least 1.

    Returns:
        (P,).
    """
    variation = sum(masks.diff(dim=axis).abs().pow(beta).mean((1, 2)) for axis in (1, 2))
    return l1 * (1 - masks).abs().mean((1, 2)) + tv * variation


@methods.register("meaningful-perturbation")
@dataclass(frozen=True)
class MeaningfulPerturbation(Method):
    """1 - m, where the mask m mixes picture and blurred picture so that the class's probability falls.

    Fong and Vedaldi 2017, Eq. 3 and 5, with the computation and the constants of Gildenblat's PyTorch code:
    probability of m x + (1 - m) blur(x) + noise, plus `mask_penalty`, minimised by Adam from m = 1, each step followed
    by clamping m to [0,1]. The probability is the one of the classifier's recorded activation, so a sigmoid for
    multi-label classifiers, where the published code has a softmax. That code then subtracts the mask's minimum and
    divides by its maximum, which is left to whoever normalises heatmaps here. It means to add normal noise of
    deviation 0.2; by a slip (an in-place call) it adds twice that, to the red channel only, which is not repeated here.

    Each question has its own mask, its own Adam state and its own noise, keyed by seed, image id, class and iteration.

    Args:
        iterations: steps of Adam.
        grid: cells per side of the mask, enlarged linearly so that its outer cells lie on the image's border.
        blur: side of the median filter's window in pixels, odd; the border pixels are repeated outwards.
        l1: weight of the mean of 1 - m.
        tv: weight of the total variation.
        beta: exponent of the total variation.
        noise: standard deviation of the noise, in units of the normalised image.
        rate: learning rate of Adam.
        chunk: questions optimised together; only memory and rounding depend on it.
    """

    iterations: int = 500
    grid: int = 28
    blur: int = 11
    l1: float = 0.01
    tv: float = 0.2
    beta: float = 3.0
    noise: float = 0.2
    rate: float = 0.1
    chunk: int = memory_only(16)

    signed: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    models: ClassVar[str] = "any"
    cost: ClassVar[str] = "n K (f + b), n = iterations"
    summary: ClassVar[str] = "smallest region whose blurring lowers the class's probability, found by optimisation"
    source: ClassVar[str] = "Fong and Vedaldi 2017, arXiv:1704.03296"

    def __post_init__(self) -> None:
        require_positive(iterations=self.iterations, rate=self.rate, chunk=self.chunk)
        for name in ("l1", "tv", "noise"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"--set {name}={getattr(self, name)}: needs a number from 0 on")
        require_within("grid", self.grid, 2, 1024)
        require_within("blur", self.blur, 1, 101)  # a median: time and memory grow with its square
        if self.blur % 2 == 0:
            raise UsageError(f"--set blur={self.blur}: needs an odd number of pixels")
        if not 1 <= self.beta < float("inf"):
            raise UsageError(f"--set beta={self.beta}: needs a number from 1 on")

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,H,W) in [0,1] at the resolution of the images."""
        images = query.images.detach()
        blurred = median_blur(images, self.blur)
        like, last = single(images), self.grid - 1
        places = [torch.linspace(0, last, side, dtype=like.dtype, device=like.device) for side in images.shape[2:]]
        enlarge = [linear_weights(place, self.grid) for place in places]
        maps = []
        with evaluating(classifier):
            for start in range(0, len(query.target), self.chunk):
                some = slice(start, start + self.chunk)
                part = replace(query, image=query.image[some], target=query.target[some])
                maps.append(1 - _enlarged(self._optimise(classifier, part, blurred, enlarge), enlarge))
        return torch.cat(maps)

    def _optimise(self, classifier: Classifier, query: Query, blurred: Tensor, enlarge: list[Tensor]) -> Tensor:
        """Masks (P,grid,grid) in [0,1] after the last step."""
        masks = torch.ones(len(query.target), self.grid, self.grid, dtype=enlarge[0].dtype, device=blurred.device)
        masks.requires_grad_()
        optimiser = torch.optim.Adam([masks], lr=self.rate)
        blur = blurred[query.image]
        difference = query.images.detach()[query.image] - blur
        for iteration in range(self.iterations):
            with torch.enable_grad():
                shown = _enlarged(masks, enlarge)[:, None].to(blur.dtype)
                pictures = blur + shown * difference + self._noise(query, iteration)
                logits = classifier(pictures)
                scores = classifier.probabilities(single(logits)).gather(1, query.target[:, None])
                loss = scores.sum() + mask_penalty(masks, self.l1, self.tv, self.beta).sum()
                scale = HALF_GRADIENT_SCALE if logits.dtype == torch.float16 else 1.0
                (gradient,) = torch.autograd.grad(loss * scale, masks)
            masks.grad = gradient / scale
            optimiser.step()
            with torch.no_grad():
                masks.clamp_(0, 1)
        return masks.detach()

    def _noise(self, query: Query, iteration: int) -> Tensor:
        """Noise (P,3,H,W)."""
        if not self.noise:
            return torch.zeros_like(query.images[:1])
        shape = query.images.shape[1:]
        keys = zip(query.image.tolist(), query.target.tolist(), strict=True)
        draws = [
            generator(query.seed, "meaningful-perturbation", query.ids[image], target + 1, iteration).standard_normal(
                shape, "float32"
            )
            for image, target in keys
        ]
        return self.noise * torch.stack([torch.from_numpy(draw) for draw in draws]).to(query.images)


def _enlarged(masks: Tensor, enlarge: list[Tensor]) -> Tensor:
    """Masks (P,g,g) as (P,H,W)."""
    with torch.autocast(masks.device.type, enabled=False):
        return torch.einsum("hg,pgk,wk->phw", enlarge[0], masks, enlarge[1])
