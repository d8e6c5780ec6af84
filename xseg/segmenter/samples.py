"""What a segmenter learns from: photographs with the masks or confident labels of an earlier step."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from xseg.artifacts.record import Record
from xseg.datasets.index import unknown_id
from xseg.datasets.transforms import Augmentation, Geometry, apply_to_labels, apply_to_maps, augment
from xseg.errors import BadInput
from xseg.labels.masks import shares
from xseg.runs.photographs import heatmaps_of
from xseg.seeding import generator
from xseg.training.packed import PackedRecords

NO_LABEL = -1

# Names of what holds one id per pixel, by kind of artifact.
LABEL_MAPS = {"masks": "masks", "pseudolabels": "labels"}


class Samples(PackedRecords):
    """Label maps of all images, packed in memory, and augmented samples of them.

    Args:
        records: of masks or pseudolabels.
        read_image: (H, W, 3) uint8 of a record.
        classes: number C of foreground classes.
        weighted: whether the confidence of each label is wanted; it needs `heatmaps`, or pseudolabels with their
            posteriors.
        heatmaps: records of maps with a background, whose shares are the confidence; those of other images are left
            out.

    Raises:
        BadInput: no pixel has a label, an image has no posteriors where they are wanted, or no heatmaps with a
            background at the size of its labels.

    Attributes:
        present: (N, C) uint8, 1 where an image has a pixel of a class.
    """

    def __init__(
        self,
        records: Iterable[Record],
        read_image: Callable[[Record], np.ndarray],
        classes: int,
        *,
        weighted: bool = False,
        heatmaps: Iterable[Record] | None = None,
    ) -> None:
        self._read_image, self._classes, self._weighted = read_image, classes, weighted
        self._own_posteriors = weighted and heatmaps is None
        self._unknown = unknown_id(classes)
        self._present: list[np.ndarray] = []
        self._labelled = 0
        super().__init__(self._looked_at(record) for record in records)
        if not self._labelled:
            raise BadInput("no pixel has a label to learn from", "make masks with: xseg crf HEATMAPS --masks")
        self.present = np.stack(self._present)
        if heatmaps is not None:
            self._weigh(heatmaps)

    def _weigh(self, heatmaps: Iterable[Record]) -> None:
        places = {record.id: index for index, record in enumerate(self.records)}
        for record in heatmaps:
            if (index := places.pop(record.id, None)) is not None:
                found = _label_shares(label_map(self.arrays(index)), record)
                self.add(index, confidence=np.rint(found * 255).astype(np.uint8))
        if places:
            raise BadInput(
                f"--confidence: no heatmaps of {next(iter(places))} ({len(places)} of {len(self)} images have none)",
                "make them of all images that have masks",
            )

    def _looked_at(self, record: Record) -> Record:
        labels = label_map(record.arrays)
        counts = np.bincount(labels.ravel(), minlength=self._classes + 1)
        self._labelled += int(counts[: self._classes + 1].sum())
        self._present.append((counts[1 : self._classes + 1] > 0).astype(np.uint8))
        if self._own_posteriors and not {"low", "high"} <= record.arrays.keys():
            raise BadInput(
                f"--weighting confidence: {record.id} has no posteriors",
                "make pseudolabels that have them: xseg crf HEATMAPS --posteriors, or give --confidence HEATMAPS",
            )
        return record

    def load(self, sample: tuple[int, int, int], augmentation: Augmentation, seed: int) -> dict[str, Tensor]:
        """One augmented sample, which depends on nothing but (seed, image, epoch, repeat).

        Args:
            sample: index, epoch, and how often the epoch had drawn the image before.
            augmentation: the ranges.
            seed: of the draws.

        Returns:
            `images` (3,h,w) uint8, `valid` (4,) int64 box, `labels` (h,w) int64 with `NO_LABEL` where unknown or
            padded, and where weighted `weights` (h,w) float32 in [0, 1].
        """
        index, epoch, repeat = sample
        record, arrays = self.records[index], self.arrays(index)
        made = augment(self._read_image(record), generator(seed, record.id, epoch, repeat), augmentation)
        labels = apply_to_labels(label_map(arrays), made.geometry, self._unknown).astype(np.int64)
        found = {
            "images": torch.from_numpy(np.ascontiguousarray(made.image.transpose(2, 0, 1))),
            "valid": torch.tensor(made.geometry.valid),
            "labels": torch.from_numpy(np.where(labels == self._unknown, NO_LABEL, labels)),
        }
        if self._weighted:
            found["weights"] = torch.from_numpy(_weights(arrays, made.geometry))
        return found


def label_map(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The ids (H,W) among a record's arrays."""
    return next(arrays[name] for name in LABEL_MAPS.values() if name in arrays)


def confidence(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """How probable the label of each pixel is: (H,W) float32 in [0, 1].

    Foreground is taken from the posterior of the generous background and background from that of the strict one, as the
    labels were (Ahn and Kwak 2018); unknown pixels have 0.

    Args:
        arrays: `labels` (H,W), `low` and `high` (K,H,W) with `low/class_id` (K,), the background first.
    """
    labels, ids = arrays["labels"], arrays["low/class_id"]
    found = np.where(labels == 0, arrays["high"][0].astype(np.float32), np.float32(0))
    for class_id, posterior in zip(ids[1:], arrays["low"][1:], strict=True):
        found = np.where(labels == class_id, posterior.astype(np.float32), found)
    return np.clip(found, 0, 1)


def _label_shares(labels: np.ndarray, record: Record) -> np.ndarray:
    """The share that each pixel's label (H,W) has among the scores of a record's maps: (H,W) float32 in [0, 1]."""
    maps, class_id = heatmaps_of(record)
    if not (class_id == 0).any():
        raise BadInput(f"--confidence: {record.id} has no background", "use one that has: xseg crf HEATMAPS --heatmaps")
    if labels.shape != maps.shape[1:]:
        raise BadInput(
            f"--confidence: {record.id} has maps of {tuple(maps.shape[1:])} pixels, labels of {labels.shape}"
        )
    found = np.zeros(labels.shape, np.float32)
    for label, share in zip(class_id.tolist(), shares(maps.clamp(min=0)).numpy(), strict=True):
        np.copyto(found, share, where=labels == label)
    return found


def _weights(arrays: dict[str, np.ndarray], geometry: Geometry) -> np.ndarray:
    stored = arrays.get("confidence")
    found = confidence(arrays) if stored is None else stored.astype(np.float32) / 255
    return apply_to_maps(found[None], geometry)[0]
