"""`xseg show`."""

import json
from typing import Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.data import FormatOpt, SplitOpt
from xseg.cli.merge import ArtifactsIn
from xseg.cli.options import INPUT
from xseg.errors import Status


@command("show", "output_dir", "overwrite", "images", "limit", *INPUT)
def show(
    context: Context,
    inputs: ArtifactsIn,
    dataset: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Data set whose masks are drawn beside them.")
    ] = None,
    split: SplitOpt = None,
    format_: FormatOpt = None,
) -> Status:
    """Draw heatmaps, masks or pseudolabels over their photographs, into the directory -o.

    Example: xseg show cam.h5 --dataset VOC2012 --limit 20 -o pictures
    """
    from xseg.datasets import open_dataset
    from xseg.pictures.step import show as run

    truth = open_dataset(dataset, format=format_, split=split) if dataset else None
    status = run(inputs, truth, context.runtime)
    path = str(context.runtime.path)
    context.stdout.line(json.dumps({"path": path}) if context.json else path)
    return status
