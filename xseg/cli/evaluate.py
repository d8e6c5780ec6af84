"""`xseg evaluate`."""

import json
from typing import Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.data import FormatOpt, SplitOpt
from xseg.cli.merge import ArtifactsIn
from xseg.cli.options import require_one_of
from xseg.errors import Status, UsageError


@command("evaluate", "score_output", "overwrite", "workers", "seed", "limit", "allow_missing", "max_failures")
def evaluate(
    context: Context,
    inputs: ArtifactsIn,
    dataset: Annotated[str, typer.Option(metavar="DATASET", help="Data set with ground-truth masks.")],
    protocol: Annotated[str, typer.Option(help="segmentation.")] = "segmentation",
    threshold: Annotated[float | None, typer.Option(help="Background score for maps without background; 0.2.")] = None,
    tune_on: Annotated[str | None, typer.Option(metavar="SPLIT", help="Choose the threshold on this split.")] = None,
    tune_with: Annotated[
        list[str] | None, typer.Option(metavar="INPUT", help="Heatmaps of that split, if INPUT does not cover it.")
    ] = None,
    average: Annotated[str, typer.Option(help="Mean over classes: present, or psa (absent ones count 0).")] = "present",
    bootstrap: Annotated[int, typer.Option(min=2, help="Resamples for the 95 % interval.")] = 1000,
    split: SplitOpt = None,
    format_: FormatOpt = None,
) -> Status:
    """Score heatmaps, pseudolabels or masks against ground truth.

    Example: xseg evaluate cam.h5 masks.h5 --dataset VOC2012 --split val --json
    """
    from xseg.cli.data import dataset_of
    from xseg.datasets import open_dataset
    from xseg.scores.step import SegmentationOptions, Tuning
    from xseg.scores.step import evaluate as run

    require_one_of("--protocol", protocol, "segmentation")
    require_one_of("--average", average, "present", "psa")
    if threshold is not None and tune_on is not None:
        raise UsageError("--threshold and --tune-on exclude each other")
    if tune_with and tune_on is None:
        raise UsageError("--tune-with without --tune-on", "name the split it covers: --tune-on SPLIT")
    tuning = None
    if tune_on is not None:
        tuning = Tuning(open_dataset(dataset, format=format_, split=tune_on), tuple(tune_with or ()))
    options = SegmentationOptions(threshold, average, bootstrap)
    result, rows, status = run(inputs, dataset_of(dataset, format_, split, context), options, tuning, context.runtime)
    if context.json:
        context.stdout.line(json.dumps(result))
    else:
        _print(rows)
    return status


def _print(rows: list[tuple[str, dict[str, object]]]) -> None:
    from rich.console import Console

    from xseg.scores.table import print_table

    print_table(rows, Console(stderr=True))
