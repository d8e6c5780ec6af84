"""The step `evaluate --protocol imagenet-seg`: one heatmap of each image against its foreground."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from xseg.artifacts.header import Header
from xseg.artifacts.record import Record
from xseg.datasets.index import Dataset
from xseg.errors import BadInput
from xseg.runs.runtime import Runtime
from xseg.scores.confusion import Ints, ignore_value
from xseg.scores.frame import PUBLISHED, Frame, maps_in_frame, truth_in_frame
from xseg.scores.imagenet_seg import ForegroundScore, Preset, foreground_truth, rule_of
from xseg.scores.runs import Opened, Outcome, open_runs, score_runs, with_truth
from xseg.training.output import dataset_parent


@dataclass(frozen=True)
class ForegroundOptions:
    """How scores are computed.

    Attributes:
        preset: whose threshold rule.
        frame: height and width that maps and masks are squashed to; None: each image's own.
        replicates: bootstrap resamples for the 95 % intervals.
    """

    preset: Preset = "agf"
    frame: Frame = PUBLISHED
    replicates: int = 1000


def evaluate_imagenet_seg(
    inputs: Sequence[str], dataset: Dataset, options: ForegroundOptions, runtime: Runtime
) -> Outcome:
    """Score every run of heatmaps among the inputs.

    Images with image-level labels are scored if they have exactly one class, whose pixels are the foreground. Of a
    data set without labels all images are scored, and every class is foreground. Maps that were asked for with
    `--targets ssl` may be of other classes than the data's: those of the network's own task.

    Args:
        inputs: heatmaps; the files of one run are scored together, several runs side by side.
        dataset: the split to score on, with masks.
        options: how.
        runtime: shared options.

    Returns:
        The JSON object, (heading, run) pairs for a table, and the exit status.

    Raises:
        BadInput: no image of a single class, images that the input lacks, or class names that differ.
        CannotCreate: the output holds something else, or cannot be created.
    """
    chosen = single_class(dataset.require_masks())
    left_out = len(dataset) - len(chosen)
    runs = open_runs(inputs, ("heatmaps",), runtime)
    decided = {"protocol": "imagenet-seg", "split": dataset.split, **asdict(options), "seed": runtime.seed}
    parents = (*(opened.source.parent for opened in runs), dataset_parent(chosen))
    header = Header("scores", dataset.classes, "evaluate", decided, parents=parents, argv=runtime.argv)

    def score(opened: Opened) -> tuple[dict[str, Any], int]:
        run, failed = _score(opened, chosen, options, runtime)
        return {**run, "images_left_out": left_out}, failed

    return score_runs(runs, header, score, runtime)


def single_class(dataset: Dataset) -> Dataset:
    """The images whose labels are exactly one class; all of a data set without labels.

    Raises:
        BadInput: there is none.
    """
    if not dataset.has_labels:
        return dataset
    ids = [item.id for item in dataset.items if item.labels is not None and len(item.labels) == 1]
    if not ids:
        raise BadInput(
            f"{dataset.location}: no image has exactly one class, which foreground and background need",
            "score images of several classes with --protocol voc-multilabel or segmentation",
        )
    return dataset.selected(ids)


def _score(
    opened: Opened, dataset: Dataset, options: ForegroundOptions, runtime: Runtime
) -> tuple[dict[str, Any], int]:
    source = opened.source
    signed = bool(source.header.extra["signed"])
    score = ForegroundScore(rule_of(options.preset, signed))
    # With one class, or none that is told apart, the maps may be of any classes: ImageNet's thousand, for one.
    # Those of a pretext task have nothing to do with the data's: of such a map the place alone is scored.
    pretext = source.header.params.get("targets") == "ssl" and source.header.classes != dataset.classes
    several = dataset.has_labels and len(dataset.classes) > 1
    told = dataset.has_labels and (several or source.header.classes == dataset.classes)
    ignore = ignore_value(len(dataset.classes))

    def add(record: Record, mask: Ints) -> None:
        labels = dataset.by_id[record.id].labels
        label = labels[0] if told and labels else None
        truth = foreground_truth(truth_in_frame(mask, options.frame), label, ignore)
        asked = None if pretext else label
        score.add(*maps_in_frame(record, options.frame), truth, label=asked, image=record.id)

    failed, missing = with_truth(source, dataset, runtime, add, same_classes=several and not pretext)
    run = {
        "protocol": "imagenet-seg",
        "split": dataset.split or "all",
        "missing": len(missing),
        "labels_given": bool(source.header.provenance.get("labels_given", False)),
        "classes": list(dataset.classes),
        "preset": options.preset,
        "foreground": score.rule,
        "signed": signed,
        "frame": "image" if options.frame is None else list(options.frame),
        **score.result(replicates=options.replicates, seed=runtime.seed),
        "bootstrap": {"replicates": options.replicates, "seed": runtime.seed, "level": 0.95, "over": "images"},
    }
    return run, failed
