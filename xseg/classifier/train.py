"""Training a classifier from image-level labels."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from xseg.classifier.features import stage_modules
from xseg.classifier.losses import Loss, label_loss, loss_weight
from xseg.classifier.metrics import average_precision, mean_average_precision
from xseg.classifier.model import Classifier
from xseg.classifier.samples import TrainingBatches, label_matrix, whole_images
from xseg.datasets import Dataset
from xseg.datasets.transforms import Augmentation, zero_padding
from xseg.device import halving
from xseg.errors import BadInput, Stopped, UsageError
from xseg.training.checkpoint import Checkpoint
from xseg.training.frozen import frozen
from xseg.training.loop import Batch, LoopSettings, Progress, train
from xseg.training.optim import OptimSettings, make_optimizer
from xseg.training.order import SampleOrder, balanced_weights
from xseg.training.schedule import Schedule, cosine, poly


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides which weights come out; the defaults fine-tune an ImageNet backbone.

    Args:
        epochs: times every image is seen, on average when balanced.
        batch_size: images per step.
        crop: side of the square training crop, pixels.
        resize_low: shortest long side after the random resize, pixels.
        resize_high: longest.
        loss: `soft-margin` or `bce` for sigmoid heads, `cross-entropy` for softmax heads; None picks by activation.
        optimizer: `sgd` or `adamw`.
        lr: of the backbone's weights.
        head_lr_multiplier: factor for the head; a kept head learns like the backbone if set to 1.
        momentum: of SGD. psa's published code has 5e-4 here, see `xseg.training.optim.psa_settings`.
        weight_decay: on weights, not on biases and norms.
        bias_lr_multiplier: factor for biases; None: 2 for SGD, 1 for AdamW.
        schedule: `poly` or `cosine`.
        poly_power: of `poly`.
        warmup: share of the steps in which the rate rises, in [0, 1).
        jitter: strength of brightness, contrast and saturation, the hue a third of it; psa 0.3, 0 for none.
        flip: probability of the horizontal flip.
        frozen: module paths, or one number: the first so many stages.
        freeze_bn: keep batch-norm statistics.
        freeze_bn_affine: keep batch-norm scale and shift.
        balanced: draw images of rare classes more often.
        label_smoothing: in [0, 1).
        clip: largest gradient norm; None does not clip.
        validation_size: long side of validation images, pixels; 0 keeps their size.
        seed: of order, augmentation and dropout.
        amp: mixed precision where it pays.
    """

    epochs: float = 5.0
    batch_size: int = 16
    crop: int = 448
    resize_low: int = 256
    resize_high: int = 512
    loss: Loss | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    head_lr_multiplier: float = 10.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bias_lr_multiplier: float | None = None
    schedule: Literal["poly", "cosine"] = "poly"
    poly_power: float = 0.9
    warmup: float = 0.0
    jitter: float = 0.3
    flip: float = 0.5
    frozen: tuple[str, ...] | int = ()
    freeze_bn: bool = False
    freeze_bn_affine: bool = False
    balanced: bool = False
    label_smoothing: float = 0.0
    clip: float | None = None
    validation_size: int = 448
    seed: int = 0
    amp: bool = False

    def __post_init__(self) -> None:
        positive = {name: getattr(self, name) for name in ("epochs", "batch_size", "crop", "resize_low", "lr")}
        wrong = [f"--{name.replace('_', '-')} {value}" for name, value in positive.items() if not value > 0]
        if wrong:
            raise UsageError(f"{', '.join(wrong)}: needed a positive number")
        if self.resize_high < self.resize_low:
            raise UsageError(f"--resize-high {self.resize_high} is below --resize-low {self.resize_low}")
        for name in ("warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: needed a number in [0, 1)")


@dataclass(frozen=True)
class Validation:
    """Ranking quality on a labelled set.

    Args:
        average_precision: (C,) float64 in [0, 1], NaN for a class without a present image.
        mean: mean over the classes that have one; None if none has.
        images: number of images.
    """

    average_precision: np.ndarray
    mean: float | None
    images: int


@dataclass(frozen=True)
class TrainResult:
    """What training reports.

    Args:
        history: one entry per epoch: `step`, `loss` (mean), `lr` (mean factor).
        validation: None without a validation set.
        steps: total number of steps.
        seconds: wall time of this call.
    """

    history: list[dict[str, float]]
    validation: Validation | None
    steps: int
    seconds: float


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

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Loss of `images` (N,3,h,w) uint8 with `valid` (N,4) boxes against `labels` (N,C)."""
        images = zero_padding(self._classifier.normalise(batch["images"]), batch["valid"])
        return label_loss(self._classifier(images), batch["labels"], self._loss, self._smoothing), {}

    def weight(self, batch: Batch) -> float:
        """Number of terms of the loss."""
        return loss_weight(batch["labels"], self._loss)


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

    Raises:
        BadInput: no images, no known label, or labels that do not suit the activation.
        UsageError: settings that do not fit together, or a diverging loss.
        Stopped, Unavailable, CannotCreate, OutputFailed: see `xseg.training.loop.train`.
    """
    started = time.monotonic()
    device = device or torch.device("cpu")
    if checkpoint is not None:
        checkpoint.claim()
    loss = _loss_for(classifier, settings)
    labels = _checked_labels(dataset, classifier, loss)
    order = SampleOrder(len(labels), settings.seed, balanced_weights(labels) if settings.balanced else None)
    steps = max(1, -int(-settings.epochs * len(labels) // settings.batch_size))
    classifier.to(device)
    batches = TrainingBatches(
        dataset, order, _augmentation(settings), batch_size=settings.batch_size, seed=settings.seed, workers=workers
    )
    loop = LoopSettings(
        steps, settings.seed, settings.amp, settings.clip, report_every=max(1, round(steps / settings.epochs))
    )
    with _frozen(classifier, settings):
        history = train(
            ClassifierTask(classifier, batches, loss, settings.label_smoothing),
            make_optimizer(classifier.net, [classifier.config.head], _optimizer(settings)),
            _schedule(settings, steps),
            loop,
            device=device,
            checkpoint=checkpoint,
            should_stop=should_stop,
            progress=progress,
        )
    classifier.eval()
    measured = None
    if validation is not None:
        measured = validate(
            validation, classifier, device=device, workers=workers, batch_size=settings.batch_size,
            long_side=settings.validation_size or None, should_stop=should_stop,
        )  # fmt: skip
    return TrainResult(history, measured, steps, time.monotonic() - started)


@torch.no_grad()
def validate(
    dataset: Dataset,
    classifier: Classifier,
    *,
    device: torch.device,
    long_side: int | None,
    batch_size: int = 16,
    workers: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> Validation:
    """Average precision per class on whole images, resized to a long side (pixels; None keeps their size).

    Raises:
        Stopped: `should_stop` said so.
    """
    classifier.to(device).eval()
    labels = label_matrix(dataset)
    scores = np.zeros(labels.shape, np.float32)

    def score(images: Sequence[Tensor]) -> list[np.ndarray]:
        logits = classifier(classifier.normalise(torch.stack(list(images)).to(device)))
        return list(logits.float().cpu().numpy())

    with closing(whole_images(dataset, long_side, batch_size=batch_size, workers=workers)) as batches:
        for indices, images in batches:
            if should_stop():
                raise Stopped("stopped during validation", "the same command continues after the training")
            scores[indices] = halving(score, list(images))
    per_class = average_precision(scores, labels)
    return Validation(per_class, mean_average_precision(per_class), len(labels))


def _loss_for(classifier: Classifier, settings: TrainSettings) -> Loss:
    softmax = classifier.config.activation == "softmax"
    loss: Loss = settings.loss or ("cross-entropy" if softmax else "soft-margin")
    if (loss == "cross-entropy") != softmax:
        raise UsageError(
            f"--loss {loss} with a {classifier.config.activation} head",
            "cross-entropy belongs to softmax, others to sigmoid",
        )
    return loss


def _checked_labels(dataset: Dataset, classifier: Classifier, loss: Loss) -> np.ndarray:
    if not len(dataset.items):
        raise BadInput("the training list is empty", "check --split and the list file")
    labels = label_matrix(dataset)
    if labels.shape[1] != len(classifier.config.classes):
        raise BadInput(
            f"the data set has {labels.shape[1]} classes, the classifier {len(classifier.config.classes)}",
            "train a new head for this data set",
        )
    if not (labels == 1).any():
        raise BadInput("no image has a known label: image-level labels are needed to train", "check the label file")
    several = np.flatnonzero((labels == 1).sum(1) > 1)
    if loss == "cross-entropy" and len(several):
        found = f"{len(several)} images have several classes ({dataset.items[several[0]].id} is one)"
        raise BadInput(f"a softmax head needs one class per image: {found}", "train a sigmoid head")
    return labels


def _augmentation(settings: TrainSettings) -> Augmentation:
    strength = settings.jitter
    return Augmentation(
        crop=(settings.crop, settings.crop),
        long_side=(settings.resize_low, settings.resize_high),
        flip=settings.flip,
        jitter=(strength, strength, strength, strength / 3),
    )


def _frozen(classifier: Classifier, settings: TrainSettings) -> AbstractContextManager[list[nn.Module]]:
    parts = settings.frozen
    paths = stage_modules(classifier, parts) if isinstance(parts, int) else parts
    return frozen(classifier.net, paths, batch_norm=settings.freeze_bn, affine=settings.freeze_bn_affine)


def _optimizer(settings: TrainSettings) -> OptimSettings:
    return OptimSettings(
        settings.optimizer,
        settings.lr,
        settings.head_lr_multiplier,
        settings.momentum,
        settings.weight_decay,
        settings.bias_lr_multiplier,
    )


def _schedule(settings: TrainSettings, steps: int) -> Schedule:
    warmup = round(settings.warmup * steps)
    if settings.schedule == "cosine":
        return partial(cosine, total=steps, warmup=warmup)
    return partial(poly, total=steps, power=settings.poly_power, warmup=warmup)
