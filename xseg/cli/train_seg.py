"""`xseg train-seg`."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.completion import model_settings
from xseg.cli.data import FormatOpt, TrainSplitOpt
from xseg.cli.options import TRAINING, numbers
from xseg.errors import UsageError, require_one_of

if TYPE_CHECKING:
    from xseg.segmenter.step import Trained, Training


@command("train-seg", *TRAINING, "images", "allow_missing")
def train_seg(
    context: Context,
    masks: Annotated[
        str, typer.Argument(metavar="MASKS", help="Masks or pseudolabels made by crf or segment, or '-'.")
    ],
    weights: Annotated[
        str, typer.Option(help="A .safetensors or .pth file, 'hub' (download), 'none', or a classifier artifact.")
    ],
    dataset: Annotated[
        str | None, typer.Argument(metavar="DATASET", help="Learn from the images of its --split only.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Backbone: timm:NAME, torchvision:NAME, hybrid-vit, package.module:factory."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Argument of the model.", autocompletion=model_settings),
    ] = None,
    output_stride: Annotated[int | None, typer.Option(min=1, help="Pixels per position of its last features.")] = None,
    layer: Annotated[str | None, typer.Option(help="Module path of the features to read; default: the last.")] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="deeplabv3+ (default where there are fine features), deeplabv3 (elsewhere), or light: lraspp."
        ),
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Channels inside the head; 256, of lraspp 128.")] = None,
    rates: Annotated[str | None, typer.Option(help="Dilations of the ASPP; 6,12,18 at output stride 16.")] = None,
    norm: Annotated[str, typer.Option(help="Normalisation inside the head: batch or group.")] = "batch",
    dropout: Annotated[float, typer.Option(help="Behind the ASPP.")] = 0.1,
    epochs: Annotated[float, typer.Option(help="Times every image is seen.")] = 20.0,
    crop: Annotated[int, typer.Option(help="Side of the square training crop.")] = 448,
    scale_low: Annotated[float, typer.Option(help="Smallest factor of the random resize.")] = 0.5,
    scale_high: Annotated[float, typer.Option(help="Largest.")] = 2.0,
    jitter: Annotated[float, typer.Option(help="Strength of the colour jitter.")] = 0.3,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    lr: Annotated[float, typer.Option(help="Learning rate of the backbone.")] = 0.001,
    head_lr_multiplier: Annotated[float, typer.Option(help="Factor for the head.")] = 10.0,
    momentum: Annotated[float, typer.Option(help="Of SGD.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="On weights, not on biases and norms.")] = 1e-4,
    schedule: Annotated[str, typer.Option(help="poly or cosine.")] = "poly",
    poly_power: Annotated[float, typer.Option(help="Exponent of poly.")] = 0.9,
    warmup: Annotated[float, typer.Option(help="Share of the steps in which the rate rises.")] = 0.0,
    freeze_bn: Annotated[bool, typer.Option("--freeze-bn", help="Keep the backbone's batch-norm statistics.")] = False,
    balance: Annotated[float, typer.Option(help="Draw rare classes more often: class frequency to this power.")] = 0.0,
    weighting: Annotated[
        str,
        typer.Option(help="none, or confidence: pixels count by the posterior of their label (crf --posteriors)."),
    ] = "none",
    confidence: Annotated[
        str | None,
        typer.Option(metavar="HEATMAPS", help="Weight pixels by their label's share in these maps (with background)."),
    ] = None,
    average: Annotated[float, typer.Option(help="Publish a moving average of the weights: its decay, as 0.999.")] = 0.0,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    val_split: Annotated[
        str | None, typer.Option(help="Measure mIoU on this split at the end; it is never learned from.")
    ] = None,
    val_dataset: Annotated[str | None, typer.Option(help="Where that split is; default: DATASET.")] = None,
    split: TrainSplitOpt = None,
    format_: FormatOpt = None,
) -> None:
    """Train a segmentation network on masks or confident labels of an earlier step.

    Example: xseg train-seg masks.h5 --model timm:resnet50 --weights hub --output-stride 16 -o seg.h5

    Example: xseg train-seg masks.h5 VOC2012 --split train --weights cls.h5 --val-split val -o seg.h5

    Example: xseg train-seg masks.h5 --confidence walk.h5 --weights cls.h5 --balance 0.5 -o seg.h5

    Example: xseg train-seg labels.h5 --model timm:vit_small_patch16_224 --weights hub --weighting confidence -o seg.h5
    """
    from xseg.cli.data import options_of
    from xseg.segmenter.config import HEADS, NORMS
    from xseg.segmenter.network import HeadOptions
    from xseg.segmenter.settings import SegmenterSettings
    from xseg.segmenter.step import NetworkOptions, train

    require_one_of("--head", head, *HEADS)
    require_one_of("--norm", norm, *NORMS)
    require_one_of("--optimizer", optimizer, "sgd", "adamw")
    require_one_of("--schedule", schedule, "poly", "cosine")
    require_one_of("--weighting", weighting, "none", "confidence")
    settings = SegmenterSettings(
        epochs=epochs,
        batch_size=context.runtime.batch_size or 8,
        crop=crop,
        scale_low=scale_low,
        scale_high=scale_high,
        jitter=jitter,
        optimizer=optimizer,  # type: ignore[arg-type]
        lr=lr,
        head_lr_multiplier=head_lr_multiplier,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,  # type: ignore[arg-type]
        poly_power=poly_power,
        warmup=warmup,
        freeze_bn=freeze_bn,
        balance=balance,
        weighting="confidence" if confidence else weighting,  # type: ignore[arg-type]
        average=average,
        clip=clip,
        seed=context.runtime.seed,
        amp=bool(context.runtime.amp),
    )
    dilations = tuple(int(rate) for rate in numbers(rates, "--rates")) if rates else None
    made = HeadOptions(head, layer, width, dilations, norm, dropout)  # type: ignore[arg-type]
    network = NetworkOptions(model, weights, output_stride, options_of(set_ or ()), made)
    training = _training(context, masks, dataset, val_dataset, (split, val_split, format_))
    training = replace(training, confidence=confidence)
    _tell(context, train(training, network, settings, context.runtime))


def _training(
    context: Context,
    masks: str,
    dataset: str | None,
    val_dataset: str | None,
    words: tuple[str | None, str | None, str | None],
) -> "Training":
    """What is learned from and what is held out; `words` are the two splits and the format."""
    from xseg.cli.data import trainer_data
    from xseg.datasets import open_dataset
    from xseg.segmenter.step import Training

    split, val_split, format_ = words
    if dataset is None and split is not None:
        raise UsageError(
            f"--split {split} needs a DATASET, whose list it is", "xseg train-seg MASKS DATASET --split ..."
        )
    if val_split is not None and val_dataset is None and dataset is None:
        raise UsageError(f"--val-split {val_split} needs a DATASET or --val-dataset, whose list it is")
    chosen = None if dataset is None else trainer_data(dataset, format_, split, context)
    held_out = None
    if val_split is not None or val_dataset is not None:
        held_out = open_dataset(
            str(val_dataset or dataset), format=format_, split=val_split, images=context.runtime.images
        )
    return Training(masks, chosen, held_out)


def _tell(context: Context, trained: "Trained | None") -> None:
    from xseg.cli.data import artifact_facts

    if not context.runtime.rank.first:
        return
    path, facts = context.runtime.path, trained.facts() if trained else {}
    if context.json:
        context.stdout.line(json.dumps({**artifact_facts(path), **facts}))
        return
    for name, value in facts.get("per_class_iou", {}).items():
        context.runtime.reporter.note(f"  {name:20} IoU {'-' if value is None else format(value, '.3f')}")
    if facts.get("miou") is not None:
        context.runtime.reporter.note(f"  mIoU {facts['miou']:.3f} on {facts['validation_images']} images")
    context.stdout.line(str(path))
