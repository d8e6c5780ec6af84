"""`xseg features`."""

from typing import Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.data import DatasetIn, FormatOpt, SplitOpt
from xseg.cli.options import PER_IMAGE
from xseg.errors import Status

_EXACT = tuple(name for name in PER_IMAGE if name not in {"amp", "seed"})


@command("features", *_EXACT, "max_failures")
def features(
    context: Context,
    classifier: Annotated[str, typer.Argument(metavar="CLASSIFIER", help="Artifact made by train-cls, or '-'.")],
    dataset: DatasetIn,
    layer: Annotated[
        str | None, typer.Option(help="Module path whose output is averaged over places; default: what the head reads.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=8, help="Long side in pixels; default: the image as it is.")] = None,
    split: SplitOpt = None,
    format_: FormatOpt = None,
) -> Status:
    """Keep the latent vector of every image, as a bank in which explain --targets ssl finds neighbours.

    Example: xseg features ssl.h5 VOC2012 --split train --size 224 -o bank.h5
    """
    from xseg.cli.data import dataset_of, report
    from xseg.features.step import FeatureOptions
    from xseg.features.step import features as run

    options = FeatureOptions(layer=layer, size=size)
    return report(context, run(classifier, dataset_of(dataset, format_, split, context), options, context.runtime))
