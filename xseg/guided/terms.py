"""The terms of a guided training's loss: which maps each asks for in a batch, and what it makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.guided.losses import IGNORE, LOCALISATION, SEGMENTATION, Normalise, normalised, rrr, similarity
from xseg.guided.settings import GuidedSettings
from xseg.heatmaps.registry import Method, Query
from xseg.heatmaps.views import resize_maps
from xseg.training.loop import Batch

Others = Sequence[tuple[Classifier, Method]]


@dataclass(frozen=True)
class Asked:
    """P questions about a batch.

    Attributes:
        image: (P,) long, place in the batch.
        class_id: (P,) long, 0 for the background.
    """

    image: Tensor
    class_id: Tensor


class Term(Protocol):
    """One term; a mean over so many things, so that parts of a batch add up to the whole."""

    @property
    def name(self) -> str:
        """What its value is reported as."""

    @property
    def weight(self) -> float:
        """Its factor in the sum."""

    def count(self, batch: Batch) -> float:
        """How many things the mean is over; 0: no map is asked for."""

    def asked(self, batch: Batch) -> Asked:
        """The maps that are needed."""

    def loss(self, maps: Tensor, asked: Asked, batch: Batch, query: Query) -> Tensor:
        """The mean, of the maps (P,h,w) of these questions in the size of the images."""


@dataclass(frozen=True)
class SegmentationTerm:
    """All classes of the images with masks, against those; `mask` (N,h,w) of the batch has class ids, -1 unknown.

    Attributes:
        name: of the loss.
        weight: of it.
        classes: number of classes beside the background.
        normalise: see `xseg.guided.losses.normalised`.
        temperature: likewise.
    """

    name: str
    weight: float
    classes: int
    normalise: Normalise = "none"
    temperature: float = 1.0

    def count(self, batch: Batch) -> float:
        """Known pixels for cross-entropy, images with one for dice."""
        known = batch["mask"] != IGNORE
        return float(known.sum() if self.name == "cross-entropy" else known.flatten(1).any(1).sum())

    def asked(self, batch: Batch) -> Asked:
        """All classes, the background first, of every image with a known pixel."""
        images = (batch["mask"] != IGNORE).flatten(1).any(1).nonzero()[:, 0]
        ids = torch.arange(self.classes + 1, device=images.device)
        return Asked(images.repeat_interleave(len(ids)), ids.repeat(len(images)))

    def loss(self, maps: Tensor, asked: Asked, batch: Batch, query: Query) -> Tensor:
        """See `Term.loss`."""
        stacked = maps.unflatten(0, (-1, self.classes + 1))
        images = asked.image[:: self.classes + 1]
        logits = normalised(stacked, self.normalise, self.temperature)
        return SEGMENTATION[self.name](logits, batch["mask"][images])


@dataclass(frozen=True)
class LocalisationTerm:
    """The classes present in the images with masks, one at a time, against where they are.

    Attributes:
        name: of the loss.
        weight: of it.
        one: one class of each image, by the number drawn for it in `draw` (N,); else all.
    """

    name: str
    weight: float
    one: bool = True

    def count(self, batch: Batch) -> float:
        """Number of questions."""
        return float(len(self.asked(batch).image))

    def asked(self, batch: Batch) -> Asked:
        """Present classes of images with masks."""
        return chosen_classes((batch["labels"] == 1) & batch["masked"][:, None], batch["draw"], self.one)

    def loss(self, maps: Tensor, asked: Asked, batch: Batch, query: Query) -> Tensor:
        """See `Term.loss`."""
        mask = batch["mask"][asked.image]
        inside = mask == asked.class_id[:, None, None]
        return LOCALISATION[self.name](maps, inside, mask != IGNORE).mean()


@dataclass(frozen=True)
class RegionTerm:
    """Present classes of the images with a region to be ignored: nothing may point at it (Ross et al. 2017).

    `region` (N,h,w) of the batch says where.
    """

    weight: float
    one: bool = True
    name: str = "ignored"

    def count(self, batch: Batch) -> float:
        """Number of questions."""
        return float(len(self.asked(batch).image))

    def asked(self, batch: Batch) -> Asked:
        """Present classes of images with such a region."""
        some = batch["region"].flatten(1).any(1)
        return chosen_classes((batch["labels"] == 1) & some[:, None], batch["draw"], self.one)

    def loss(self, maps: Tensor, asked: Asked, batch: Batch, query: Query) -> Tensor:
        """See `Term.loss`."""
        region = batch["region"][asked.image]
        return rrr(maps, ~region, torch.ones_like(region)).mean()


@dataclass(frozen=True)
class DiversityTerm:
    """Present classes of all images: maps that are like those of other classifiers cost something.

    Attributes:
        name: of the loss.
        weight: of it.
        others: classifiers of the same classes, not trained, each with its method.
        one: see `LocalisationTerm`.
    """

    name: str
    weight: float
    others: Others
    one: bool = True

    def count(self, batch: Batch) -> float:
        """Number of questions."""
        return float(len(self.asked(batch).image))

    def asked(self, batch: Batch) -> Asked:
        """Present classes."""
        return chosen_classes(batch["labels"] == 1, batch["draw"], self.one)

    def loss(self, maps: Tensor, asked: Asked, batch: Batch, query: Query) -> Tensor:
        """See `Term.loss`."""
        size = (maps.shape[1], maps.shape[2])
        theirs = []
        for other, method in self.others:
            asking = replace(query, target=logit_of(asked, other), images=query.images.detach())
            theirs.append(resize_maps(method(other.full, asking).detach(), size))
        return similarity(maps, torch.stack(theirs)).mean()


def terms_of(settings: GuidedSettings, classes: int, regions: bool, others: Others) -> list[Term]:
    """The terms that the settings ask for; regions only if there are some."""
    name, weight, one = settings.loss, settings.weight, settings.one_class
    own: Term
    if settings.compares:
        own = DiversityTerm(name, weight, others, one)
    elif name in SEGMENTATION:
        own = SegmentationTerm(name, weight, classes, settings.normalise, settings.temperature)
    else:
        own = LocalisationTerm(name, weight, one)
    return [own, *([RegionTerm(settings.region_weight, one)] if regions else [])]


def chosen_classes(present: Tensor, draw: Tensor, one: bool) -> Asked:
    """The present classes (N,C) of every image, or one of them.

    Args:
        present: bool.
        draw: (N,) long, at least 0: an image with k present classes gets its (draw mod k)-th.
        one: one of them.
    """
    if one:
        turn = draw % present.sum(1).clamp(min=1) + 1
        present = present & (present.cumsum(1) == turn[:, None])
    image, place = present.nonzero(as_tuple=True)
    return Asked(image, place + 1)


def logit_of(asked: Asked, classifier: Classifier) -> Tensor:
    """(P,) the places of the classes among the logits of `classifier.full`."""
    return asked.class_id - (0 if classifier.config.background else 1)
