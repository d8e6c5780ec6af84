"""`xseg affinity-train`."""

from typing import Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.options import TRAINING
from xseg.errors import UsageError, require_one_of


@command("affinity-train", *TRAINING, "images", "allow_missing")
def affinity_train(
    context: Context,
    pseudolabels: Annotated[str, typer.Argument(metavar="PSEUDOLABELS", help="Artifact made by crf, or '-'.")],
    classifier: Annotated[str, typer.Argument(metavar="CLASSIFIER", help="Artifact made by train-cls.")],
    epochs: Annotated[float, typer.Option(help="Times every image is seen.")] = 8.0,
    crop: Annotated[int, typer.Option(min=16, help="Side of the square crop.")] = 448,
    resize_low: Annotated[int, typer.Option(help="Shortest long side after a random resize; 0: as it is.")] = 0,
    resize_high: Annotated[int, typer.Option(help="Longest.")] = 0,
    jitter: Annotated[float, typer.Option(help="Strength of the colour jitter.")] = 0.3,
    radius: Annotated[float, typer.Option(help="Pairs closer than this, in nodes.")] = 5.0,
    stride: Annotated[int, typer.Option(min=1, help="Pixels per node.")] = 8,
    preset: Annotated[str, typer.Option(help="Published head: psa, psa-vgg16 or paper-003.")] = "psa",
    layers: Annotated[str | None, typer.Option(help="Stages to read, separated by commas; image: the picture.")] = None,
    widths: Annotated[str | None, typer.Option(help="Channels each stage is reduced to.")] = None,
    features: Annotated[int | None, typer.Option(help="Channels of the result; default: sum of the widths.")] = None,
    groups: Annotated[int | None, typer.Option(help="Groups of the normalisation; 0: none.")] = None,
    standardise: Annotated[
        bool, typer.Option("--standardise", help="Bring every channel to mean 0, deviation 1.")
    ] = False,
    output_stride: Annotated[int | None, typer.Option(help="Run the classifier at another output stride.")] = None,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "adamw",
    lr: Annotated[float, typer.Option(help="Learning rate of the new layers.")] = 0.001,
    backbone_lr: Annotated[float, typer.Option(help="Of the classifier's weights; 0 leaves them alone.")] = 0.0,
    momentum: Annotated[float, typer.Option(help="Of SGD.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="On weights.")] = 5e-4,
    schedule: Annotated[str, typer.Option(help="poly or cosine.")] = "poly",
) -> None:
    """Learn from confident labels which pixels belong together.

    Example: xseg affinity-train labels.h5 cls.h5 -o affinity.h5
    """
    from xseg.affinity.step import HeadOptions, train
    from xseg.affinity.train import AffinitySettings
    from xseg.cli.data import report_network
    from xseg.cli.options import numbers

    require_one_of("--optimizer", optimizer, "sgd", "adamw")
    require_one_of("--schedule", schedule, "poly", "cosine")
    if radius <= 1:
        raise UsageError(f"--radius {radius}: needed a number above 1")
    head = HeadOptions(
        preset,
        tuple(layers.split(",")) if layers else None,
        tuple(int(width) for width in numbers(widths, "--widths")) if widths else None,
        features,
        groups,
        stride,
        standardise,
        output_stride,
    )
    settings = AffinitySettings(
        epochs=epochs,
        batch_size=context.runtime.batch_size or 8,
        crop=crop,
        resize_low=resize_low,
        resize_high=resize_high,
        radius=radius,
        optimizer=optimizer,  # type: ignore[arg-type]
        lr=lr,
        backbone_lr=backbone_lr,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,  # type: ignore[arg-type]
        jitter=jitter,
        seed=context.runtime.seed,
        amp=bool(context.runtime.amp),
    )
    train([pseudolabels], classifier, head, settings, context.runtime)
    report_network(context)
