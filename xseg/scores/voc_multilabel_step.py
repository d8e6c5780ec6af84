"""The step `evaluate --protocol voc-multilabel`: maps of the predicted classes against the mask."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from xseg.artifacts.header import Header
from xseg.artifacts.record import Record
from xseg.datasets.index import Dataset
from xseg.runs.runtime import Runtime
from xseg.scores.confusion import Ints
from xseg.scores.frame import PUBLISHED, Frame, maps_in_frame, truth_in_frame
from xseg.scores.runs import Opened, Outcome, open_runs, score_runs, with_truth
from xseg.scores.voc_multilabel import MultilabelScore
from xseg.training.output import dataset_parent


@dataclass(frozen=True)
class MultilabelOptions:
    """How scores are computed.

    Attributes:
        frame: height and width that maps and masks are squashed to; None: each image's own.
        replicates: bootstrap resamples for the 95 % intervals.
    """

    frame: Frame = PUBLISHED
    replicates: int = 1000


def evaluate_voc_multilabel(
    inputs: Sequence[str], dataset: Dataset, options: MultilabelOptions, runtime: Runtime
) -> Outcome:
    """Score every run of heatmaps among the inputs; the classes that have a map are those that were predicted.

    Args:
        inputs: heatmaps; the files of one run are scored together, several runs side by side.
        dataset: the split to score on, with masks.
        options: how.
        runtime: shared options.

    Returns:
        The JSON object, (heading, run) pairs for a table, and the exit status.

    Raises:
        BadInput: class names that differ, or images of the split that the input lacks.
        CannotCreate: the output holds something else, or cannot be created.
    """
    dataset.require_masks()
    runs = open_runs(inputs, ("heatmaps",), runtime)
    decided = {"protocol": "voc-multilabel", "split": dataset.split, **asdict(options), "seed": runtime.seed}
    parents = (*(opened.source.parent for opened in runs), dataset_parent(dataset))
    header = Header("scores", dataset.classes, "evaluate", decided, parents=parents, argv=runtime.argv)
    return score_runs(runs, header, lambda opened: _score(opened, dataset, options, runtime), runtime)


def _score(
    opened: Opened, dataset: Dataset, options: MultilabelOptions, runtime: Runtime
) -> tuple[dict[str, Any], int]:
    header = opened.source.header
    signed, labels_given = bool(header.extra["signed"]), bool(header.provenance.get("labels_given", False))
    if labels_given:
        runtime.reporter.note(
            f"{opened.heading} explains the classes truly in each image; the protocol asks for those predicted"
            " (explain --targets predicted)"
        )
    score = MultilabelScore(dataset.classes, signed)

    def add(record: Record, truth: Ints) -> None:
        maps, class_id = maps_in_frame(record, options.frame)
        score.add(maps, class_id, truth_in_frame(truth, options.frame), image=record.id)

    failed, missing = with_truth(opened.source, dataset, runtime, add)
    run = {
        "protocol": "voc-multilabel",
        "split": dataset.split or "all",
        "missing": len(missing),
        "labels_given": labels_given,
        "classes": list(dataset.classes),
        "signed": signed,
        "mean_subtracted": not signed,
        "frame": "image" if options.frame is None else list(options.frame),
        **score.result(replicates=options.replicates, seed=runtime.seed),
        "bootstrap": {"replicates": options.replicates, "seed": runtime.seed, "level": 0.95, "over": "images"},
    }
    return run, failed
