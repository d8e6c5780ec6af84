"""Training a classifier whose heatmaps are guided (Yu et al. 2024)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from xseg.classifier.model import Classifier
from xseg.classifier.train import TrainResult, fit, require_crop
from xseg.classifier.validation import require_classes, validate
from xseg.datasets.index import Dataset
from xseg.errors import BadInput
from xseg.guided.batches import GuidedBatches, MixedOrder
from xseg.guided.masks import Regions
from xseg.guided.settings import GuidedSettings
from xseg.guided.task import GuidedTask
from xseg.guided.terms import Others, terms_of
from xseg.heatmaps.registry import Method, methods
from xseg.training.checkpoint import Checkpoint
from xseg.training.loop import Progress
from xseg.training.schedule import step_count
from xseg.training.together import Together


def train_guided(
    dataset: Dataset,
    masked: Sequence[int],
    classifier: Classifier,
    settings: GuidedSettings,
    *,
    regions: Regions | None = None,
    against: Others = (),
    validation: Dataset | None = None,
    device: torch.device | None = None,
    workers: int = 0,
    at_once: int = 0,
    checkpoint: Checkpoint | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
    group: Together | None = None,
) -> TrainResult:
    """Train `classifier` in place; it ends on `device`, in eval mode.

    Args:
        dataset: images, each with image-level labels or among those with masks.
        masked: places of the images whose masks are used.
        classifier: with sigmoid outputs, and a logit for the background if `settings` say so.
        settings: numbers.
        regions: to be ignored.
        against: classifiers whose maps are not to be had again, for the loss `diversity`.
        validation: average precision is measured once at the end.
        device: default the CPU.
        workers: threads that read images.
        at_once: classes of an image whose maps are in memory at once; 0: all.
        checkpoint: claimed here and continued.
        should_stop: polled.
        progress: told (steps done, of how many, values).
        group: the processes that train together.

    Raises:
        BadInput: images with neither labels nor masks, other classes than the classifier's.
        UsageError: a crop that the network does not take, or a diverging loss.
        Stopped, Unavailable, CannotCreate, OutputFailed: see `xseg.training.loop.train`.
    """
    started = time.monotonic()
    device, group = device or torch.device("cpu"), group or Together()
    if checkpoint is not None:
        group.first_does(checkpoint.claim)
    training = settings.training
    require_crop(classifier, training.crop)
    require_classes(dataset, classifier)
    rest = _rest(dataset, masked)
    part = group.part_of(training.batch_size)
    order = MixedOrder(masked, rest, settings.mask_share, training.seed, training.batch_size, part)
    batches = GuidedBatches(
        dataset, order, training, unknown=settings.unknown, regions=regions, workers=workers
    )  # fmt: skip
    terms = terms_of(settings, len(dataset.classes), regions is not None, _on(device, against))
    method = methods.create(settings.heatmap[0], settings.heatmap[1:])
    task = GuidedTask(
        classifier, method, batches, terms, classification_weight=settings.classification_weight, at_once=at_once
    )
    steps = step_count(training.epochs, len(dataset), training.batch_size)
    history = fit(
        task, classifier, training, steps, device=device, checkpoint=checkpoint, should_stop=should_stop,
        progress=progress, group=group, skips=settings.skips,
    )  # fmt: skip
    measured = None
    if validation is not None:
        measured = validate(
            validation, classifier, device=device, workers=workers, batch_size=training.batch_size,
            long_side=training.validation_size or None, should_stop=should_stop, group=group,
        )  # fmt: skip
    return TrainResult(history, measured, steps, time.monotonic() - started, classifier.config.classes)


def _rest(dataset: Dataset, masked: Sequence[int]) -> list[int]:
    """Places of the images whose labels are used alone."""
    if not len(dataset):
        raise BadInput("the training list is empty", "check --split and the list file")
    used = set(masked)
    rest = [place for place in range(len(dataset)) if place not in used]
    replace(dataset, items=tuple(dataset.items[place] for place in rest)).require_labels()
    return rest


def _on(device: torch.device, against: Others) -> list[tuple[Classifier, Method]]:
    return [(other.to(device).eval(), method) for other, method in against]
