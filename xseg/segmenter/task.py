"""A segmenter as a task of the training loop, and its loss."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from xseg.segmenter.network import Segmenter
from xseg.segmenter.samples import NO_LABEL, Samples
from xseg.segmenter.settings import SegmenterSettings
from xseg.training.average import MovingAverage
from xseg.training.loop import Batch, Terms
from xseg.training.order import SampleOrder, balanced_weights
from xseg.training.prefetch import prefetch


class Learner(nn.Module):
    """What a checkpoint holds: the segmenter and, where one is wanted, the moving average of its weights.

    Args:
        net: the segmenter.
        decay: of the average; 0 for none.
    """

    def __init__(self, net: Segmenter, decay: float) -> None:
        super().__init__()
        self.net = net
        self.average = MovingAverage(net, decay) if decay else None

    def after_step(self, *_: object) -> None:
        """What the optimiser calls once it has changed the weights."""
        if self.average is not None:
            self.average.update(self.net)

    def result(self) -> dict[str, Tensor]:
        """The state dict to publish."""
        return (self.net if self.average is None else self.average.net).state_dict()


class SegmenterTask:
    """A `Task`: normalised crops against label maps.

    Args:
        learner: what is trained, on its device.
        samples: images and labels.
        settings: numbers.
        workers: threads that decode and augment; 0 for none.
        part: which part of every batch is wanted, as in `SampleOrder`.
    """

    def __init__(
        self,
        learner: Learner,
        samples: Samples,
        settings: SegmenterSettings,
        workers: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._learner, self._samples, self._settings, self._workers = learner, samples, settings, workers
        weights = balanced_weights(samples.present, settings.balance) if settings.balance else None
        self._order = SampleOrder(len(samples), settings.seed, weights, part)

    @property
    def module(self) -> nn.Module:
        """What is trained and kept in checkpoints."""
        return self._learner

    def batches(self, steps: range) -> Iterator[Batch]:
        """Of each step `images` (N,3,h,w) uint8, `valid` (N,4) boxes, `labels` (N,h,w), perhaps `weights` (N,h,w)."""
        settings = self._settings
        augmentation = settings.augmentation()
        for loaded in prefetch(
            lambda step: self._order.batch(step, settings.batch_size),
            lambda sample: self._samples.load(sample, augmentation, settings.seed),
            steps,
            workers=self._workers,
        ):
            yield {name: torch.stack([sample[name] for sample in loaded]) for name in loaded[0]}

    def loss(self, batch: Batch, step: int, total: Terms | None = None) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The mean cross-entropy of the batch's labelled pixels."""
        net = self._learner.net
        images = net.backbone.classifier.prepared(batch["images"], batch["valid"])
        count = self.terms(batch)["pixels"] if total is None else total["pixels"]
        return pixel_loss(net(images), batch["labels"], batch.get("weights")) / max(count, _SMALL), {}

    def terms(self, batch: Batch) -> Terms:
        """Number of labelled pixels, or the sum of their weights."""
        known = batch["labels"] != NO_LABEL
        weights = batch.get("weights")
        return {"pixels": float(known.sum() if weights is None else weights[known].double().sum())}


_SMALL = 1e-6  # of a batch without a label the loss is 0


def pixel_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of weight times cross-entropy over the labelled pixels; the others have no gradient.

    Args:
        logits: (N,C+1,H,W) float32.
        labels: (N,H,W) int64 ids 0..C, or `NO_LABEL`.
        weights: (N,H,W) float; None: 1 everywhere.

    Returns:
        A scalar.
    """
    # Not summed by torch when there are no weights: with weights of 1 the sum must be the same to the last bit.
    losses = functional.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="none")
    return (losses if weights is None else losses * weights).sum()
