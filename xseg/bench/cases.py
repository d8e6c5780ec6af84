"""The cases of `xseg bench`; references have the algorithm of the published code."""

import importlib.util

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from xseg.affinity.loss import affinities, affinity_loss, pair_affinity
from xseg.affinity.pairs import half_offsets, pair_labels, windows
from xseg.affinity.transition import transition
from xseg.bench.explanations import explanation_cases
from xseg.bench.guidance import guidance_cases
from xseg.bench.measure import Case
from xseg.bench.perturbations import perturbation_case
from xseg.bench.scoring import scoring_cases
from xseg.datasets.synthetic import render
from xseg.errors import UsageError
from xseg.labels.backends import resolve_backend
from xseg.labels.meanfield import Kernels, mean_field


def cases(only: str = "") -> list[Case]:
    """The cases that can run here, those against a peer only where it is installed.

    Args:
        only: part of the names wanted.

    Raises:
        UsageError: no case has such a name.
    """
    found = [
        case
        for case in [*_refinement_cases(), *scoring_cases(), *explanation_cases(), *guidance_cases()]
        if only in case.name
    ]
    if not found:
        names = "; ".join(case.name for case in cases())
        raise UsageError(f"--only {only}: no case has this in its name", f"part of one of: {names}")
    return found


def _refinement_cases() -> list[Case]:
    found = [walk_case(36, 63, 3), walk_case(36, 63, 21), loss_case(448), perturbation_case()]
    if importlib.util.find_spec("pydensecrf"):
        found += [crf_case(labels) for labels in (2, 3, 4)]
    return found


def crf_case(labels: int, height: int = 281, width: int = 500) -> Case:
    """One mean field of 10 steps over a noisy synthetic picture, against pydensecrf."""
    picture, _ = render(0, labels, size=max(height, width))
    rng = np.random.default_rng(0)
    noisy = np.resize(picture, (height, width, 3)) + rng.normal(0, 8, (height, width, 3))
    image = torch.from_numpy(noisy.clip(0, 255).astype(np.uint8))
    coarse = torch.from_numpy(rng.random((1, labels, 9, 16)).astype(np.float32)) * 4
    scores = functional.interpolate(coarse, size=(height, width), mode="bilinear").softmax(1)
    ours, peer = resolve_backend("auto"), resolve_backend("pydensecrf")
    return Case(
        f"crf {height}x{width}, {labels} labels, against pydensecrf",
        lambda: mean_field(scores, image, Kernels(), peer),
        lambda: mean_field(scores, image, Kernels(), ours),
        1e-4,
    )


def walk_case(height: int, width: int, classes: int) -> Case:
    """T^256 on one grid, against squaring the dense matrix eight times as psa does."""
    torch.manual_seed(0)
    features = functional.interpolate(torch.randn(1, 64, 6, 9), size=(height, width), mode="bilinear")[0] * 2
    pairs, maps = affinities(features), torch.rand(classes, height * width)

    def dense() -> Tensor:
        matrix = transition(pairs).dense().float()
        for _ in range(8):
            matrix = matrix @ matrix
        return maps @ matrix

    return Case(
        f"random walk {height}x{width}, {classes} maps, against dense squaring",
        dense,
        lambda: transition(pairs).apply(maps.double(), 256).float(),
        1e-4,
    )


def loss_case(channels: int, batch: int = 2, side: int = 56) -> Case:
    """Affinity loss and its gradient, against gathering all pairs as psa does."""
    torch.manual_seed(0)
    features = torch.randn(batch, channels, side, side)
    labels = pair_labels(torch.randint(0, 3, (batch, side, side)))
    index = torch.arange(side * side).view(side, side)

    def gathered(leaf: Tensor) -> Tensor:
        flat, result = leaf.flatten(2), torch.ones(batch, len(half_offsets(5)), side, side)
        for offset, first, second in windows(side, side, 5):
            here, there = index[first].reshape(-1), index[second].reshape(-1)
            distance = (flat.index_select(2, here) - flat.index_select(2, there)).abs().mean(1)
            rows, columns = first
            result[:, offset, rows, columns] = torch.exp(-distance).view(batch, *index[first].shape)
        return result

    def gradient(gather: bool) -> Tensor:
        leaf = features.clone().requires_grad_()
        affinity_loss(gathered(leaf) if gather else pair_affinity(leaf), labels).total.backward()
        if leaf.grad is None:
            raise RuntimeError("no gradient")
        return leaf.grad

    return Case(
        f"affinity loss and gradient, {channels} channels, {side}x{side}, against gathering",
        lambda: gradient(True),
        lambda: gradient(False),
        1e-6,
    )
