"""The step `evaluate --protocol segmentation`: heatmaps, pseudolabels or masks against ground truth."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xseg.artifacts.encode import encode_result
from xseg.artifacts.header import Header, Parent
from xseg.artifacts.publish import check_writable, publish
from xseg.artifacts.record import Record
from xseg.artifacts.stream import first_part
from xseg.datasets.index import Dataset
from xseg.device import cores
from xseg.errors import BadInput, CannotCreate, InputMissing, Status, UsageError
from xseg.runs.images import final_status
from xseg.runs.photographs import heatmaps_of
from xseg.runs.runtime import Runtime
from xseg.runs.source import RecordSource
from xseg.scores.segmentation import SegmentationScore, tune_threshold
from xseg.scores.table import report, segmentation_run
from xseg.training.output import dataset_parent

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
        CannotCreate: the output holds something else, or cannot be created.
    """
    dataset.require_masks()
    if tuning is not None and not tuning.inputs and "-" in inputs:
        raise UsageError("--tune-on looks at '-' twice, which a stream does not allow", "save it to a file first")
    opened = [
        (names[0], RecordSource(names, KINDS, allow_missing=runtime.allow_missing, notice=runtime.reporter.note), names)
        for names in group_by_run(inputs)
    ]
    header = _header([source.parent for _, source, _ in opened], dataset, options, tuning, runtime)
    path = runtime.target.path
    if path is not None and (known := _known_result(path, header, runtime.overwrite)):
        runtime.reporter.note(f"{path} is complete already")
        return known, [(str(run["input"]), run) for run in known.get("runs", [known])], Status.OK
    replaces = path is not None and path.exists()
    rows, failed = [], 0
    for heading, source, names in opened:
        run, missed = _score(source, names, dataset, options, tuning, runtime)
        rows.append((heading, run))
        failed += missed
    result = report(rows)
    if path is not None:
        text = json.dumps(result, ensure_ascii=False, allow_nan=False)  # classes keep their order
        publish(path, lambda file: encode_result(file, header, text), overwrite=replaces)
    return result, rows, final_status(failed, runtime.max_failures)


def _header(
    parents: Sequence[Parent],
    dataset: Dataset,
    options: SegmentationOptions,
    tuning: Tuning | None,
    runtime: Runtime,
) -> Header:
    decided = {"protocol": "segmentation", "split": dataset.split, **asdict(options), "seed": runtime.seed}
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


def _known_result(path: Path, header: Header, overwrite: bool) -> dict[str, Any] | None:
    """The result of an equal evaluation that is at `path` already; one that lacked images is made again.

    Raises:
        CannotCreate: something else is there and may not be replaced, or nothing can be created there.
    """
    check_writable(path)
    if not path.exists():
        return None
    try:
        with first_part(str(path)) as part:
            if part.header.run == header.run:
                result = part.result()
                return None if any(run["missing"] for run in result.get("runs", [result])) else result
            found = f"{part.header.kind} of another run (other options, inputs or images)"
    except BadInput as error:
        found = f"something else ({error.problem})"
    if not overwrite:
        raise CannotCreate(f"{path} exists and holds {found}", "choose another -o, or use --overwrite")
    return None


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
    source: RecordSource,
    names: list[str],
    dataset: Dataset,
    options: SegmentationOptions,
    tuning: Tuning | None,
    runtime: Runtime,
) -> tuple[dict[str, Any], int]:
    """The run's scores, and how many of its images could not be scored."""
    threshold = options.threshold
    if tuning is not None:
        tuned = SegmentationScore(dataset.classes, average=options.average)  # type: ignore[arg-type]
        source_of = RecordSource(tuning.inputs or names, KINDS, allow_missing=True)
        _add_all(tuned, source_of, tuning.dataset, runtime, "give that split's heatmaps: --tune-with")
        if tuning.dataset.split == dataset.split:
            runtime.reporter.note("the threshold is tuned on the split that is scored: a bound, not a result")
        threshold = tune_threshold(tuned)
        runtime.reporter.note(f"threshold {threshold:.2f} chosen on {tuning.dataset.split}")
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
    return run, failed


def _add_all(
    score: SegmentationScore,
    source: RecordSource,
    dataset: Dataset,
    runtime: Runtime,
    hint: str = "make them for this split, or score what is there with --allow-missing",
) -> int:
    """Score every image of the data set that the source has; returns how many could not be read."""
    source.require_classes(dataset.classes, str(dataset.location))
    wanted = {item.id for item in dataset.items}
    runtime.reporter.start("evaluate", len(wanted))
    failed, seen = 0, set()
    for record, truth in runtime.stop.between(_with_truth(source, dataset, wanted, runtime)):
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
            hint,
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
