"""Gradients collected on the way from a baseline to the picture."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.baselines import Baseline, baseline_images
from xseg.heatmaps.layers import image_leaf
from xseg.heatmaps.registry import Method, Query, methods
from xseg.heatmaps.sampling import normal, require_positive, summed_gradients
from xseg.registry import memory_only
from xseg.seeding import generator

_AGF_STEPS = 100


def quadrature(rule: str, count: int) -> list[tuple[float, float]]:
    """`count` places in [0,1] with their weights, which sum to 1.

    Args:
        rule: `gauss-legendre`, `trapezoid` or `midpoint`.
        count: at least 1; 2 for `trapezoid`.

    Raises:
        ValueError: no such rule.
    """
    if rule == "gauss-legendre":
        places, weights = np.polynomial.legendre.leggauss(count)
        return list(zip(((1 + places) / 2).tolist(), (weights / 2).tolist(), strict=True))
    if rule == "trapezoid":
        last = count - 1
        return [(i / last, (0.5 if i in (0, last) else 1) / last) for i in range(count)]
    if rule == "midpoint":
        return [((i + 0.5) / count, 1 / count) for i in range(count)]
    raise ValueError(f"rule is {rule!r}, needed gauss-legendre, trapezoid or midpoint")


@methods.register("integrated-gradients")
@dataclass(frozen=True)
class IntegratedGradients(Method):
    """sum_rgb (x - x') * integral_0^1 dy_k/dx (x' + a (x - x')) da, raw logits y (Sundararajan et al. 2017, Eq. 1).

    Completeness: a map sums to y_k(x) - y_k(x'), up to the error of the quadrature.

    Args:
        variant: `paper`; `agf`: the baseline in the published code of Gur et al. 2021, where the gradients at
            k/100, k = 0..100, of the path from the zero image each weigh 1/100, are not multiplied by x - x', and
            enter with their absolute value: an unsigned map that is not complete.
        steps: points on the path; auto is 50. With `agf` intervals, a point more; auto is 100.
        rule: quadrature: auto and `gauss-legendre` as in Captum, `trapezoid` (both ends included) or `midpoint`.
        baseline: x', see `baseline_images`; auto is `black`, the paper's advice for pictures (no signal; but black
            pixels can then get no share).
        chunk: points per image in one forward pass; only memory and rounding depend on it.
    """

    variant: Literal["paper", "agf"] = "paper"
    steps: int | None = None
    rule: Literal["auto", "gauss-legendre", "trapezoid", "midpoint"] = "auto"
    baseline: Literal["auto", "black", "white", "zero", "mean", "blur"] = "auto"
    chunk: int = memory_only(4)

    signed: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    models: ClassVar[str] = "any"
    cost: ClassVar[str] = "n (f + K b), n = steps"
    summary: ClassVar[str] = "gradients on the line from a baseline, times the difference: sums to the logit's change"
    source: ClassVar[str] = "Sundararajan et al. 2017, arXiv:1703.01365"

    def __post_init__(self) -> None:
        require_positive(steps=self.steps, chunk=self.chunk)
        if self.rule == "trapezoid" and self.steps == 1:
            raise UsageError("--set steps=1: the trapezoid rule needs both ends, so at least 2")
        for name in ("rule", "baseline"):
            if self.variant == "agf" and getattr(self, name) != "auto":
                raise UsageError(f"--set {name}={getattr(self, name)}: variant=agf has its own {name}", "leave it out")

    @property
    def is_signed(self) -> bool:
        """Unsigned with `variant=agf`."""
        return self.variant != "agf"

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,H,W) at the resolution of the images; all classes share each point's forward pass."""
        agf = self.variant == "agf"
        path = self._path()
        with torch.set_grad_enabled(query.create_graph):
            images = image_leaf(query)
            name = self.baseline if self.baseline != "auto" else "zero" if agf else "black"
            start = baseline_images(classifier, images, name)

            def alter(number: int) -> tuple[Tensor, Tensor]:
                place, weight = path[number]
                return start + place * (images - start), images.new_tensor(weight)

            integral = summed_gradients(classifier, query, alter, len(path), self.chunk)
            return (integral.abs() if agf else integral * (images - start)[query.image]).sum(1)

    def _path(self) -> list[tuple[float, float]]:
        if self.variant == "agf":
            steps = self.steps or _AGF_STEPS
            return [(k / steps, 1 / steps) for k in range(steps + 1)]
        return quadrature("gauss-legendre" if self.rule == "auto" else self.rule, self.steps or 50)


@dataclass(frozen=True)
class PathDraw:
    """One random point between a baseline and the noisy picture, for each image.

    Args:
        place: (N,1,1,1) in [0,1): 0 is the baseline, 1 the picture.
        baseline: (N,3,H,W) normalised.
        noise: (N,3,H,W) added to the pictures.
    """

    place: Tensor
    baseline: Tensor
    noise: Tensor


def expected_gradients(
    classifier: Classifier, query: Query, draw: Callable[[int], PathDraw], samples: int, chunk: int
) -> Tensor:
    """Mean over draws of (x + noise - x') * dy_k/dx at a random point between x' and x + noise.

    Args:
        classifier: any mode, left as it was.
        query: the P questions.
        draw: sample number to its draw.
        samples: number of draws.
        chunk: draws per image in one forward pass.

    Returns:
        (P,3,H,W) float32, or float64 where the images are.
    """
    images = image_leaf(query)

    def alter(number: int) -> tuple[Tensor, Tensor]:
        drawn = draw(number)
        way = images + drawn.noise - drawn.baseline
        return drawn.baseline + drawn.place * way, way / samples

    return summed_gradients(classifier, query, alter, samples, chunk)


@methods.register("gradient-shap")
@dataclass(frozen=True)
class GradientShap(Method):
    """Integrated gradients in expectation over random baselines, places on the path and noise (Lundberg and Lee 2017).

    sum_rgb mean_s (x + e_s - x'_s) * dy_k/dx (x'_s + a_s (x + e_s - x'_s)), as Captum computes it: a_s uniform in
    [0,1), x'_s one of `baselines`, e_s normal noise, all drawn per image and sample. In expectation and without noise
    a map sums to y_k(x) less the mean logit of the baselines.

    Args:
        samples: draws per image.
        baselines: names as in `baseline_images`, separated by commas. Black and white together leave no colour blind;
            with black alone, black pixels could get no share.
        noise: standard deviation of the noise, in units of the normalised image.
        chunk: draws per image in one forward pass; only memory and rounding depend on it.
    """

    samples: int = 20
    baselines: str = "black,white"
    noise: float = 0.0
    chunk: int = memory_only(4)

    signed: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    models: ClassVar[str] = "any"
    cost: ClassVar[str] = "n (f + K b), n = samples"
    summary: ClassVar[str] = "integrated gradients at random: places, baselines and noise are drawn for each sample"
    source: ClassVar[str] = "Lundberg and Lee 2017, arXiv:1705.07874"

    def __post_init__(self) -> None:
        require_positive(samples=self.samples, chunk=self.chunk)
        if not 0 <= self.noise < float("inf"):
            raise UsageError(f"--set noise={self.noise}: needs a number from 0 on")
        known = get_args(Baseline)
        if not set(self.baselines.split(",")) <= set(known):
            raise UsageError(f"--set baselines={self.baselines}: needs a list of {', '.join(known)}")

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,H,W) at the resolution of the images; all classes share each sample's forward pass."""
        names = self.baselines.split(",")
        with torch.set_grad_enabled(query.create_graph):
            options = torch.stack([baseline_images(classifier, query.images, name) for name in names])
            numbers = torch.arange(len(query.ids), device=query.images.device)

            def draw(number: int) -> PathDraw:
                random = [generator(query.seed, "gradient-shap", name, number) for name in query.ids]
                place = query.images.new_tensor([one.random() for one in random]).view(-1, 1, 1, 1)
                chosen = torch.tensor([one.integers(len(names)) for one in random], device=query.images.device)
                noise = self.noise * normal(query, "gradient-shap noise", number) if self.noise else place * 0
                return PathDraw(place, options[chosen, numbers], noise)

            return expected_gradients(classifier, query, draw, self.samples, self.chunk).sum(1)
