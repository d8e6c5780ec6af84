"""`xseg export`."""

import json
from typing import Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.merge import ArtifactsIn
from xseg.cli.options import require_one_of


@command("export", "output_dir", "overwrite", "allow_missing")
def export(
    context: Context,
    inputs: ArtifactsIn,
    format_: Annotated[
        str,
        typer.Option("--format", help="png (class ids in VOC's colours), classes (a grey PNG each), npy, psa or coco."),
    ] = "png",
    threshold: Annotated[
        float | None, typer.Option(help="Background score in 0..1 for heatmaps that have no background.")
    ] = None,
) -> None:
    """Write masks, pseudolabels or heatmaps as files for other programs, named by the images' ids, into directory -o.

    Example: xseg export masks.h5 -o masks

    Example: xseg export cam.h5 --format psa -o out_cam
    """
    from xseg.exchange.step import export as run

    require_one_of("--format", format_, "png", "classes", "npy", "psa", "coco")
    count = run(inputs, format_, threshold, context.runtime)
    path = str(context.runtime.path)
    context.stdout.line(json.dumps({"path": path, "images": count}) if context.json else path)
