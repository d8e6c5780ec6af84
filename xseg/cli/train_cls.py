"""`xseg train-cls`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from xseg.cli.command import Context, command
from xseg.cli.completion import model_settings
from xseg.cli.data import DatasetIn, FormatOpt, TrainSplitOpt
from xseg.cli.options import TRAINING
from xseg.errors import UsageError, require_one_of

MODEL, LEARN, AUGMENT = "Model", "Learning", "Images"


@command("train-cls", *TRAINING, "images")
def train_cls(
    context: Context,
    dataset: DatasetIn,
    weights: Annotated[
        str,
        typer.Option(help="A .safetensors or .pth file, a classifier artifact, 'hub' (download) or 'none'."),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="timm:NAME, torchvision:NAME, hybrid-vit, unet, multi-task-unet, package.module:factory; "
            "unless an artifact has it."
        ),
    ] = None,
    init_only: Annotated[bool, typer.Option("--init-only", help="Wrap the model without training it.")] = False,
    keep_head: Annotated[bool, typer.Option("--keep-head", help="With --init-only: the weights' own classes.")] = False,
    class_names: Annotated[Path | None, typer.Option(help="With --keep-head: their names, one a line.")] = None,
    output_stride: Annotated[int | None, typer.Option(min=1, help="Pixels per position of the last features.")] = None,
    head_bias: Annotated[
        bool, typer.Option("--head-bias/--no-head-bias", help="Whether a new head has a bias.")
    ] = True,
    head_init: Annotated[
        str,
        typer.Option(help="random; prior: a bias by class frequency; transfer: blended from the weights' own head."),
    ] = "random",
    layer: Annotated[str | None, typer.Option(help="Module path of the layer that heatmaps look at.")] = None,
    probe: Annotated[
        str | None,
        typer.Option(help="Module path of a layer: learn only a linear head on its mean; the rest is fixed."),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="labels, or without them rotation: by how many quarters an image is turned.")
    ] = "labels",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Argument of the model.", autocompletion=model_settings),
    ] = None,
    preset: Annotated[str, typer.Option(help="What the options below default to: fine-tune, psa or paper-003.")] = (
        "fine-tune"
    ),
    epochs: Annotated[float | None, typer.Option(help="Times every image is seen; 5.")] = None,
    crop: Annotated[int | None, typer.Option(help="Side of the square training crop; 448.")] = None,
    resize_low: Annotated[int | None, typer.Option(help="Shortest long side after the random resize; 256.")] = None,
    resize_high: Annotated[int | None, typer.Option(help="Longest; 512.")] = None,
    jitter: Annotated[float | None, typer.Option(help="Strength of the colour jitter; 0.3.")] = None,
    loss: Annotated[str | None, typer.Option(help="soft-margin, bce, or cross-entropy for softmax heads.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw; sgd.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the backbone; 0.01.")] = None,
    head_lr_multiplier: Annotated[
        float | None, typer.Option(help="Factor for the head, a U-Net's decoder too; 10.")
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Of SGD; 0.9, and 5e-4 as psa's code has in effect.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="On weights, not on biases and norms; 5e-4.")] = None,
    schedule: Annotated[str | None, typer.Option(help="poly or cosine; poly.")] = None,
    poly_power: Annotated[float | None, typer.Option(help="Exponent of poly; 0.9.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the steps in which the rate rises; 0.")] = None,
    freeze: Annotated[int, typer.Option(min=0, help="Stages that do not learn, counted from the input.")] = 0,
    freeze_bn: Annotated[
        bool | None, typer.Option("--freeze-bn/--no-freeze-bn", help="Keep batch-norm statistics.")
    ] = None,
    freeze_bn_affine: Annotated[
        bool | None, typer.Option("--freeze-bn-affine/--no-freeze-bn-affine", help="Keep their scale and shift.")
    ] = None,
    balance: Annotated[
        float | None, typer.Option(help="Draw rare classes more often: class frequency to this power; 0.")
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share of the labels' certainty taken away; 0.")] = None,
    interpolate: Annotated[
        float | None, typer.Option(help="Final weights: this far from the first to the learned; 1.")
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    permute_labels: Annotated[
        bool, typer.Option("--permute-labels", help="Learn random labels: evaluate --random-labels compares with it.")
    ] = False,
    val_split: Annotated[str | None, typer.Option(help="Measure average precision on this split at the end.")] = None,
    split: TrainSplitOpt = None,
    format_: FormatOpt = None,
) -> None:
    """Train a classifier from image-level labels.

    Example: xseg train-cls VOC2012 --model timm:resnet50 --weights hub --split train_aug -o cls.h5

    Example: xseg train-cls VOC2012 --model hybrid-vit --set stem=resnet50 --set depth=2 --weights hub -o cls.h5

    Example: xseg train-cls VOC2012 --model hybrid-vit --set preset=paper-003 --preset paper-003 --weights hub -o cls.h5

    Example: xseg train-cls VOC2012 --model unet --set encoder=resnet18 --set skips=false --weights hub -o ablated.h5

    Example: xseg train-cls PHOTOS --model timm:resnet18 --weights none --objective rotation --crop 224 -o ssl.h5

    Example: xseg train-cls VOC2012 --weights ssl.h5 --probe layer3 -o probe3.h5
    """
    from xseg.classifier.settings import PRESETS
    from xseg.classifier.step import ModelOptions, train
    from xseg.cli.data import names_in, options_of, report_training, trainer_data

    _refuse_combinations(keep_head, init_only, permute_labels)
    require_one_of("--preset", preset, *PRESETS)
    _refuse_objective(objective, loss, head_init, probe, anything=keep_head or init_only or permute_labels)
    require_one_of("--optimizer", optimizer, "sgd", "adamw")
    require_one_of("--schedule", schedule, "poly", "cosine")
    require_one_of("--loss", loss, "soft-margin", "bce", "cross-entropy")
    _refuse_head(head_init, probe, layer, keep_head, bare=weights == "none")
    if head_init == "prior" and (keep_head or not head_bias):
        raise UsageError("--head-init prior: needed a new head with a bias", "leave --keep-head or --no-head-bias out")
    data = trainer_data(dataset, format_, split, context)
    network = ModelOptions(
        model=model,
        weights=weights,
        keep_head=keep_head,
        class_names=names_in(class_names) if class_names else None,
        output_stride=output_stride,
        head_bias=head_bias,
        head_init=head_init,  # type: ignore[arg-type]
        layer=layer,
        options=options_of(set_ or ()),
        probe=probe,
    )
    given = {
        "epochs": epochs,
        "batch_size": context.runtime.batch_size,
        "crop": crop,
        "resize_low": resize_low,
        "resize_high": resize_high,
        "loss": loss,
        "optimizer": optimizer,
        "lr": lr,
        "head_lr_multiplier": head_lr_multiplier,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "poly_power": poly_power,
        "warmup": warmup,
        "jitter": jitter,
        "frozen": freeze,
        "freeze_bn": freeze_bn,
        "freeze_bn_affine": freeze_bn_affine,
        "balance": balance,
        "label_smoothing": label_smoothing,
        "interpolate": interpolate,
        "clip": clip,
        "seed": context.runtime.seed,
        "amp": bool(context.runtime.amp),
    }
    settings = None
    if not init_only:
        chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        settings = replace(PRESETS[preset](), **chosen)
    held_out = trainer_data(dataset, format_, val_split, context) if val_split else None
    tasks = {"random_labels": permute_labels, "objective": objective}
    result = train(data, network, settings, held_out, context.runtime, **tasks)  # type: ignore[arg-type]
    report_training(context, result)


def _refuse_combinations(keep_head: bool, init_only: bool, permute_labels: bool) -> None:
    if keep_head and not init_only:
        raise UsageError("--keep-head needs --init-only: other classes than the data's cannot be trained on it")
    if permute_labels and init_only:
        raise UsageError(
            "--permute-labels with --init-only: nothing is learned from the labels", "leave one of them out"
        )


def _refuse_objective(objective: str, loss: str | None, head_init: str, probe: str | None, *, anything: bool) -> None:
    require_one_of("--objective", objective, "labels", "rotation")
    if objective == "labels":
        return
    if anything or probe is not None or head_init != "random" or loss not in {None, "cross-entropy"}:
        raise UsageError(
            f"--objective {objective}: a new softmax head learns without labels",
            "leave --keep-head, --init-only, --permute-labels, --head-init, --probe and other losses out",
        )


def _refuse_head(head_init: str, probe: str | None, layer: str | None, keep_head: bool, *, bare: bool) -> None:
    require_one_of("--head-init", head_init, "random", "prior", "transfer")
    if head_init == "transfer" and (keep_head or bare):
        raise UsageError("--head-init transfer: needed weights, and no --keep-head", "give weights, or another start")
    if probe is not None and (keep_head or layer is not None or head_init == "transfer"):
        raise UsageError(
            f"--probe {probe}: the head is new, and heatmaps look at the probed layer",
            "leave --keep-head, --layer and --head-init out",
        )
