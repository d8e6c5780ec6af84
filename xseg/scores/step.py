"""The step `evaluate --protocol segmentation`: heatmaps, pseudolabels or masks against ground truth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from xseg.artifacts.header import Header, Parent
from xseg.artifacts.record import Record
from xseg.datasets.index import Dataset
from xseg.errors import UsageError
from xseg.labels.area_step import find_thresholds
from xseg.runs.photographs import heatmaps_of
from xseg.runs.runtime import Runtime
from xseg.runs.source import RecordSource
from xseg.scores.runs import Opened, Outcome, open_runs, score_runs, with_truth
from xseg.scores.segmentation import SegmentationScore, tune_threshold
from xseg.scores.table import segmentation_run
from xseg.training.output import dataset_parent

KINDS = ("heatmaps", "masks", "pseudolabels")


@dataclass(frozen=True)
class SegmentationOptions:
    """How scores are computed.

    Attributes:
        threshold: background score for maps without a background channel; None: 0.2, or tuned.
        average: mean over the classes `present`, or `psa`, where absent classes count as 0.
        replicates: bootstrap resamples for the 95 % interval.
        foreground_share: choose the threshold by area prior: the mean share of an image that is foreground.
    """

    threshold: float | None = None
    average: str = "present"
    replicates: int = 1000
    foreground_share: float | None = None

    @property
    def deciding(self) -> dict[str, object]:
        """For the header; what was not asked for is left out."""
        unused = () if self.foreground_share is not None else ("foreground_share",)
        return {name: value for name, value in asdict(self).items() if name not in unused}


@dataclass(frozen=True)
class Tuning:
    """Where the threshold is chosen: a split, and the heatmaps that cover it (empty: those that are scored)."""

    dataset: Dataset
    inputs: tuple[str, ...] = ()


def evaluate(
    inputs: Sequence[str], dataset: Dataset, options: SegmentationOptions, tuning: Tuning | None, runtime: Runtime
) -> Outcome:
    """Score every run among the inputs.

    Args:
        inputs: artifacts; the files of one run are scored together, several runs side by side.
        dataset: the split to score on, with masks.
        options: how.
        tuning: where the threshold comes from; None: it is fixed.
        runtime: shared options.

    Returns:
        The JSON object, (heading, run) pairs for a table, and the exit status.

    Raises:
        BadInput: class names that differ, images of the split that the input lacks.
        CannotCreate: the output holds something else, or cannot be created.
    """
    dataset.require_masks()
    if tuning is not None and not tuning.inputs and "-" in inputs:
        raise UsageError("--tune-on looks at '-' twice, which a stream does not allow", "save it to a file first")
    runs = open_runs(inputs, KINDS, runtime)
    header = _header([opened.source.parent for opened in runs], dataset, options, tuning, runtime)
    return score_runs(runs, header, lambda opened: _score(opened, dataset, options, tuning, runtime), runtime)


def _header(
    parents: Sequence[Parent],
    dataset: Dataset,
    options: SegmentationOptions,
    tuning: Tuning | None,
    runtime: Runtime,
) -> Header:
    decided = {"protocol": "segmentation", "split": dataset.split, **options.deciding, "seed": runtime.seed}
    tuned: tuple[Parent, ...] = ()
    if tuning is not None:
        decided["tune_on"] = tuning.dataset.split
        tuned = (dataset_parent(tuning.dataset),)
        if tuning.inputs:
            tuned += (RecordSource(tuning.inputs, KINDS, allow_missing=True).parent,)
    return Header(
        "scores",
        dataset.classes,
        "evaluate",
        decided,
        parents=(*parents, dataset_parent(dataset), *tuned),
        argv=runtime.argv,
    )


def _score(
    opened: Opened, dataset: Dataset, options: SegmentationOptions, tuning: Tuning | None, runtime: Runtime
) -> tuple[dict[str, Any], int]:
    """The run's scores, and how many of its images could not be scored."""
    threshold = options.threshold
    if tuning is not None:
        tuned = SegmentationScore(dataset.classes, average=options.average)  # type: ignore[arg-type]
        source_of = RecordSource(tuning.inputs or opened.names, KINDS, allow_missing=True)
        with_truth(
            source_of, tuning.dataset, runtime, partial(add_record, tuned), "give that split's heatmaps: --tune-with"
        )
        if tuning.dataset.split == dataset.split:
            runtime.reporter.note("the threshold is tuned on the split that is scored: a bound, not a result")
        threshold = tune_threshold(tuned)
        runtime.reporter.note(f"threshold {threshold:.2f} chosen on {tuning.dataset.split}")
    by_area = None
    if options.foreground_share is not None and opened.source.header.kind == "heatmaps":
        found = find_thresholds(opened.names, (options.foreground_share,), lambda maps: maps.clamp(min=0), runtime)
        if found.own_background:
            runtime.reporter.note(f"{opened.names[0]} brings its background: decided by argmax, not by the share")
        else:
            by_area, threshold = options.foreground_share, found.thresholds[0]
    score = SegmentationScore(
        dataset.classes,
        threshold=0.2 if threshold is None else threshold,
        average=options.average,  # type: ignore[arg-type]
    )
    failed, missing = with_truth(opened.source, dataset, runtime, partial(add_record, score))
    for image in missing:
        score.add_missing(image)
    tuned_on = tuning.dataset.split if tuning else None
    return run_of(score, opened.source, dataset, runtime, options.replicates, tuned_on, by_area), failed


def run_of(
    score: SegmentationScore,
    source: RecordSource,
    dataset: Dataset,
    runtime: Runtime,
    replicates: int = SegmentationOptions.replicates,
    tuned_on: str | None = None,
    foreground_share: float | None = None,
) -> dict[str, Any]:
    """The scores of a run of `source` on `dataset` as a JSON-able object.

    Raises:
        NothingScored: no image was scored.
    """
    return segmentation_run(
        score.result(replicates=replicates, seed=runtime.seed),
        split=dataset.split or "all",
        labels_given=bool(source.header.provenance.get("labels_given", False)),
        tuned_on=tuned_on,
        foreground_share=foreground_share,
    )


def add_record(score: SegmentationScore, record: Record, truth: np.ndarray) -> None:
    """Score a record of heatmaps, masks or pseudolabels against its truth (H,W).

    Raises:
        BadInput: another size than the truth, or class ids out of range.
    """
    for name in ("masks", "labels"):
        if name in record.arrays:
            score.add_mask(record.arrays[name], truth, image=record.id)
            return
    maps, class_id = heatmaps_of(record)
    add = score.add_maps_with_background if (class_id == 0).any() else score.add_maps
    add(maps.numpy(), class_id.numpy(), truth, image=record.id)
