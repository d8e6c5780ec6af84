"""`xseg evaluate`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.data import FormatOpt, SplitOpt
from xseg.cli.merge import ArtifactsIn
from xseg.cli.protocols import PROTOCOLS
from xseg.errors import Status, UsageError, require_one_of


@command(
    "evaluate", "score_output", "overwrite", "images", "device", "batch_size", "workers", "seed", "limit",
    "allow_missing", "max_failures",
)  # fmt: skip
def evaluate(
    context: Context,
    inputs: ArtifactsIn,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET",
            help="True masks, or labels; not needed by sanity, perturbation and localisation --reference.",
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(help=f"{', '.join(PROTOCOLS)}."),
    ] = "segmentation",
    threshold: Annotated[
        float | None,
        typer.Option(help="Background score for maps without background, 0.2; classification: probability, 0.5."),
    ] = None,
    tune_on: Annotated[str | None, typer.Option(metavar="SPLIT", help="Choose the threshold on this split.")] = None,
    tune_with: Annotated[
        list[str] | None, typer.Option(metavar="INPUT", help="Heatmaps of that split, if INPUT does not cover it.")
    ] = None,
    foreground_share: Annotated[
        float | None,
        typer.Option(help="Choose the threshold so that this share of an image is foreground, the mean over images."),
    ] = None,
    average: Annotated[
        str | None, typer.Option(help="Mean over classes: present (default), or psa (absent ones count 0).")
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Sanity: the classifier that made the heatmaps. Perturbation: the one asked."
        ),
    ] = None,
    randomise: Annotated[
        str | None, typer.Option(help="Sanity: weights cascading from the head down (default), or independent.")
    ] = None,
    stages: Annotated[
        int | None, typer.Option(min=2, help="Sanity: look at this many stages, evenly spread; all if not given.")
    ] = None,
    random_labels: Annotated[
        str | None, typer.Option(metavar="FILE", help="Sanity: compare with one made by train-cls --permute-labels.")
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Perturbation: positive,negative (default), insertion, deletion, road-morf, road-lerf.",
        ),
    ] = None,
    fill: Annotated[
        str | None, typer.Option(help="Perturbation: removed pixels become black (default), mean or blur.")
    ] = None,
    score_against: Annotated[
        str | None, typer.Option(help="Perturbation: right is what the labels say (default), or what was predicted.")
    ] = None,
    maps_of: Annotated[
        str | None,
        typer.Option(
            metavar="predicted,labels",
            help="Perturbation: only maps of predicted classes, or of labels; both: each by itself.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Perturbation: of insertion and deletion; 224.")] = None,
    curve: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Perturbation: draw the curves.")] = None,
    preset: Annotated[str | None, typer.Option(help="imagenet-seg: threshold rule of agf (default) or chefer.")] = None,
    frame: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Size to squash images to: the classifier's (perturbation) or 224x224 (imagenet-seg, voc-multilabel,"
            " which also take image).",
        ),
    ] = None,
    reference: Annotated[
        list[str] | None, typer.Option(metavar="HEATMAPS", help="Localisation: maps of an independent classifier.")
    ] = None,
    reference_threshold: Annotated[
        float | None, typer.Option(help="Localisation: fraction of a reference map's maximum that makes its mask; 0.5.")
    ] = None,
    tolerance: Annotated[
        int | None, typer.Option(min=0, help="Localisation: pixels by which a maximum may miss; 0, published: 15.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=0, help="Classification: long side of the images, 0 keeps it; default: recorded.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=2, help="Resamples for the 95 % interval.")] = 1000,
    split: SplitOpt = None,
    format_: FormatOpt = None,
) -> Status:
    """Score heatmaps, pseudolabels, masks or classifiers against ground truth, or heatmaps against other heatmaps.

    Example: xseg evaluate cam.h5 masks.h5 --dataset VOC2012 --split val --json

    Example: xseg evaluate cam.h5 --foreground-share 0.3 --dataset VOC2012 --split val

    Example: xseg evaluate cam.h5 --protocol class-specificity --dataset VOC2012 --split val

    Example: xseg evaluate cam.h5 --protocol sanity --classifier cls.h5 --limit 50

    Example: xseg evaluate cam.h5 random.h5 --protocol perturbation --classifier cls.h5 --curve curves.png

    Example: xseg evaluate top1.h5 --protocol imagenet-seg --dataset gtsegs_ijcv.mat --preset chefer

    Example: xseg evaluate predicted.h5 --protocol voc-multilabel --dataset VOC2012 --split val

    Example: xseg evaluate cam.h5 --protocol localisation --reference other.h5 --dataset VOC2012 --split val

    Example: xseg evaluate cls.h5 --protocol classification --dataset VOC2012 --split val
    """
    from xseg.cli.data import dataset_of, frame_of

    require_one_of("--protocol", protocol, *PROTOCOLS)
    require_one_of("--preset", preset, "agf", "chefer")
    require_one_of("--average", average, "present", "psa")
    require_one_of("--randomise", randomise, "cascading", "independent")
    require_one_of("--fill", fill, "black", "mean", "blur")
    require_one_of("--score-against", score_against, "labels", "predicted")
    own = {
        "threshold": threshold, "tune_on": tune_on, "tune_with": tune_with or None,
        "foreground_share": foreground_share, "average": average,
        "classifier": classifier, "randomise": randomise, "stages": stages, "random_labels": random_labels,
        "measure": measure, "fill": fill, "score_against": score_against, "maps_of": maps_of,
        "steps": steps, "curve": curve,
        "preset": preset, "frame": None if frame is None else frame_of(frame),
        "reference": reference or None, "reference_threshold": reference_threshold, "tolerance": tolerance,
        "size": size,
    }  # fmt: skip
    _refuse_foreign(protocol, own, context)
    _refuse_combinations(protocol, {**own, "dataset": dataset, "split": split, "format": format_})
    data = None if dataset is None else dataset_of(dataset, format_, split, context)
    result, rows, status = PROTOCOLS[protocol].run(
        context, inputs, data, {**own, "bootstrap": bootstrap, "format": format_}
    )
    if context.json:
        context.stdout.line(json.dumps(result))
    else:
        _print(rows)
        if context.runtime.target.path is not None:
            context.stdout.line(str(context.runtime.target.path))
    return status


def _refuse_foreign(protocol: str, own: Mapping[str, object], context: Context) -> None:
    """Refuse options that another protocol has.

    Raises:
        UsageError: one was given.
    """
    runtime = context.runtime
    device = None if runtime.device == "auto" else runtime.device
    shared = {"images": runtime.images, "batch_size": runtime.batch_size, "device": device}
    for name, value in {**own, **shared}.items():
        if value is not None and name not in PROTOCOLS[protocol].options:
            *others, last = (known for known, one in PROTOCOLS.items() if name in one.options)
            owners = f"{', '.join(others)} or {last}" if others else last
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} belongs to --protocol {owners}, not to {protocol}", f"leave {option} out")


def _refuse_combinations(protocol: str, given: Mapping[str, object]) -> None:
    """Refuse options that need or exclude each other.

    Raises:
        UsageError: such options were given.
    """
    if given["dataset"] is None and (PROTOCOLS[protocol].needs_dataset or given["split"] or given["format"]):
        raise UsageError("Missing option '--dataset'", "give the data set: --dataset DATASET")
    if "classifier" in PROTOCOLS[protocol].options and given["classifier"] is None:
        raise UsageError(f"--protocol {protocol} without --classifier", "give the heatmaps' own one: --classifier FILE")
    PROTOCOLS[protocol].check(given)


def _print(rows: list[tuple[str, dict[str, object]]]) -> None:
    from rich.console import Console

    from xseg.scores.table import print_table

    print_table(rows, Console(stderr=True))
