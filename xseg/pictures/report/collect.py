"""From the runs among the inputs to the images of the gallery, read once and scored as `evaluate` scores them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from xseg.artifacts.record import Record
from xseg.datasets.index import Dataset
from xseg.errors import BadInput, InputMissing
from xseg.pictures.report.gallery import Picture, View, foreground, labels_of, view_of
from xseg.pictures.report.layers import mask_layer, photograph_layer
from xseg.runs.failed_images import FailedImages
from xseg.runs.photographs import Photographs
from xseg.runs.runtime import Runtime
from xseg.scores.runs import Opened, alongside, unseen
from xseg.scores.segmentation import SegmentationScore
from xseg.scores.single_image import image_ious
from xseg.scores.step import add_record, run_of

_HINT = "make them for this split, or report what is there with --allow-missing"


@dataclass(frozen=True)
class GalleryOptions:
    """How images are drawn.

    Attributes:
        threshold: background score for heatmaps without background.
        size: pixels of the long side of the photographs.
    """

    threshold: float = 0.2
    size: int = 320


@dataclass(frozen=True)
class _Found:
    """What a thread has made of a record; `picture` is None for an image that an earlier run has brought."""

    view: View
    picture: Picture | None
    truth: np.ndarray | None


class Images:
    """The images of several runs.

    Args:
        dataset: true masks, and which images are meant; None: the images of the runs, at most `limit` of each.
        options: how they are drawn.
        runtime: shared options.

    Attributes:
        classes: names that all runs share.
        headings: names of the runs that have images here, in order.
        failed: images that could not be read, or not scored.
        rows: (heading, scores) of every run that could be scored.
    """

    def __init__(self, dataset: Dataset | None, options: GalleryOptions, runtime: Runtime) -> None:
        self._dataset, self._options, self._runtime = dataset, options, runtime
        self._pictures: dict[str, Picture] = {}
        self._order: dict[str, tuple[int, int]] = {}
        self.classes: tuple[str, ...] = ()
        self.headings: list[str] = []
        self.failed = FailedImages(runtime.reporter)
        self.rows: list[tuple[str, dict[str, Any]]] = []

    def pictures(self) -> list[Picture]:
        """All images: those of the first run in the order of its work list, then what others have beyond them."""
        return [self._pictures[image] for image in sorted(self._pictures, key=lambda image: self._order[image])]

    def add(self, opened: Opened) -> None:
        """Read the images of a run; one that has none of the data set's is left out.

        Raises:
            BadInput: other classes than another run's or the data set's, or some images of it that the run lacks.
            Stopped: a signal asked for an end.
        """
        source, dataset, number = opened.source, self._dataset, len(self.headings)
        if dataset is not None:
            source.require_classes(dataset.classes, str(dataset.location))
        if self.headings:
            source.require_classes(self.classes, self.headings[0])
        self.classes = source.header.classes
        score = SegmentationScore(self.classes, threshold=self._options.threshold)
        seen: set[str] = set()
        for record, found in self._records(opened):
            self._take(number, score, record, found)
            seen.add(record.id)
        if not seen:
            self._runtime.reporter.note(f"{opened.heading} has none of these images: it is only part of the chain")
            return
        self.headings.append(opened.heading)
        if dataset is not None:
            for image in unseen(source, dataset, seen, self._runtime, _HINT) | (self.failed.ids & seen):
                score.add_missing(image)
            self._score(number, opened, score)

    def _take(
        self, number: int, score: SegmentationScore, record: Record, found: "_Found | BadInput | InputMissing"
    ) -> None:
        """Score and keep what was found for a record, or tell the error that was."""
        try:
            if isinstance(found, BadInput | InputMissing):
                raise found
            if found.truth is not None and found.view.mask is not None:
                add_record(score, record, found.truth)
        except (BadInput, InputMissing) as error:
            self.failed.add(record.id, error)
        else:
            self._keep(number, record, found)
        self._runtime.reporter.advance(1)

    def _records(self, opened: Opened) -> Iterator[tuple[Record, "_Found | BadInput | InputMissing"]]:
        source, dataset, runtime = opened.source, self._dataset, self._runtime
        total, limit = len(source.expected), runtime.limit
        if dataset is not None:
            total, limit = len(dataset), None  # its list is cut already
            runtime = replace(runtime, images=runtime.images or dataset.root)
        runtime.reporter.start("report", min(total, limit or total))
        photographs = Photographs(source, runtime)
        wanted = None if dataset is None else set(dataset.by_id)
        found = alongside(
            source, wanted, lambda record: self._read(photographs, record, source.header.classes), runtime
        )
        return runtime.stop.between(islice(found, limit))

    def _read(self, photographs: Photographs, record: Record, classes: Sequence[str]) -> _Found:
        view = view_of(record, len(classes), self._options.threshold, self._options.size)
        truth = self._truth(record)
        known = self._pictures.get(record.id)
        if known is not None:
            if (known.source, known.size) != (record.source, record.size):
                raise BadInput(f"{record.id} is another image in another run", "give runs of the same images")
            return _Found(view, None, truth)
        small = photograph_layer(photographs.of(record).image, self._options.size)
        picture = Picture(record.id, small, record.size, record.source, labels_of(record))
        if truth is not None:
            picture.truth = mask_layer(truth, self._options.size)
            picture.true_classes = foreground(truth, len(classes))
        return _Found(view, picture, truth)

    def _truth(self, record: Record) -> np.ndarray | None:
        if self._dataset is None:
            return None
        return self._dataset.read_mask(self._dataset.by_id[record.id], record.size)

    def _keep(self, number: int, record: Record, found: _Found) -> None:
        if found.picture is not None:
            self._pictures[record.id] = found.picture
            self._order[record.id] = (number, record.index)
        self._pictures[record.id].views[number] = found.view

    def _score(self, number: int, opened: Opened, score: SegmentationScore) -> None:
        table = score.table()
        if self._dataset is None or not table.images:
            return
        self.rows.append((opened.heading, run_of(score, opened.source, self._dataset, self._runtime)))
        for image, ious in image_ious(table).items():
            self._pictures[image].ious[number] = ious
