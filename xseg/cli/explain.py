"""`xseg explain`."""

from typing import Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.completion import method_names, method_settings, target_names
from xseg.cli.data import DatasetIn, FormatOpt, SplitOpt
from xseg.cli.options import PER_IMAGE, numbers
from xseg.errors import Status, require_one_of


@command("explain", *PER_IMAGE, "max_failures")
def explain(
    context: Context,
    classifier: Annotated[str, typer.Argument(metavar="CLASSIFIER", help="Artifact made by train-cls, or '-'.")],
    dataset: DatasetIn,
    method: Annotated[
        str, typer.Option(help="Explanation method; list them with: xseg methods.", autocompletion=method_names)
    ] = "cam",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the method.", autocompletion=method_settings),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            help="labels, predicted, labels,predicted (both), top1, all, ssl, or class names; default: labels if any.",
            autocompletion=target_names,
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Probability above which a class is predicted.")] = 0.5,
    size: Annotated[int | None, typer.Option(min=8, help="Long side in pixels at scale 1; default: as it is.")] = None,
    scales: Annotated[str, typer.Option(help="Scales whose maps are summed.")] = "1",
    flip: Annotated[bool, typer.Option("--flip", help="Also look at the mirrored image.")] = False,
    map_size: Annotated[str, typer.Option(metavar="image|model|HxW", help="Grid of the stored maps.")] = "image",
    layer: Annotated[str | None, typer.Option(help="Module path of the layer to look at.")] = None,
    output_stride: Annotated[
        int | None, typer.Option(min=1, help="Run the classifier at another output stride than it was trained at.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float16, float32 or uint8.")] = None,
    bank: Annotated[str | None, typer.Option(help="With ssl: latent vectors made by features, for neighbours.")] = None,
    neighbour: Annotated[
        str | None, typer.Option(help="With ssl: difference from the nearest neighbour (default), sum, or none.")
    ] = None,
    neighbour_in: Annotated[
        str, typer.Option(help="With ssl: the neighbour decides the class (as published), or enters the latent, too.")
    ] = "class",
    split: SplitOpt = None,
    format_: FormatOpt = None,
) -> Status:
    """Explain a classifier: one heatmap per image and class.

    Example: xseg explain cls.h5 VOC2012 --split train --scales 1,0.5,1.5,2 --flip -o cam.h5

    Example: xseg explain ssl.h5 VOC2012 --method agf --targets ssl --bank bank.h5 -o agf.h5
    """
    from xseg.cli.data import dataset_of, map_size_of, report
    from xseg.heatmaps.step import ExplainOptions
    from xseg.heatmaps.step import explain as run

    require_one_of("--neighbour", neighbour, "difference", "sum", "none")
    require_one_of("--neighbour-in", neighbour_in, "class", "latent")
    options = ExplainOptions(
        method=method,
        settings=tuple(set_ or ()),
        targets=targets,
        threshold=threshold,
        size=size,
        scales=numbers(scales, "--scales"),
        flip=flip,
        map_size=map_size_of(map_size),
        layer=layer,
        output_stride=output_stride,
        dtype=dtype,
        bank=bank,
        neighbour=neighbour,  # type: ignore[arg-type]
        neighbour_in=neighbour_in,  # type: ignore[arg-type]
    )
    status = run(classifier, dataset_of(dataset, format_, split, context), options, context.runtime)
    return report(context, status)
