"""`xseg export`."""

import json
from typing import Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.merge import ArtifactsIn
from xseg.errors import UsageError, require_one_of


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
    input_size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size of the images an ONNX file takes; default: the backbone's.")
    ] = None,
) -> None:
    """Write masks, pseudolabels or heatmaps as files for other programs, named by the images' ids, into directory -o.

    A segmenter becomes one file -o NAME.onnx, compared with xseg's own result before it is written.

    Example: xseg export masks.h5 -o masks

    Example: xseg export cam.h5 --format psa -o out_cam

    Example: xseg export seg.h5 --input-size 512x512 -o seg.onnx
    """
    from xseg.cli.data import sides_of
    from xseg.exchange.step import ONNX, export_segmenter
    from xseg.exchange.step import export as run

    require_one_of("--format", format_, "png", "classes", "npy", "psa", "coco")
    path = str(context.runtime.path)
    if path.endswith(ONNX):
        if threshold is not None:
            raise UsageError(f"--threshold {threshold}: belongs to heatmaps", "leave it out")
        if format_ != "png":
            raise UsageError(f"--format {format_}: a segmenter becomes an ONNX file", "leave it out")
        size = None if input_size is None else sides_of(input_size, "--input-size")
        export_segmenter(inputs, size, context.runtime)
        context.stdout.line(json.dumps({"path": path}) if context.json else path)
        return
    if input_size is not None:
        raise UsageError(f"--input-size {input_size}: belongs to a segmenter", f"give -o NAME{ONNX}")
    count = run(inputs, format_, threshold, context.runtime)
    context.stdout.line(json.dumps({"path": path, "images": count}) if context.json else path)
