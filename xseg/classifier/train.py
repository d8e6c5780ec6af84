"""Training a classifier from image-level labels."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from xseg.classifier.features import stage_modules
from xseg.classifier.losses import Loss, label_loss, loss_weight
from xseg.classifier.model import Classifier
from xseg.classifier.rotation import Accuracy, RotationTask, squares, validate_rotations
from xseg.classifier.samples import TrainingBatches, label_matrix
from xseg.classifier.settings import TrainSettings
from xseg.classifier.sides import nearest, refused_steps, takes_one_size
from xseg.classifier.validation import Validation, require_classes, validate
from xseg.datasets import Dataset
from xseg.errors import BadInput, UsageError
from xseg.training.checkpoint import Checkpoint
from xseg.training.frozen import frozen
from xseg.training.interpolate import interpolate
from xseg.training.loop import Batch, LoopSettings, Progress, Task, Terms, train
from xseg.training.optim import make_optimizer
from xseg.training.order import SampleOrder, balanced_weights
from xseg.training.schedule import step_count
from xseg.training.together import Together

Objective = Literal["labels", "rotation"]


@dataclass(frozen=True)
class TrainResult:
    """What training reports.

    Args:
        history: one entry per epoch: `step`, `loss` (mean), `lr` (mean factor).
        validation: None without a validation set.
        steps: total number of steps.
        seconds: wall time of this call.
        classes: names of the classifier's classes.
    """

    history: list[dict[str, float]]
    validation: Validation | Accuracy | None
    steps: int
    seconds: float
    classes: tuple[str, ...] = ()


class ClassifierTask:
    """A `Task`: normalised crops against image-level labels.

    Args:
        classifier: what is trained, on its device.
        batches: iterator over the batches of a range of steps.
        loss: which loss.
        smoothing: label smoothing.
    """

    def __init__(
        self, classifier: Classifier, batches: Callable[[range], Iterator[Batch]], loss: Loss, smoothing: float
    ) -> None:
        self._classifier, self.batches, self._loss, self._smoothing = classifier, batches, loss, smoothing

    @property
    def module(self) -> nn.Module:
        """The network itself, so that checkpoints have its own keys."""
        return self._classifier.net

    def loss(self, batch: Batch, step: int, total: Terms | None = None) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Loss of `images` (N,3,h,w) uint8 with `valid` (N,4) boxes against `labels` (N,C)."""
        images = self._classifier.prepared(batch["images"], batch["valid"])
        loss = label_loss(self._classifier(images), batch["labels"], self._loss, self._smoothing)
        if total is not None:
            loss = loss * (self.terms(batch)["labels"] / max(total["labels"], 1.0))
        return loss, {}

    def terms(self, batch: Batch) -> Terms:
        """Number of labels, or of images with labels, that the loss averages over."""
        return {"labels": loss_weight(batch["labels"], self._loss)}


def train_classifier(
    dataset: Dataset,
    classifier: Classifier,
    settings: TrainSettings,
    *,
    validation: Dataset | None = None,
    device: torch.device | None = None,
    workers: int = 0,
    checkpoint: Checkpoint | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
    group: Together | None = None,
    objective: Objective = "labels",
) -> TrainResult:
    """Train `classifier` in place; it ends on `device`, in eval mode.

    Args:
        dataset: images with image-level labels, classes as in `classifier.config.classes`.
        classifier: from `create` or `build`.
        settings: numbers.
        validation: measured once at the end.
        device: default the CPU.
        workers: threads that read images.
        checkpoint: claimed here and continued; the caller removes it once the result is published.
        should_stop: polled between steps and between validation batches.
        progress: told (steps done, of how many, values).
        group: the processes that train together, each called with the same arguments; None: this one alone.
        objective: `labels`, or `rotation`, for which the classes are `xseg.classifier.rotation.ROTATIONS`.

    Raises:
        BadInput: no images, no known label, or labels that do not suit the activation.
        UsageError: settings that do not fit together, or a diverging loss.
        Stopped, Unavailable, CannotCreate, OutputFailed: see `xseg.training.loop.train`.
    """
    started = time.monotonic()
    device = device or torch.device("cpu")
    group = group or Together()
    if checkpoint is not None:
        group.first_does(checkpoint.claim)
    loss = _loss_for(classifier, settings)
    require_crop(classifier, settings.crop)
    if objective == "rotation":
        dataset, weights = _without_labels(dataset, settings), None
    else:
        labels = _checked_labels(dataset, classifier, loss)
        weights = balanced_weights(labels, settings.balance) if settings.balance else None
    order = SampleOrder(len(dataset), settings.seed, weights, group.part_of(settings.batch_size))
    steps = step_count(settings.epochs, len(dataset), settings.batch_size)
    batches = TrainingBatches(
        dataset, order, settings.augmentation(), batch_size=settings.batch_size, seed=settings.seed, workers=workers
    )
    task: Task = (
        RotationTask(classifier, batches, settings.label_smoothing)
        if objective == "rotation"
        else ClassifierTask(classifier, batches, loss, settings.label_smoothing)
    )
    history = fit(
        task, classifier, settings, steps, device=device, checkpoint=checkpoint, should_stop=should_stop,
        progress=progress, group=group,
    )  # fmt: skip
    measured: Validation | Accuracy | None = None
    if validation is not None:
        measured = (validate_rotations if objective == "rotation" else validate)(
            validation, classifier, device=device, workers=workers, batch_size=settings.batch_size,
            long_side=settings.validation_size or None, should_stop=should_stop, group=group,
        )  # fmt: skip
    return TrainResult(history, measured, steps, time.monotonic() - started, classifier.config.classes)


def fit(
    task: Task,
    classifier: Classifier,
    settings: TrainSettings,
    steps: int,
    *,
    device: torch.device,
    checkpoint: Checkpoint | None,
    should_stop: Callable[[], bool],
    progress: Progress | None,
    group: Together,
    skips: int = 0,
) -> list[dict[str, float]]:
    """Bring `classifier` to `device` and train it by a task whose module is its network; it ends in eval mode.

    Args:
        task: what it learns.
        classifier: what learns.
        settings: numbers.
        steps: how many.
        device: where.
        checkpoint: as in `train_classifier`, and so are `should_stop`, `progress` and `group`.
        should_stop: polled.
        progress: told.
        group: the processes.
        skips: as in `LoopSettings`.

    Returns:
        The loop's history.
    """
    classifier.to(device).lay_out(classifier.layout)
    loop = LoopSettings(
        steps,
        settings.seed,
        settings.amp,
        settings.clip,
        report_every=max(1, round(steps / settings.epochs)),
        skips=skips,
    )
    # Before a checkpoint is continued: a network is always made from the weights that its run names.
    start = {name: tensor.clone() for name, tensor in classifier.net.state_dict().items()}
    with _frozen(classifier, settings):
        history = train(
            task,
            make_optimizer(classifier.net, classifier.fresh, settings.optim()),
            settings.factor(steps),
            loop,
            device=device,
            checkpoint=checkpoint,
            should_stop=should_stop,
            progress=progress,
            group=group,
        )
    if settings.interpolate < 1:
        classifier.net.load_state_dict(interpolate(start, classifier.net.state_dict(), settings.interpolate))
    classifier.eval().lay_out(torch.contiguous_format)
    return history


def require_crop(classifier: Classifier, crop: int) -> None:
    """Check that the network takes square crops of that side.

    Raises:
        UsageError: it does not; the nearest side it takes is named.
    """
    config = classifier.config
    if takes_one_size(classifier.net) and config.input_size != (crop, crop):
        height, width = config.input_size
        raise UsageError(f"--crop {crop}: {config.model} takes images of {height}x{width} only", f"--crop {height}")
    for step in refused_steps(classifier.net):
        if crop % step:
            hint = f"--crop {nearest(crop, step)}"
            raise UsageError(f"--crop {crop}: {config.model} takes sides divisible by {step}", hint)


def _loss_for(classifier: Classifier, settings: TrainSettings) -> Loss:
    softmax = classifier.config.activation == "softmax"
    loss: Loss = settings.loss or ("cross-entropy" if softmax else "soft-margin")
    if (loss == "cross-entropy") != softmax:
        raise UsageError(
            f"--loss {loss} with a {classifier.config.activation} head",
            "cross-entropy belongs to softmax, others to sigmoid",
        )
    return loss


def _without_labels(dataset: Dataset, settings: TrainSettings) -> Dataset:
    if not len(dataset.items):
        raise BadInput("the training list is empty", "check --split and the list file")
    if settings.balance:
        raise UsageError("--balance with --objective rotation: no labels are looked at", "leave it out")
    return squares(dataset)


def _checked_labels(dataset: Dataset, classifier: Classifier, loss: Loss) -> np.ndarray:
    if not len(dataset.items):
        raise BadInput("the training list is empty", "check --split and the list file")
    require_classes(dataset, classifier)
    labels = label_matrix(dataset)
    if not (labels == 1).any():
        raise BadInput("no image has a known label: image-level labels are needed to train", "check the label file")
    several = np.flatnonzero((labels == 1).sum(1) > 1)
    if loss == "cross-entropy" and len(several):
        found = f"{len(several)} images have several classes ({dataset.items[several[0]].id} is one)"
        raise BadInput(f"a softmax head needs one class per image: {found}", "train a sigmoid head")
    return labels


def _frozen(classifier: Classifier, settings: TrainSettings) -> AbstractContextManager[list[nn.Module]]:
    parts = settings.frozen
    paths = stage_modules(classifier, parts) if isinstance(parts, int) else parts
    norms = {"batch_norm": settings.freeze_bn, "affine": settings.freeze_bn_affine}
    return frozen(classifier.net, paths, **norms, fresh=classifier.fresh)
