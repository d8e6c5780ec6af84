"""The step `evaluate --protocol segmentation`: heatmaps, pseudolabels or masks against ground truth."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from xseg.artifacts.encode import encode_result
from xseg.artifacts.header import Header, Parent, canonical
from xseg.artifacts.publish import publish
from xseg.artifacts.record import Record
from xseg.artifacts.stream import first_part
from xseg.datasets.index import Dataset
from xseg.device import cores
from xseg.errors import BadInput, InputMissing, Status
from xseg.runs.images import final_status
from xseg.runs.photographs import heatmaps_of
from xseg.runs.runtime import Runtime
from xseg.runs.source import RecordSource
from xseg.scores.segmentation import SegmentationScore, tune_threshold
from xseg.scores.table import report, segmentation_run

KINDS = ("heatmaps", "masks", "pseudolabels")


@dataclass(frozen=True)
class SegmentationOptions:
    """How scores are computed.

    Attributes:
        threshold: background score for maps without a background channel; None: 0.2, or tuned.
        average: mean over the classes `present`, or `psa`, where absent classes count as 0.
        replicates: bootstrap resamples for the 95 % interval.
    """

    threshold: float | None = None
    average: str = "present"
    replicates: int = 1000


@dataclass(frozen=True)
class Tuning:
    """Where the threshold is chosen: a split, and the heatmaps that cover it (empty: those that are scored)."""

    dataset: Dataset
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Scored:
    heading: str
    run: dict[str, Any]
    parent: Parent
    classes: tuple[str, ...]
    failed: int


def evaluate(
    inputs: Sequence[str], dataset: Dataset, options: SegmentationOptions, tuning: Tuning | None, runtime: Runtime
) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]], Status]:
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
    """
    dataset.require_masks()
    scored = [_score(names, dataset, options, tuning, runtime) for names in group_by_run(inputs)]
    rows = [(one.heading, one.run) for one in scored]
    result = report(rows)
    if runtime.target.path is not None:
        header = Header(
            "scores",
            scored[0].classes,
            "evaluate",
            {"protocol": "segmentation", "split": dataset.split, **options.__dict__, "seed": runtime.seed},
            parents=tuple(one.parent for one in scored),
            argv=runtime.argv,
        )
        text = canonical(result)
        publish(runtime.target.path, lambda file: encode_result(file, header, text), overwrite=runtime.overwrite)
    return result, rows, final_status(sum(one.failed for one in scored), runtime.max_failures)


def group_by_run(inputs: Sequence[str]) -> list[list[str]]:
    """The inputs of each run together, in order of first appearance; `-` stands alone."""
    groups: dict[str, list[str]] = {}
    for name in inputs:
        key = name
        if name != "-":
            with first_part(name) as part:
                key = part.header.run
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _score(
    names: list[str], dataset: Dataset, options: SegmentationOptions, tuning: Tuning | None, runtime: Runtime
) -> _Scored:
    threshold = options.threshold
    if tuning is not None:
        tuned = SegmentationScore(dataset.classes, average=options.average)  # type: ignore[arg-type]
        _add_all(tuned, RecordSource(tuning.inputs or names, KINDS, allow_missing=True), tuning.dataset, runtime)
        threshold = tune_threshold(tuned)
        runtime.reporter.note(f"threshold {threshold:.2f} chosen on {tuning.dataset.split}")
    source = RecordSource(names, KINDS, allow_missing=runtime.allow_missing, notice=runtime.reporter.note)
    score = SegmentationScore(
        dataset.classes,
        threshold=0.2 if threshold is None else threshold,
        average=options.average,  # type: ignore[arg-type]
    )
    failed = _add_all(score, source, dataset, runtime)
    run = segmentation_run(
        score.result(replicates=options.replicates, seed=runtime.seed),
        split=dataset.split or "all",
        labels_given=bool(source.header.provenance.get("labels_given", False)),
        tuned_on=tuning.dataset.split if tuning else None,
    )
    return _Scored(names[0], run, source.parent, dataset.classes, failed)


def _add_all(score: SegmentationScore, source: RecordSource, dataset: Dataset, runtime: Runtime) -> int:
    """Score every image of the data set that the source has; returns how many could not be read."""
    source.require_classes(dataset.classes, str(dataset.location))
    wanted = {item.id for item in dataset.items}
    runtime.reporter.start("evaluate", len(wanted))
    failed, seen = 0, set()
    for record, truth in _with_truth(source, dataset, wanted, runtime):
        seen.add(record.id)
        try:
            _add(score, record, truth)
        except (BadInput, InputMissing) as error:
            failed += 1
            runtime.reporter.note(f"failed: {record.id}: {error}")
            score.add_missing(record.id)
        runtime.reporter.advance(1)
    known_failures = {failure.id for failure in source.failures} & wanted
    for name in sorted(known_failures - seen):
        score.add_missing(name)
    missing = wanted - seen - known_failures
    if missing and not (runtime.allow_missing and seen):
        raise BadInput(
            f"{len(missing)} of {len(wanted)} images of split {dataset.split or 'all'} are not in the"
            f" {source.header.kind} ({min(missing)!r} is one)",
            "make them for this split, or score what is there with --allow-missing",
        )
    for name in sorted(missing):
        score.add_missing(name)
    return failed


Truth = np.ndarray | BadInput | InputMissing


def _with_truth(
    source: RecordSource, dataset: Dataset, wanted: set[str], runtime: Runtime
) -> Iterator[tuple[Record, Truth]]:
    """Records with their ground truth, which threads read a few images ahead."""

    def read(record: Record) -> Truth:
        try:
            return dataset.read_mask(dataset.by_id[record.id], record.size)
        except (BadInput, InputMissing) as error:
            return error

    with ThreadPoolExecutor(max(1, cores() if runtime.workers is None else runtime.workers)) as pool:
        waiting: list[tuple[Record, Any]] = []
        for record in source:
            if record.id not in wanted:
                continue
            waiting.append((record, pool.submit(read, record)))
            if len(waiting) > 8:
                first, future = waiting.pop(0)
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _add(score: SegmentationScore, record: Record, truth: Truth) -> None:
    if isinstance(truth, BadInput | InputMissing):
        raise truth
    for name in ("masks", "labels"):
        if name in record.arrays:
            score.add_mask(record.arrays[name], truth, image=record.id)
            return
    maps, class_id = heatmaps_of(record)
    add = score.add_maps_with_background if (class_id == 0).any() else score.add_maps
    add(maps.numpy(), class_id.numpy(), truth, image=record.id)
