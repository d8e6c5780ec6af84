"""Cases about CRF, random walk and affinity loss."""

import importlib.util
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from xseg.affinity.loss import affinities, affinity_loss, pair_affinity
from xseg.affinity.pairs import half_offsets, pair_labels, windows
from xseg.affinity.transition import transition
from xseg.bench.measure import Case
from xseg.bench.memory import peak_bytes
from xseg.datasets.synthetic import render
from xseg.labels.backends import resolve_backend
from xseg.labels.meanfield import Kernels, mean_field

CRF_SIZE = (281, 500)
_ABSENT = 1e-5  # what pydensecrf clips the probability of an absent class to


def refinement_cases() -> list[Case]:
    """All of them; the CRF's need pydensecrf."""
    found = [walk_case(36, 63, 3), walk_case(36, 63, 21), large_walk_case(128, 256, 20), loss_case(448)]
    found += [walk_case(36, 63, 3, memory=True), loss_case(448, memory=True)]
    if importlib.util.find_spec("pydensecrf"):
        found += [crf_case(labels) for labels in (2, 3, 4)]
        found += [both_alphas_case(3), both_alphas_case(3, peer_labels=21)]
    return found


def _noisy_scene(labels: int, count: int) -> tuple[Tensor, Tensor]:
    """Class probabilities (count,labels,H,W) and a noisy synthetic picture (H,W,3) uint8."""
    height, width = CRF_SIZE
    picture, _ = render(0, labels, size=max(height, width))
    rng = np.random.default_rng(0)
    noisy = np.resize(picture, (height, width, 3)) + rng.normal(0, 8, (height, width, 3))
    image = torch.from_numpy(noisy.clip(0, 255).astype(np.uint8))
    coarse = torch.from_numpy(rng.random((count, labels, 9, 16)).astype(np.float32)) * 4
    return functional.interpolate(coarse, size=(height, width), mode="bilinear").softmax(1), image


def crf_case(labels: int) -> Case:
    """One mean field of 10 steps over a noisy synthetic picture, against pydensecrf."""
    height, width = CRF_SIZE
    scores, image = _noisy_scene(labels, 1)
    ours, peer = resolve_backend("auto"), resolve_backend("pydensecrf")
    return Case(
        f"crf {height}x{width}, {labels} labels, against pydensecrf",
        lambda: mean_field(scores, image, Kernels(), peer),
        lambda: mean_field(scores, image, Kernels(), ours),
        1e-4,
    )


def both_alphas_case(labels: int, peer_labels: int | None = None) -> Case:
    """Psa's two runs on one image, ours with shared lattices, against pydensecrf run twice.

    Args:
        labels: present ones, background included.
        peer_labels: how many the peer is given; those that are not present have the probability it clips to.
    """
    scores, image = _noisy_scene(labels, 2)
    padded = functional.pad(scores, (0, 0, 0, 0, 0, (peer_labels or labels) - labels), value=_ABSENT)
    ours, peer = resolve_backend("auto"), resolve_backend("pydensecrf")
    # What the absent ones keep of a pixel is missing from the present ones.
    tolerance = 1e-4 + ((peer_labels or labels) - labels) * _ABSENT
    given = f"its {peer_labels} labels" if peer_labels else "it"
    return Case(
        f"crf {CRF_SIZE[0]}x{CRF_SIZE[1]}, {labels} labels, both alphas, against pydensecrf twice with {given}",
        lambda: torch.cat([mean_field(one[None], image, Kernels(), peer)[:, :labels] for one in padded]),
        lambda: mean_field(scores, image, Kernels(), ours),
        tolerance,
    )


def walk_case(height: int, width: int, classes: int, *, memory: bool = False) -> Case:
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
        f"random walk {height}x{width}, {classes} maps, against dense squaring{_measured(memory)}",
        dense,
        lambda: transition(pairs).apply(maps.double(), 256).float(),
        1e-4,
        spent=peak_bytes if memory else None,
    )


def large_walk_case(height: int, width: int, classes: int) -> Case:
    """T^256 on a grid too large for a dense matrix, against 256 sparse products."""
    torch.manual_seed(0)
    features = functional.interpolate(torch.randn(1, 16, 16, 32), size=(height, width), mode="bilinear")[0] * 2
    maps = torch.rand(classes, height * width)

    @cache
    def pairs() -> Tensor:
        return affinities(features)

    def products() -> Tensor:
        walk = transition(pairs())
        columns = (maps.double() * walk.root_degree).T.contiguous()
        for _ in range(256):
            columns = walk.matrix @ columns
        return (columns.T / walk.root_degree).float()

    return Case(
        f"random walk {height}x{width}, {classes} maps, against 256 sparse products",
        products,
        lambda: transition(pairs()).apply(maps.double(), 256).float(),
        1e-4,
    )


def loss_case(channels: int, batch: int = 2, side: int = 56, *, memory: bool = False) -> Case:
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
        f"affinity loss and gradient, {channels} channels, {side}x{side}, against gathering{_measured(memory)}",
        lambda: gradient(True),
        lambda: gradient(False),
        1e-6,
        spent=peak_bytes if memory else None,
    )


def _measured(memory: bool) -> str:
    return ", peak memory" if memory else ""
