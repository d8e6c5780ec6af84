"""Cases about model guidance: what a step costs in classification steps, in time and in memory."""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from xseg.bench.measure import Case
from xseg.bench.memory import peak_bytes
from xseg.classifier.config import Scalar
from xseg.classifier.model import Classifier, create
from xseg.guided.settings import GuidedSettings
from xseg.guided.task import GuidedTask
from xseg.guided.terms import terms_of
from xseg.heatmaps.registry import methods

NETWORK, CLASSES, SIDE, IMAGES = "resnet18", 4, 112, 2
HEATMAPS = (("lrp", "composite=epsilon-plus"), ("grad-cam",))
_CLOSE = 1e-3  # of a gradient's largest value
_UNIT = "classification step"


def guidance_cases() -> Iterator[Case]:
    """Each heatmap with all classes in one graph, and with one class at a time; half of the images have masks."""
    for heatmap in HEATMAPS:
        for at_once in (0, 1):
            yield guidance_case(heatmap, at_once, memory=False)
            yield guidance_case(heatmap, at_once, memory=True)
        yield decoder_case(heatmap)


def guidance_case(heatmap: tuple[str, ...], at_once: int, *, memory: bool) -> Case:
    """A step with masks, in units of the step without; the gate is the gradient of the other way of the two."""
    ways = "one class at a time" if at_once else "all classes in one graph"
    measured = "peak memory" if memory else "time"
    return Case(
        f"train-guided step, {' '.join(heatmap)}, {NETWORK} {SIDE}, {CLASSES + 1} classes, {ways}, {measured}",
        lambda: _step(heatmap, at_once, guided=False),
        lambda: _step(heatmap, at_once),
        _CLOSE,
        expected=lambda: _step(heatmap, 1 - at_once),
        unit=_UNIT,
        spent=peak_bytes if memory else None,
    )


def decoder_case(heatmap: tuple[str, ...]) -> Case:
    """A step with masks, in units of that of a multi-task U-Net with about as many weights."""
    return Case(
        f"train-guided step, {' '.join(heatmap)}, {NETWORK} {SIDE}, {CLASSES + 1} classes, in U-Net steps",
        lambda: _step(("segmentation-head",), 0, model="multi-task-unet"),
        lambda: _step(heatmap, 0),
        _CLOSE,
        expected=lambda: _step(heatmap, 1),
        unit="step of a multi-task U-Net",
    )


@cache
def _network(model: str) -> Classifier:
    classes = [str(number) for number in range(CLASSES)]
    options: dict[str, Scalar] = {} if model == NETWORK else {"encoder": NETWORK, "width": 16, "fine": 8}
    return create(model, classes, weights="none", options=options, background=True).eval()


def _step(heatmap: tuple[str, ...], at_once: int, *, guided: bool = True, model: str = NETWORK) -> Tensor:
    """The gradient of the first layer's weights, over its largest value."""
    classifier = _network(model)
    settings = GuidedSettings(heatmap=heatmap)
    terms = terms_of(settings, CLASSES, False, ()) if guided else []
    method = methods.create(heatmap[0], heatmap[1:])
    task = GuidedTask(classifier, method, lambda steps: iter(()), terms, at_once=at_once)
    parameters = list(classifier.parameters())
    gradient = torch.autograd.grad(task.loss(_batch(), 0)[0], parameters, allow_unused=True)[0]
    return gradient / gradient.abs().max()


def _batch() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    masked = torch.arange(IMAGES) < IMAGES // 2
    mask = torch.randint(0, CLASSES + 1, (IMAGES, SIDE, SIDE), generator=random)
    return {
        "images": torch.randint(0, 256, (IMAGES, 3, SIDE, SIDE), generator=random, dtype=torch.uint8),
        "valid": torch.tensor([[0, 0, SIDE, SIDE]] * IMAGES),
        "labels": torch.randint(0, 2, (IMAGES, CLASSES), generator=random, dtype=torch.uint8),
        "mask": torch.where(masked[:, None, None], mask, -1),
        "masked": masked,
        "draw": torch.zeros(IMAGES, dtype=torch.long),
    }
