"""The protocols of `xseg evaluate`: the options of each, and the step it calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xseg.cli.command import Context
from xseg.errors import UsageError, require_at_most_one, require_one_of

if TYPE_CHECKING:
    from xseg.scores.runs import Outcome


@dataclass(frozen=True)
class Protocol:
    """One way to score artifacts.

    Attributes:
        run: takes the context, the inputs, the data set or None, and the options by name; None where not given.
        options: names of those that not every protocol has.
        needs_dataset: cannot do without `--dataset`.
        check: refuses options of its own that need or exclude each other, before anything is read.
    """

    run: Callable[[Context, list[str], Any, Mapping[str, Any]], "Outcome"]
    options: tuple[str, ...] = ()
    needs_dataset: bool = True
    check: Callable[[Mapping[str, Any]], None] = lambda _: None


def _check_segmentation(given: Mapping[str, Any]) -> None:
    require_at_most_one(**{name: given[name] for name in ("threshold", "tune_on", "foreground_share")})
    if given["tune_with"] and given["tune_on"] is None:
        raise UsageError("--tune-with without --tune-on", "name the split it covers: --tune-on SPLIT")


def _segmentation(context: Context, inputs: list[str], data: Any, own: Mapping[str, Any]) -> "Outcome":  # noqa: ANN401
    from xseg.datasets import open_dataset
    from xseg.scores.step import SegmentationOptions, Tuning
    from xseg.scores.step import evaluate as run

    tuning = None
    if own["tune_on"] is not None:
        tuned = open_dataset(data.location, format=own["format"], split=own["tune_on"])
        tuning = Tuning(tuned, tuple(own["tune_with"] or ()))
    average, share = own["average"] or "present", own["foreground_share"]
    options = SegmentationOptions(own["threshold"], average, own["bootstrap"], share)
    return run(inputs, data, options, tuning, context.runtime)


def _class_specificity(context: Context, inputs: list[str], data: Any, own: Mapping[str, Any]) -> "Outcome":  # noqa: ANN401
    from xseg.scores.class_specificity_step import evaluate_class_specificity

    return evaluate_class_specificity(inputs, data, own["bootstrap"], context.runtime)


def _check_sanity(given: Mapping[str, Any]) -> None:
    for name in ("randomise", "stages"):
        if given["random_labels"] is not None and given[name] is not None:
            raise UsageError(f"--random-labels and --{name} exclude each other: either labels or weights are random")


def _sanity(context: Context, inputs: list[str], data: Any, own: Mapping[str, Any]) -> "Outcome":  # noqa: ANN401
    from xseg.scores.sanity_step import SanityOptions, evaluate_sanity

    options = SanityOptions(
        own["classifier"], own["randomise"] or "cascading", own["stages"], own["random_labels"], own["bootstrap"]
    )
    return evaluate_sanity(inputs, data, options, context.runtime)


def _perturbation(context: Context, inputs: list[str], data: Any, own: Mapping[str, Any]) -> "Outcome":  # noqa: ANN401
    from xseg.scores.perturbation import CURVES
    from xseg.scores.perturbation_step import PerturbationOptions, evaluate_perturbation

    curves = tuple((own["measure"] or "positive,negative").split(","))
    for name in curves:
        require_one_of("--measure", name, *CURVES)
    maps_of = () if own["maps_of"] is None else tuple(dict.fromkeys(own["maps_of"].split(",")))
    for name in maps_of:
        require_one_of("--maps-of", name, "predicted", "labels")
    if own["frame"] == "image":
        raise UsageError("--frame image: a classifier is asked at one size", "for example --frame 224x224")
    options = PerturbationOptions(
        own["classifier"],
        tuple(dict.fromkeys(curves)),
        own["fill"],
        own["score_against"],
        maps_of,
        own["frame"],
        own["steps"],
        own["curve"],
        own["bootstrap"],
    )
    return evaluate_perturbation(inputs, data, options, context.runtime)


def _imagenet_seg(context: Context, inputs: list[str], data: Any, own: Mapping[str, Any]) -> "Outcome":  # noqa: ANN401
    from xseg.scores.imagenet_seg_step import ForegroundOptions, evaluate_imagenet_seg

    options = ForegroundOptions(own["preset"] or "agf", replicates=own["bootstrap"], **_frame(own))
    return evaluate_imagenet_seg(inputs, data, options, context.runtime)


def _voc_multilabel(context: Context, inputs: list[str], data: Any, own: Mapping[str, Any]) -> "Outcome":  # noqa: ANN401
    from xseg.scores.voc_multilabel_step import MultilabelOptions, evaluate_voc_multilabel

    return evaluate_voc_multilabel(
        inputs, data, MultilabelOptions(replicates=own["bootstrap"], **_frame(own)), context.runtime
    )


def _frame(own: Mapping[str, Any]) -> dict[str, Any]:
    """The frame as a step's options have it; nothing where it was not given."""
    if own["frame"] is None:
        return {}
    return {"frame": None if own["frame"] == "image" else own["frame"]}


def _check_localisation(given: Mapping[str, Any]) -> None:
    if given["dataset"] is None and not given["reference"]:
        raise UsageError(
            "--protocol localisation with nothing to compare the maps with",
            "give --reference HEATMAPS, --dataset DATASET, or both",
        )
    if given["reference_threshold"] is not None and not given["reference"]:
        raise UsageError("--reference-threshold without --reference", "give the heatmaps it thresholds")
    if given["tolerance"] is not None and given["dataset"] is None:
        raise UsageError("--tolerance without --dataset: the pointing game needs true masks", "give --dataset DATASET")


def _localisation(context: Context, inputs: list[str], data: Any, own: Mapping[str, Any]) -> "Outcome":  # noqa: ANN401
    from xseg.scores.localisation_step import THRESHOLD, LocalisationOptions, evaluate_localisation

    threshold = own["reference_threshold"]
    options = LocalisationOptions(
        tuple(own["reference"] or ()),
        THRESHOLD if threshold is None else threshold,
        own["tolerance"] or 0,
        own["bootstrap"],
    )
    return evaluate_localisation(inputs, data, options, context.runtime)


def _classification(context: Context, inputs: list[str], data: Any, own: Mapping[str, Any]) -> "Outcome":  # noqa: ANN401
    from xseg.scores.classification_step import ClassificationOptions, evaluate_classification

    options = ClassificationOptions(own["threshold"], own["size"], own["bootstrap"])
    return evaluate_classification(inputs, data, options, context.runtime)


PROTOCOLS: dict[str, Protocol] = {
    "segmentation": Protocol(
        _segmentation, ("threshold", "tune_on", "tune_with", "foreground_share", "average"), check=_check_segmentation
    ),
    "class-specificity": Protocol(_class_specificity),
    "sanity": Protocol(
        _sanity,
        ("classifier", "randomise", "stages", "random_labels", "images", "device", "batch_size"),
        needs_dataset=False,
        check=_check_sanity,
    ),
    "perturbation": Protocol(
        _perturbation,
        (
            "classifier",
            "measure",
            "fill",
            "score_against",
            "maps_of",
            "frame",
            "steps",
            "curve",
            "images",
            "device",
            "batch_size",
        ),
        needs_dataset=False,
    ),
    "imagenet-seg": Protocol(_imagenet_seg, ("preset", "frame")),
    "voc-multilabel": Protocol(_voc_multilabel, ("frame",)),
    "localisation": Protocol(
        _localisation,
        ("reference", "reference_threshold", "tolerance"),
        needs_dataset=False,
        check=_check_localisation,
    ),
    "classification": Protocol(_classification, ("threshold", "size", "images", "device", "batch_size")),
}
