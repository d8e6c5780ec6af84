"""`xseg export`."""

import json
from typing import Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.merge import ArtifactsIn


@command("export", "output_dir", "overwrite", "allow_missing")
def export(
    context: Context,
    inputs: ArtifactsIn,
    threshold: Annotated[
        float | None, typer.Option(help="Background score in 0..1 for heatmaps that have no background.")
    ] = None,
) -> None:
    """Write masks, pseudolabels or heatmaps as palette PNG files, one per image, into the directory -o.

    Example: xseg export masks.h5 -o masks
    """
    from xseg.exchange.step import export as run

    count = run(inputs, threshold, context.runtime)
    path = str(context.runtime.path)
    context.stdout.line(json.dumps({"path": path, "images": count}) if context.json else path)
