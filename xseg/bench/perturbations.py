"""The case about the perturbation protocol: its cost in the forward passes it is made of."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from xseg.bench.explanations import SIDE, random_network
from xseg.bench.measure import Case
from xseg.datasets.synthetic import render
from xseg.scores.perturb_image import Perturbation, Subject
from xseg.scores.perturbation import PerturbationScore, curve_named

CLASSES = 1000  # times the probability of one: near 1 for random weights


def perturbation_case(name: str = "resnet50") -> Case:
    """Positive and negative perturbation of one image, in units of the bare forward passes on its finished copies.

    Ours starts from the picture and the map and ends with the two areas. The gate is the class's probability at every
    point, against copies that are made as in the published code: the top k of the values for every share.
    """
    picture, _ = render(0, 3, size=SIDE)
    image = np.resize(picture, (SIDE, SIDE, 3))
    relevance = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32)
    labels = np.arange(CLASSES) == 0
    subject = Subject(("noise",), image, relevance[None], np.array([1], np.int32), labels.astype(np.uint8))
    curves = [curve_named("positive"), curve_named("negative")]

    @cache
    def prepared() -> list[Tensor]:
        return [random_network(name).normalise(one[None]) for one in _published_copies(image, relevance)]

    def passes() -> Tensor:
        with torch.no_grad():
            return torch.cat([random_network(name)(one) for one in prepared()])

    def expected() -> Tensor:
        chances = random_network(name).probabilities(passes().double())[:, 0] * CLASSES
        return torch.cat([chances[:10], chances[:1], chances[10:]])

    def ours() -> Tensor:
        # a new one each time, or the intact image would be known already
        readings = Perturbation(random_network(name), curves, (SIDE, SIDE)).readings(subject, "labels")
        score = PerturbationScore(curves)
        score.add("noise", readings)
        score.result(2, 0)
        return torch.from_numpy(np.concatenate([readings[0].probability[curve.name] for curve in curves])) * CLASSES

    return Case(
        f"perturbation {name} {SIDE}, one map, positive and negative, in units of 19 f",
        passes,
        ours,
        1e-6,
        expected=expected,
        unit="19 f",
    )


def _published_copies(image: np.ndarray, relevance: np.ndarray) -> list[Tensor]:
    """The intact image, nine copies without the most relevant pixels, nine without the least: (3,H,W) in [0,1]."""
    intact = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    found = [intact]
    for sign in (1, -1):
        values = torch.from_numpy(sign * relevance).flatten()
        for tenths in range(1, 10):
            copy = intact.clone()
            gone = values.topk(int(values.numel() * tenths / 10)).indices
            copy.flatten(1)[:, gone] = 0
            found.append(copy)
    return found
