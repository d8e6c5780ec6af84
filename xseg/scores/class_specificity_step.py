"""The step `evaluate --protocol class-specificity`: heatmaps of several classes of an image against its mask."""

from collections.abc import Sequence
from typing import Any

from xseg.artifacts.header import Header
from xseg.datasets.index import Dataset
from xseg.runs.photographs import heatmaps_of
from xseg.runs.runtime import Runtime
from xseg.scores.class_specificity import SpecificityScore
from xseg.scores.runs import Opened, Outcome, open_runs, score_runs, with_truth
from xseg.training.output import dataset_parent


def evaluate_class_specificity(inputs: Sequence[str], dataset: Dataset, replicates: int, runtime: Runtime) -> Outcome:
    """Measure every run of heatmaps among the inputs.

    Args:
        inputs: heatmaps; the files of one run are scored together, several runs side by side.
        dataset: the split to score on, with masks.
        replicates: bootstrap resamples for the 95 % intervals.
        runtime: shared options.

    Returns:
        The JSON object, (heading, run) pairs for a table, and the exit status.

    Raises:
        BadInput: class names that differ, images of the split that the input lacks, or no image with two classes.
        CannotCreate: the output holds something else, or cannot be created.
    """
    dataset.require_masks()
    runs = open_runs(inputs, ("heatmaps",), runtime)
    decided = {
        "protocol": "class-specificity",
        "split": dataset.split,
        "replicates": replicates,
        "seed": runtime.seed,
    }
    parents = (*(opened.source.parent for opened in runs), dataset_parent(dataset))
    header = Header("scores", dataset.classes, "evaluate", decided, parents=parents, argv=runtime.argv)
    return score_runs(runs, header, lambda opened: _score(opened, dataset, replicates, runtime), runtime)


def _score(opened: Opened, dataset: Dataset, replicates: int, runtime: Runtime) -> tuple[dict[str, Any], int]:
    score = SpecificityScore(dataset.classes)

    def add(record: Any, truth: Any) -> None:  # noqa: ANN401
        maps, class_id = heatmaps_of(record)
        score.add(maps.numpy(), class_id.numpy(), truth, image=record.id)

    failed, missing = with_truth(opened.source, dataset, runtime, add)
    run = {
        "protocol": "class-specificity",
        "split": dataset.split or "all",
        "missing": len(missing),
        "labels_given": bool(opened.source.header.provenance.get("labels_given", False)),
        "classes": list(dataset.classes),
        **score.result(replicates=replicates, seed=runtime.seed),
        "bootstrap": {"replicates": replicates, "seed": runtime.seed, "level": 0.95, "over": "images"},
    }
    return run, failed
