"""The step `evaluate --protocol localisation`: heatmaps against another classifier's heatmaps, or against masks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from xseg.artifacts.header import Header
from xseg.artifacts.record import Record
from xseg.datasets.index import Dataset
from xseg.errors import BadInput, InputMissing, UsageError
from xseg.heatmaps.registry import methods
from xseg.runs.failed_images import FailedImages
from xseg.runs.photographs import heatmaps_of
from xseg.runs.runtime import Runtime
from xseg.runs.source import RecordSource
from xseg.scores.localisation import ReferenceScore, TruthScore, locate_in_reference, locate_in_truth
from xseg.scores.reference import Beside
from xseg.scores.runs import Opened, Outcome, open_runs, score_runs, with_truth
from xseg.training.output import dataset_parent

KINDS = ("heatmaps",)
THRESHOLD = 0.5


@dataclass(frozen=True)
class LocalisationOptions:
    """What the maps are compared with.

    Attributes:
        reference: files of one run of heatmaps, best of an independent classifier; empty: none.
        threshold: fraction of a reference map's maximum above which a pixel is in the mask, in [0, 1).
        tolerance: pixels by which a maximum may miss the true mask in the pointing game.
        replicates: bootstrap resamples for the 95 % intervals.
    """

    reference: tuple[str, ...] = ()
    threshold: float = THRESHOLD
    tolerance: int = 0
    replicates: int = 1000


def evaluate_localisation(
    inputs: Sequence[str], dataset: Dataset | None, options: LocalisationOptions, runtime: Runtime
) -> Outcome:
    """Score every run of heatmaps among the inputs.

    Args:
        inputs: heatmaps; the files of one run are scored together, several runs side by side.
        dataset: the split to score on, with masks; None: against the reference only, all images of each run, at most
            `--limit`.
        options: the reference, and how to compare.
        runtime: shared options.

    Returns:
        The JSON object, (heading, run) pairs for a table, and the exit status.

    Raises:
        UsageError: nothing to compare with, a threshold outside [0, 1), or a reference that can be read only once.
        BadInput: class names that differ, images that an input or the reference lacks, or no map that can be scored.
        CannotCreate: the output holds something else, or cannot be created.
    """
    _check(dataset, options)
    if dataset is not None:
        dataset.require_masks()
    runs = open_runs(inputs, KINDS, runtime)
    classes = runs[0].source.header.classes if dataset is None else dataset.classes
    parents = [opened.source.parent for opened in runs]
    decided: dict[str, Any] = {"protocol": "localisation", "replicates": options.replicates, "seed": runtime.seed}
    if options.reference:
        reference = _reference(options, runtime)
        for opened in runs:
            opened.source.require_classes(reference.header.classes, options.reference[0])
            _tell_dependence(opened, reference, runtime)
        parents.append(reference.parent)
        decided["reference_threshold"] = options.threshold
    if dataset is None:
        decided["limit"] = runtime.limit
    else:
        parents.append(dataset_parent(dataset))
        decided |= {"split": dataset.split, "tolerance": options.tolerance}
    header = Header("scores", classes, "evaluate", decided, parents=tuple(parents), argv=runtime.argv)
    return score_runs(runs, header, lambda opened: _Run(opened, dataset, options, runtime).score(), runtime)


def _check(dataset: Dataset | None, options: LocalisationOptions) -> None:
    if dataset is None and not options.reference:
        raise UsageError("nothing to compare the maps with", "give --reference HEATMAPS, or --dataset DATASET, or both")
    if not 0 <= options.threshold < 1:
        raise UsageError(
            f"--reference-threshold {options.threshold:g}: needs a fraction of the maximum from 0 to below 1"
        )
    if "-" in options.reference:
        raise UsageError("--reference '-': it is read once for every input", "save it to a file first")


def _reference(options: LocalisationOptions, runtime: Runtime) -> RecordSource:
    return RecordSource(options.reference, KINDS, allow_missing=runtime.allow_missing, notice=runtime.reporter.note)


def _tell_dependence(opened: Opened, reference: RecordSource, runtime: Runtime) -> None:
    name = str(opened.source.header.params.get("method"))
    if name in methods.names() and not methods.get(name).needs_model:
        return  # it depends on no classifier
    common = {parent for parent in opened.source.header.parents if parent.kind == "classifier"}
    if common & set(reference.header.parents):
        runtime.reporter.note(
            f"{opened.heading}: the reference is of the same classifier; the published score takes an independent one"
        )


class _Run:
    """The protocol on one run."""

    def __init__(self, opened: Opened, dataset: Dataset | None, options: LocalisationOptions, runtime: Runtime) -> None:
        self._opened, self._dataset, self._options, self._runtime = opened, dataset, options, runtime
        self._classes = len(opened.source.header.classes)
        self._truth = None if dataset is None else TruthScore(options.tolerance)
        self._reference: ReferenceScore | None = None
        if options.reference:
            wanted = None if dataset is None else dataset.by_id.keys()
            self._beside = Beside(_reference(options, runtime), wanted)
            self._reference = ReferenceScore(options.threshold)
        self._images = 0
        self._without_reference: set[str] = set()

    def score(self) -> tuple[dict[str, Any], int]:
        """The run's JSON object, and how many images failed."""
        if self._dataset is None:
            failed, missing = _all(self._opened.source, self._runtime, lambda record: self._add(record, None))
        else:
            failed, missing = with_truth(self._opened.source, self._dataset, self._runtime, self._add)
        self._require_references()
        dataset, source, options = self._dataset, self._opened.source, self._options
        drawn = {"replicates": options.replicates, "seed": self._runtime.seed}
        against_reference = None
        if self._reference is not None:
            against_reference = {
                "reference": options.reference[0],
                "images_without_reference": len(self._without_reference),
                **self._reference.result(**drawn),
            }
        run = {
            "protocol": "localisation",
            "split": None if dataset is None else dataset.split or "all",
            "images": self._images,
            "missing": len(missing),
            "labels_given": bool(source.header.provenance.get("labels_given", False)),
            "classes": list(source.header.classes),
            "against_reference": against_reference,
            "against_truth": None if self._truth is None else self._truth.result(**drawn),
            "bootstrap": {**drawn, "level": 0.95, "over": "images"},
        }
        return run, failed

    def _add(self, record: Record, truth: np.ndarray | None) -> None:
        """One image: everything is measured before anything is kept, so that a failed image is in neither score."""
        maps, class_id = (tensor.numpy() for tensor in heatmaps_of(record))
        in_truth = in_reference = None
        if truth is not None:
            in_truth = locate_in_truth(maps, class_id, truth, self._classes, self._options.tolerance)
        if self._reference is not None:
            other = self._beside.of(record)
            if other is None:
                self._without_reference.add(record.id)
            else:
                others, other_id = (tensor.numpy() for tensor in heatmaps_of(other))
                thresholds = self._reference.thresholds
                in_reference = locate_in_reference(maps, class_id, others, other_id, self._classes, thresholds)
        self._images += 1
        if self._truth is not None and in_truth is not None:
            self._truth.add(record.id, in_truth)
        if self._reference is not None and in_reference is not None:
            self._reference.add(record.id, in_reference)

    def _require_references(self) -> None:
        """Refuse images that the reference lacks.

        Raises:
            BadInput: some are not in it, not even as failures, and that is not allowed.
        """
        if not self._without_reference or self._runtime.allow_missing:
            return
        if lacking := sorted(self._without_reference - self._beside.failed):
            raise BadInput(
                f"{self._opened.heading}: {len(lacking)} of its images are not in the reference"
                f" {self._options.reference[0]} ({lacking[0]!r} is one)",
                "explain the same images with both, or score what is there with --allow-missing",
            )


def _all(source: RecordSource, runtime: Runtime, add: Callable[[Record], None]) -> tuple[int, set[str]]:
    """Hand every record to `add`: how many images failed here, and the ids of all that were not scored."""
    work = source.header.work
    total = work.total if work else 0
    runtime.reporter.start("evaluate", min(total, runtime.limit or total))
    with FailedImages(runtime.reporter) as failed:
        for record in runtime.stop.between(islice(source, runtime.limit)):
            try:
                add(record)
            except (BadInput, InputMissing) as error:
                failed.add(record.id, error)
            runtime.reporter.advance(1)
    return len(failed), failed.ids | {failure.id for failure in source.failures}
