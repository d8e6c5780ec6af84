"""Training an AffinityNet on confident labels (Ahn and Kwak 2018, arXiv:1803.10464, section 3.2)."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from xseg.affinity.loss import PairCounts, affinity_loss, pair_affinity
from xseg.affinity.model import AffinityModel
from xseg.affinity.pairs import PairLabels, pair_labels
from xseg.artifacts.record import Record
from xseg.datasets.index import unknown_id
from xseg.datasets.transforms import (
    Augmentation,
    Geometry,
    apply_to_labels,
    apply_to_maps,
    augment,
    reduce_labels,
    zero_padding,
)
from xseg.labels.confident import confident_labels
from xseg.seeding import generator
from xseg.training.checkpoint import Checkpoint
from xseg.training.loop import Batch, LoopSettings, Progress, Terms, train
from xseg.training.optim import OptimSettings, make_optimizer
from xseg.training.order import SampleOrder
from xseg.training.packed import PackedRecords
from xseg.training.prefetch import prefetch
from xseg.training.schedule import make_schedule, step_count
from xseg.training.together import Together

_NO_LABEL = -1


@dataclass(frozen=True)
class AffinitySettings:
    """Everything that decides which weights come out.

    Attributes:
        epochs: times every image is seen.
        batch_size: images per step.
        crop: side of the square crop, pixels.
        resize_low: shortest long side after a random resize; 0 keeps the size, as psa does.
        resize_high: longest.
        radius: pairs closer than this (exclusive), in nodes.
        optimizer: `sgd` or `adamw`.
        lr: of the new layers.
        backbone_lr: of the classifier's weights; 0 leaves them alone.
        momentum: of SGD.
        weight_decay: on weights.
        schedule: `poly` or `cosine`.
        jitter: strength of the colour jitter.
        seed: of order and augmentation.
        amp: mixed precision on an accelerator.
    """

    epochs: float = 8.0
    batch_size: int = 8
    crop: int = 448
    resize_low: int = 0
    resize_high: int = 0
    radius: float = 5
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: float = 0.001
    backbone_lr: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["poly", "cosine"] = "poly"
    jitter: float = 0.3
    seed: int = 0
    amp: bool = False

    def augmentation(self) -> Augmentation:
        """The draws of every sample."""
        return Augmentation(
            crop=(self.crop, self.crop),
            long_side=(self.resize_low, self.resize_high) if self.resize_high else None,
            jitter=(self.jitter, self.jitter, self.jitter, self.jitter / 3),
        )


class Samples(PackedRecords):
    """Confident labels of all images, packed in memory.

    Args:
        records: pseudolabels, with or without their posteriors.
        read_image: (H, W, 3) uint8 of a record.
        classes: number of foreground classes.
    """

    def __init__(self, records: Iterable[Record], read_image: Callable[[Record], np.ndarray], classes: int) -> None:
        super().__init__(records)
        self._read_image = read_image
        self._unknown = unknown_id(classes)
        self._classes = classes

    def load(
        self, sample: tuple[int, int, int], settings: AffinitySettings, stride: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One augmented sample: image (3, h, w) uint8, valid box (4,), node labels (h/stride, w/stride) int64."""
        index, epoch, repeat = sample
        record = self.records[index]
        made = augment(
            self._read_image(record), generator(settings.seed, record.id, epoch, repeat), settings.augmentation()
        )
        nodes = self._nodes(index, made.geometry, stride)
        nodes = np.where(nodes == self._unknown, _NO_LABEL, nodes.astype(np.int64))
        image = torch.from_numpy(np.ascontiguousarray(made.image.transpose(2, 0, 1)))
        return image, torch.tensor(made.geometry.valid), torch.from_numpy(nodes)

    def _nodes(self, index: int, geometry: Geometry, stride: int) -> np.ndarray:
        arrays = self.arrays(index)
        if "low" not in arrays:
            labels = apply_to_labels(arrays["labels"], geometry, self._unknown)
            return reduce_labels(labels, stride, block=True, unknown=self._unknown)
        # psa's order: crop the posteriors, average blocks of them, then take the highest.
        low, high = (apply_to_maps(arrays[name].astype(np.float32), geometry) for name in ("low", "high"))
        class_id = torch.from_numpy(arrays["low/class_id"][1:].astype(np.int64))
        pooled = confident_labels(torch.from_numpy(low), torch.from_numpy(high), class_id, stride, self._classes)
        return pooled.numpy()


class AffinityTask:
    """A `Task` of the training loop: pairs of nodes against confident labels."""

    def __init__(
        self,
        model: AffinityModel,
        samples: Samples,
        settings: AffinitySettings,
        workers: int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._model, self._samples, self._settings, self._workers = model, samples, settings, workers
        self._order = SampleOrder(len(samples), settings.seed, part=part)

    def fit(self, images: int = 64) -> None:
        """Set the statistics of a network that standardises, from the first `images` samples."""
        model, device = self._model, next(self._model.parameters()).device
        if model.net.config.standardise:
            whole = AffinityTask(model, self._samples, self._settings, self._workers)
            batches = whole.batches(range(-(-images // self._settings.batch_size)))
            model.net.fit(model.levels_of(self._normalised(batch, device)) for batch in batches)

    def _normalised(self, batch: Batch, device: torch.device) -> Tensor:
        images = self._model.classifier.normalise(batch["images"].to(device))
        return zero_padding(images, batch["valid"].to(device))

    @property
    def module(self) -> nn.Module:
        """What is trained and kept in checkpoints."""
        return self._model

    def batches(self, steps: range) -> Iterator[Batch]:
        """The batch of each step."""
        settings, stride = self._settings, self._model.net.config.stride
        for loaded in prefetch(
            lambda step: self._order.batch(step, settings.batch_size),
            lambda sample: self._samples.load(sample, settings, stride),
            steps,
            workers=self._workers,
        ):
            images, valid, labels = zip(*loaded, strict=True)
            yield {"images": torch.stack(images), "valid": torch.stack(valid), "labels": torch.stack(labels)}

    def loss(self, batch: Batch, step: int, total: Terms | None = None) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The three-part loss over all pairs of the batch."""
        images = self._normalised(batch, batch["images"].device)
        affinity = pair_affinity(self._model(images), self._settings.radius)
        counts = None if total is None else PairCounts(**total)
        parts = affinity_loss(affinity, self._pairs(batch), counts)
        return parts.total, {"bg": parts.background, "fg": parts.foreground, "neg": parts.negative}

    def terms(self, batch: Batch) -> Terms:
        """Number of pairs of each kind."""
        return PairCounts.of(self._pairs(batch))._asdict()

    def _pairs(self, batch: Batch) -> PairLabels:
        return pair_labels(batch["labels"], self._settings.radius, ignore=_NO_LABEL)


def train_affinity(
    model: AffinityModel,
    samples: Samples,
    settings: AffinitySettings,
    *,
    device: torch.device,
    workers: int,
    checkpoint: Checkpoint | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
    group: Together | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place; it ends on `device` in evaluation mode. `group`: the processes that train together.

    Returns:
        One entry per epoch: `step`, `lr`, `loss` and the loss's three parts.

    Raises:
        Stopped, UsageError, Unavailable, CannotCreate, OutputFailed: see `xseg.training.loop.train`.
    """
    group = group or Together()
    if checkpoint is not None:
        group.first_does(checkpoint.claim)
    model.to(device)
    for parameter in model.classifier.parameters():
        parameter.requires_grad_(settings.backbone_lr > 0)
    steps = step_count(settings.epochs, len(samples), settings.batch_size)
    slow = settings.backbone_lr or settings.lr
    optim = OptimSettings(
        settings.optimizer, slow, settings.lr / slow, settings.momentum, settings.weight_decay, bias_lr_multiplier=1.0
    )
    task = AffinityTask(model, samples, settings, workers, group.part_of(settings.batch_size))
    task.fit()
    return train(
        task,
        make_optimizer(model, ["net"], optim),
        make_schedule(settings.schedule, steps),
        LoopSettings(
            steps,
            settings.seed,
            settings.amp,
            report_every=max(1, round(steps / settings.epochs)),
            partly_used=settings.backbone_lr > 0,
        ),
        device=device,
        checkpoint=checkpoint,
        should_stop=should_stop,
        progress=progress,
        group=group,
    )
