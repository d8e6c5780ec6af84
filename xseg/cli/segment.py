"""`xseg segment`."""

from typing import Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.data import DatasetIn, FormatOpt, SplitOpt
from xseg.cli.options import PER_IMAGE, numbers
from xseg.errors import Status, require_one_of

_SHARED = tuple(name for name in PER_IMAGE if name != "seed")  # nothing is drawn


@command("segment", *_SHARED, "max_failures")
def segment(
    context: Context,
    segmenter: Annotated[str, typer.Argument(metavar="SEGMENTER", help="Artifact made by train-seg, or '-'.")],
    dataset: DatasetIn,
    heatmaps: Annotated[
        bool, typer.Option("--heatmaps", help="Write the posterior, background first, instead of masks.")
    ] = False,
    targets: Annotated[
        str, typer.Option(help="Classes that an image may hold: all, or labels: only those of its image-level labels.")
    ] = "all",
    scales: Annotated[str, typer.Option(help="Scales whose probabilities are averaged.")] = "1",
    flip: Annotated[bool, typer.Option("--flip", help="Also look at the mirrored image.")] = False,
    size: Annotated[int | None, typer.Option(min=8, help="Long side in pixels at scale 1; default: as it is.")] = None,
    window: Annotated[
        int | None, typer.Option(min=8, help="Side of windows that slide over larger images; default: the whole.")
    ] = None,
    step: Annotated[int | None, typer.Option(min=1, help="Pixels from window to window; default: two thirds.")] = None,
    crf: Annotated[bool, typer.Option("--crf", help="Refine by the CRF with its published constants.")] = False,
    backend: Annotated[str, typer.Option(help="Of the CRF: auto, lattice, numba or pydensecrf.")] = "auto",
    least: Annotated[
        float, typer.Option(help="--heatmaps, --crf: leave out classes that are nowhere this probable.")
    ] = 0.01,
    dtype: Annotated[str | None, typer.Option(help="--heatmaps: float16, float32 or uint8.")] = None,
    split: SplitOpt = None,
    format_: FormatOpt = None,
) -> Status:
    """Segment images: the most probable class of every pixel.

    For a CRF with other constants: segment --heatmaps, then crf --masks.

    Example: xseg segment seg.h5 VOC2012 --split val --scales 0.5,0.75,1,1.25,1.5 --flip -o masks.h5

    Example: xseg segment seg.h5 VOC2012 --split train --targets labels -o second.h5

    Example: xseg segment seg.h5 STREETS --window 512 --step 384 --crf -o masks.h5
    """
    from xseg.cli.data import dataset_of, report
    from xseg.segmenter.posterior import Looks
    from xseg.segmenter.segment import SegmentOptions
    from xseg.segmenter.segment import segment as run

    require_one_of("--targets", targets, "all", "labels")
    options = SegmentOptions(
        looks=Looks(numbers(scales, "--scales"), flip, size, window, step),
        targets=targets,  # type: ignore[arg-type]
        writes="heatmaps" if heatmaps else "masks",
        crf=crf,
        least=least,
        dtype=dtype,
    )
    data = dataset_of(dataset, format_, split, context)
    return report(context, run(segmenter, data, options, backend, context.runtime))
