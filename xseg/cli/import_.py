"""`xseg import`."""

from typing import Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.data import DatasetIn, FormatOpt, SplitOpt
from xseg.cli.options import PER_IMAGE
from xseg.errors import Status, require_one_of

_READING = tuple(name for name in PER_IMAGE if name not in {"amp", "seed", "device", "batch_size"})


@command("import", *_READING, "max_failures")
def import_(
    context: Context,
    files: Annotated[
        str,
        typer.Argument(metavar="FILES", help="A directory, .tar or .zip: a file for each image. Or one .json of COCO."),
    ],
    dataset: DatasetIn,
    background: Annotated[
        bool, typer.Option("--background", help="Number 0 is the background, as in psa's CRF scores.")
    ] = False,
    array: Annotated[str | None, typer.Option(help="Which of irn's arrays: high_res (default), or cam.")] = None,
    signed: Annotated[bool, typer.Option("--signed", help="Values may be negative.")] = False,
    dtype: Annotated[str | None, typer.Option(help="float16 (default), float32 (for --signed) or uint8.")] = None,
    split: SplitOpt = None,
    format_: FormatOpt = None,
) -> Status:
    """Take in what others wrote: PNG masks or .npy heatmaps of psa and irn, named by the images' ids; COCO annotations.

    Pickles inside of .npy files are not run: only arrays are read from them. COCO's run lengths and polygons become
    masks: where annotations overlap, the smaller is seen, and crowds are unknown.

    Example: xseg import psa/out_cam VOC2012 --split train -o cam.h5

    Example: xseg import annotations.json VOC2012 --split train -o masks.h5
    """
    from xseg.cli.data import dataset_of, report
    from xseg.exchange.import_step import ImportOptions, import_files

    require_one_of("--array", array, "high_res", "cam")
    options = ImportOptions(background, array, signed, dtype)
    return report(context, import_files(files, dataset_of(dataset, format_, split, context), options, context.runtime))
