"""A case about reading images: training steps fed from files, against the same steps with their batches in memory.

What is compared is wall time, since waiting is what may be lost; the thread that loads needs a second core.
"""

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache

import torch
from torch import Tensor

from xseg.bench.drawn import drawn
from xseg.bench.measure import Case
from xseg.classifier.model import Classifier, create
from xseg.classifier.samples import TrainingBatches
from xseg.classifier.settings import TrainSettings
from xseg.classifier.train import ClassifierTask
from xseg.datasets import Dataset, open_dataset
from xseg.training.loop import Batch, LoopSettings, train
from xseg.training.optim import make_optimizer
from xseg.training.order import SampleOrder

_NETWORK, _SIDE, _BATCH = "resnet18", 224, 8
_DRAWN = 500  # pixels, as large as photographs of VOC
_SETTINGS = TrainSettings(crop=_SIDE, batch_size=_BATCH)


def loading_case(steps: int) -> Case:
    """So many steps with one thread that decodes and augments."""
    return Case(
        f"train-cls, {_NETWORK} {_SIDE}, {steps} steps of {_BATCH} fed by one thread, wall clock",
        lambda: _learned(steps, _held(steps)),
        lambda: _learned(steps, _batches(1)),
        0,
        expected=lambda: _learned(steps, _held(steps)),
        unit="steps fed from memory",
        clock=time.perf_counter,
        most_pairs=3,
    )


def _dataset() -> Dataset:
    return open_dataset(drawn(32, _DRAWN) / "data")


def _batches(workers: int) -> TrainingBatches:
    dataset = _dataset()
    order = SampleOrder(len(dataset), 0)
    return TrainingBatches(dataset, order, _SETTINGS.augmentation(), batch_size=_BATCH, seed=0, workers=workers)


@cache
def _held(steps: int) -> Callable[[range], Iterator[Batch]]:
    batches = list(_batches(0)(range(steps)))
    return lambda wanted: iter(batches[wanted.start : wanted.stop])


@cache
def _network(classes: int) -> Classifier:
    return create(f"torchvision:{_NETWORK}", [str(number) for number in range(classes)], weights="none")


def _learned(steps: int, batches: Callable[[range], Iterator[Batch]]) -> Tensor:
    """The first layer's weights after training."""
    classifier = deepcopy(_network(len(_dataset().classes)))
    task = ClassifierTask(classifier, batches, "soft-margin", 0)
    optimizer = make_optimizer(classifier.net, classifier.fresh, _SETTINGS.optim())
    train(task, optimizer, _SETTINGS.factor(steps), LoopSettings(steps, 0), device=torch.device("cpu"))
    return next(classifier.net.parameters()).detach()
