"""`xseg report`."""

import json
from typing import Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.data import FormatOpt, SplitOpt
from xseg.cli.merge import ArtifactsIn
from xseg.cli.options import INPUT, OUTPUT
from xseg.errors import Status, UsageError


@command("report", *OUTPUT, "images", "workers", "limit", *INPUT)
def report(
    context: Context,
    inputs: ArtifactsIn,
    dataset: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Data set whose masks are the truth; its images are shown.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Background score for heatmaps without background.")] = 0.2,
    size: Annotated[int, typer.Option(min=32, help="Pixels of the long side of a photograph.")] = 320,
    split: SplitOpt = None,
    format_: FormatOpt = None,
) -> Status:
    """Show a chain on one HTML page without network: how it was made, its scores, every image, several runs compared.

    Example: xseg report cam.h5 walk.h5 masks.h5 scores.h5 --dataset VOC2012 --split val -o report.html
    """
    from xseg.cli.data import dataset_of
    from xseg.pictures.report.collect import GalleryOptions
    from xseg.pictures.report.step import report as run

    if dataset is None and (split or format_):
        raise UsageError("--split and --format are about the data set", "give it: --dataset DATASET")
    truth = dataset_of(dataset, format_, split, context) if dataset else None
    done = run(inputs, truth, GalleryOptions(threshold, size), context.runtime)
    context.runtime.reporter.note(f"{done.images} images, {done.size / 1e6:.1f} MB")
    path = context.runtime.target.path
    if path is not None:
        facts = {"path": str(path), "images": done.images, "bytes": done.size}
        context.stdout.line(json.dumps(facts) if context.json else str(path))
    return done.status
