"""`xseg train-guided`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from xseg.cli.command import Context, command
from xseg.cli.completion import method_names, method_settings, model_settings
from xseg.cli.data import DatasetIn, FormatOpt, TrainSplitOpt
from xseg.cli.options import TRAINING
from xseg.errors import UsageError, require_one_of


@command("train-guided", *TRAINING, "images")
def train_guided(
    context: Context,
    dataset: DatasetIn,
    masks: Annotated[
        str,
        typer.Option(
            metavar="N|all|LIST|FILE",
            help="Whose masks are used: so many images, all that have one, those of a list or of a file of ids.",
        ),
    ],
    classifier: Annotated[
        str | None, typer.Argument(metavar="[CLASSIFIER]", help="Where to start, made by train-cls.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Without CLASSIFIER: the network, as for train-cls.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Without CLASSIFIER: a file, an artifact, 'hub' or 'none'.")
    ] = None,
    model_set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Argument of the model, or of the decoder that segmentation-head adds.",
            autocompletion=model_settings,
        ),
    ] = None,
    output_stride: Annotated[int | None, typer.Option(min=1, help="Of the model.")] = None,
    heatmap: Annotated[
        str, typer.Option(help="A differentiable explanation method, see: xseg methods.", autocompletion=method_names)
    ] = "lrp",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Parameter of that method.", autocompletion=method_settings),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Module path of the layer that heatmaps look at.")] = None,
    loss: Annotated[
        str, typer.Option(help="On heatmaps: cross-entropy, dice, energy, rrr, l1, ppce or diversity.")
    ] = "cross-entropy",
    against: Annotated[
        list[str] | None, typer.Option(metavar="CLASSIFIER", help="Diversity: whose maps not to have; repeatable.")
    ] = None,
    weight: Annotated[float, typer.Option(help="Of the loss on heatmaps.")] = 1.0,
    classification_weight: Annotated[float, typer.Option(help="Of the loss on image-level labels.")] = 1.0,
    background: Annotated[
        bool | None,
        typer.Option("--background/--no-background", help="A logit for the background; default: if the loss needs it."),
    ] = None,
    normalise: Annotated[str, typer.Option(help="Maps of an image before their softmax: none, max or rms.")] = "none",
    temperature: Annotated[float, typer.Option(help="Of that softmax.")] = 1.0,
    mask_share: Annotated[float, typer.Option(help="Share of a batch that has masks.")] = 0.5,
    mask_balance: Annotated[float, typer.Option(help="--masks N: class frequency to this power; 0: all alike.")] = 1.0,
    unknown: Annotated[
        str, typer.Option(help="Pixels of unknown class: ignore, or background as in the published code.")
    ] = "ignore",
    every_class: Annotated[
        bool, typer.Option("--every-class", help="Losses of one class: look at all of an image's, not at one drawn.")
    ] = False,
    ignore_region: Annotated[
        Path | None, typer.Option(metavar="DIR", help="ID.png: where it is not 0 no heatmap may point.")
    ] = None,
    region_weight: Annotated[float, typer.Option(help="Of the loss there.")] = 1.0,
    classes_at_once: Annotated[
        int, typer.Option(min=0, help="Classes of an image whose maps are in memory at once; 0: all, the fastest.")
    ] = 0,
    preset: Annotated[str, typer.Option(help="What the options below default to: fine-tune or paper-000.")] = (
        "fine-tune"
    ),
    epochs: Annotated[float | None, typer.Option(help="Times as many images are seen as there are; 10.")] = None,
    crop: Annotated[int | None, typer.Option(help="Side of the square training crop; 224.")] = None,
    resize_low: Annotated[int | None, typer.Option(help="Shortest long side after the random resize; 224.")] = None,
    resize_high: Annotated[int | None, typer.Option(help="Longest; 320.")] = None,
    jitter: Annotated[float | None, typer.Option(help="Strength of the colour jitter; 0.3.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw; adamw.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the backbone; 1e-4.")] = None,
    head_lr_multiplier: Annotated[float | None, typer.Option(help="Factor for the head; 10.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of SGD; 0.9.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="On weights, not on biases and norms; 0.01.")] = None,
    schedule: Annotated[str | None, typer.Option(help="poly or cosine; poly.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the steps in which the rate rises; 0.")] = None,
    freeze: Annotated[int, typer.Option(min=0, help="Stages that do not learn, counted from the input.")] = 0,
    freeze_bn: Annotated[
        bool | None, typer.Option("--freeze-bn/--no-freeze-bn", help="Keep batch-norm statistics.")
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient; 1.")] = None,
    skips: Annotated[int, typer.Option(min=0, help="Steps in a row left out for a gradient that is not finite.")] = 10,
    val_split: Annotated[str | None, typer.Option(help="Measure average precision on this split at the end.")] = None,
    split: TrainSplitOpt = None,
    format_: FormatOpt = None,
) -> None:
    """Train a classifier whose heatmaps are segmentations, from image-level labels and few masks.

    Example: xseg train-guided VOC2012 cls.h5 --masks 100 --set composite=epsilon -o guided.h5

    Example: xseg explain guided.h5 VOC2012 --split val --method guided --targets all -o maps.h5

    Example: xseg train-guided PHOTOS cls.h5 --masks 0 --ignore-region watermarks --heatmap grad-cam -o right.h5

    Example: xseg train-guided VOC2012 cls.h5 --masks 0 --loss diversity --against first.h5 -o second.h5
    """
    from xseg.cli.data import report_training, trainer_data
    from xseg.guided.settings import PRESETS, GuidedSettings
    from xseg.guided.step import GuidedInputs, train

    require_one_of("--preset", preset, *PRESETS)
    require_one_of("--optimizer", optimizer, "sgd", "adamw")
    require_one_of("--schedule", schedule, "poly", "cosine")
    given = {
        "epochs": epochs,
        "batch_size": context.runtime.batch_size,
        "crop": crop,
        "resize_low": resize_low,
        "resize_high": resize_high,
        "jitter": jitter,
        "optimizer": optimizer,
        "lr": lr,
        "head_lr_multiplier": head_lr_multiplier,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "warmup": warmup,
        "frozen": freeze,
        "freeze_bn": freeze_bn,
        "clip": clip,
        "seed": context.runtime.seed,
        "amp": bool(context.runtime.amp),
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    settings = GuidedSettings(
        training=replace(PRESETS[preset](), **chosen),
        heatmap=(heatmap, *(set_ or ())),
        loss=loss,
        weight=weight,
        classification_weight=classification_weight,
        background=background is not False,
        normalise=normalise,  # type: ignore[arg-type]
        temperature=temperature,
        mask_share=mask_share,
        unknown=unknown,  # type: ignore[arg-type]
        one_class=not every_class,
        region_weight=region_weight,
        skips=skips,
    )
    inputs = GuidedInputs(
        dataset=trainer_data(dataset, format_, split, context),
        split=lambda name: trainer_data(dataset, format_, name, context),
        classifier=classifier,
        model=_model(classifier, model, weights, model_set if classifier is None else None, output_stride),
        masks=masks,
        balance=mask_balance,
        ignored=ignore_region,
        against=tuple(against or ()),
        validation=trainer_data(dataset, format_, val_split, context) if val_split else None,
        layer=layer,
        decoder=_decoder(classifier, model_set, heatmap) if classifier is not None else None,
    )
    report_training(context, train(inputs, settings, background, context.runtime, at_once=classes_at_once))


def _model(
    classifier: str | None,
    model: str | None,
    weights: str | None,
    options: list[str] | None,
    output_stride: int | None,
) -> Any:  # noqa: ANN401 - its type comes with torch
    from xseg.classifier.step import ModelOptions
    from xseg.cli.data import options_of

    if classifier is not None:
        if model is not None or weights is not None or output_stride is not None:
            raise _known(classifier)
        return None
    if model is None or weights is None:
        missing = "--model" if model is None else "--weights"
        raise UsageError(
            f"neither CLASSIFIER nor {missing} is given", "give CLASSIFIER, or --model NAME --weights FILE|hub|none"
        )
    return ModelOptions(model=model, weights=weights, output_stride=output_stride, options=options_of(options or ()))


def _decoder(classifier: str, options: list[str] | None, heatmap: str) -> Any:  # noqa: ANN401 - as above
    """Options of what is added to CLASSIFIER."""
    from xseg.cli.data import options_of

    if options and heatmap != "segmentation-head":
        raise _known(classifier)
    return options_of(options or ())


def _known(classifier: str) -> UsageError:
    return UsageError(
        f"CLASSIFIER {classifier} knows its model and weights",
        "leave --model, --weights, --model-set and --output-stride out, or CLASSIFIER",
    )
