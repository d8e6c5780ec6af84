"""The step `train-cls`: image-level labels in, classifier out; and reading a classifier back."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from xseg.artifacts.header import Header, Parent
from xseg.artifacts.weights import is_artifact, read_weights
from xseg.classifier.config import ClassifierConfig, Scalar
from xseg.classifier.model import Classifier, attach_probe, build, create, create_former, former_model
from xseg.classifier.rotation import ROTATIONS, Accuracy
from xseg.classifier.samples import permute_labels
from xseg.classifier.settings import TrainSettings
from xseg.classifier.train import Objective, TrainResult, train_classifier
from xseg.classifier.transfer import start_from_frequencies, transfer_head
from xseg.datasets.index import Dataset
from xseg.device import cores, resolve
from xseg.errors import BadInput, InputMissing, UsageError
from xseg.runs.provenance import provenance
from xseg.runs.reporter import Reporter
from xseg.runs.runtime import Runtime
from xseg.training.checkpoint import Checkpoint
from xseg.training.output import dataset_parent, is_finished, open_checkpoint, publish_network, weights_parent
from xseg.training.together import Together, together


@dataclass(frozen=True)
class ModelOptions:
    """Which network, and from what weights.

    Attributes:
        model: `timm:NAME`, `torchvision:NAME`, `hybrid-vit`, `unet`, `multi-task-unet` or `package.module:factory`;
            None: that of the artifact in `weights`.
        weights: a .safetensors or .pth file, a classifier artifact, `hub` or `none`.
        keep_head: keep the weights' own classes.
        class_names: their names; None: ImageNet's.
        output_stride: of the last feature map; None: the network's own.
        head_bias: whether a new head has a bias.
        head_init: `random`; `prior`: random, with a bias that predicts how often each class occurs; `transfer`: blended
            from the weights' own head (`xseg.classifier.transfer`).
        layer: target layer for heatmaps; None: found.
        options: further arguments of the network's constructor.
        probe: module path of a layer; the network ends there and does not learn, only a linear head on its mean does.
    """

    model: str | None
    weights: str
    keep_head: bool = False
    class_names: tuple[str, ...] | None = None
    output_stride: int | None = None
    head_bias: bool = True
    head_init: Literal["random", "prior", "transfer"] = "random"
    layer: str | None = None
    options: Mapping[str, Scalar] | None = None
    probe: str | None = None


def train(
    dataset: Dataset,
    model: ModelOptions,
    settings: TrainSettings | None,
    validation: Dataset | None,
    runtime: Runtime,
    *,
    random_labels: bool = False,
    objective: Objective = "labels",
) -> TrainResult | None:
    """Train a classifier, or wrap an existing one, and publish it.

    Args:
        dataset: images with image-level labels; for `keep_head` only its location is used.
        model: the network.
        settings: of training; None (`--init-only`) publishes the network as it is.
        validation: measured at the end.
        runtime: shared options.
        random_labels: permute the labels among the training images, for a sanity check of heatmaps.
        objective: learn the `labels`, or without them how far images are turned (`rotation`).

    Returns:
        What training reports; None without training or when the output was there already.

    Raises:
        UsageError, BadInput, InputMissing, Unavailable, CannotCreate, OutputFailed, Stopped: told in the message.
    """
    device = resolve(runtime.device, runtime.rank.local)
    with together(runtime.rank, device) as group:
        run = _Run(runtime.for_rank(), device, group, random_labels, objective)
        return _train(dataset, model, settings, validation, run)


@dataclass(frozen=True)
class _Run:
    """What a training has beside its data and numbers; see `train`."""

    runtime: Runtime
    device: torch.device
    group: Together
    random_labels: bool
    objective: Objective


def _train(
    dataset: Dataset, model: ModelOptions, settings: TrainSettings | None, validation: Dataset | None, run: _Run
) -> TrainResult | None:
    runtime, device, group = run.runtime, run.device, run.group
    if not model.keep_head and run.objective == "labels":
        dataset.require_labels()
        dataset.require_classes(1, "a classifier")
    classifier, origin = _network(dataset, model, run)
    header = _header(dataset, classifier, origin, model, settings, run)
    if run.random_labels:
        dataset = permute_labels(dataset, runtime.seed)
    if settings is not None and model.probe is not None:
        settings = replace(settings, frozen=("trunk",))
    path = runtime.path

    def publish(header: Header, checkpoint: Checkpoint | None) -> None:
        state = classifier.net.state_dict()
        group.first_does(lambda: publish_network(path, header, classifier.config.to_json(), state, checkpoint, runtime))

    if group.first_does(lambda: is_finished(path, header, runtime)):
        return None
    if settings is None:
        _start_head(classifier, dataset, model, runtime, device)
        publish(header, None)
        return None
    checkpoint = group.first_does(lambda: open_checkpoint(path, header, runtime))
    _start_head(classifier, dataset, model, runtime, device)
    result = train_classifier(
        dataset,
        classifier,
        settings,
        validation=validation,
        device=device,
        workers=cores() if runtime.workers is None else runtime.workers,
        checkpoint=checkpoint,
        should_stop=runtime.stop,
        progress=progress_of(runtime.reporter, "train-cls"),
        group=group,
        objective=run.objective,
    )
    trained = {"training": summary(result), "processes": runtime.rank.count}
    publish(replace(header, provenance={**header.provenance, **trained}), checkpoint)
    return result


def _start_head(
    classifier: Classifier, dataset: Dataset, model: ModelOptions, runtime: Runtime, device: torch.device
) -> None:
    if model.head_init == "prior":
        start_from_frequencies(classifier, dataset)
    if model.head_init != "transfer":
        return
    assert model.model is not None  # transfer is refused without one
    former = create_former(model.model, model.class_names, weights=model.weights, options=dict(model.options or {}))
    runtime.reporter.start("head-init", len(dataset))
    transfer_head(
        classifier.to(device),
        former.to(device).eval(),
        dataset,
        workers=cores() if runtime.workers is None else runtime.workers,
        should_stop=runtime.stop,
        progress=runtime.reporter.advance,
    )


def _network(dataset: Dataset, model: ModelOptions, run: _Run) -> tuple[Classifier, Parent]:
    """The network to train or to wrap, and where its weights came from."""
    classes = ROTATIONS if run.objective == "rotation" else dataset.classes
    if is_artifact(model.weights) and (model.model is None or model.probe is not None):
        classifier, origin = _of_artifact(model)
    elif model.model is None:
        raise UsageError("--model is missing", "give one, or with --probe a classifier artifact to --weights")
    else:
        origin = weights_parent(model.weights)
        _refuse_old_head(model)
        if model.head_init == "transfer":
            former_model(model.model, model.weights, dict(model.options or {}))  # refuse before anything is made
        classifier = create(
            model.model,
            model.class_names if model.keep_head else classes,
            weights=model.weights,
            keep_head=model.keep_head,
            output_stride=model.output_stride,
            head_bias=model.head_bias,
            activation="softmax" if run.objective == "rotation" else None,
            layer=model.layer,
            options=dict(model.options or {}),
            seed=run.runtime.seed,
        )
    if model.probe is not None:
        seed = run.runtime.seed
        classifier = attach_probe(classifier, model.probe, classes, head_bias=model.head_bias, seed=seed)
    return classifier, origin


def _refuse_old_head(model: ModelOptions) -> None:
    if is_artifact(model.weights) and (model.keep_head or model.head_init == "transfer"):
        asked = "--keep-head" if model.keep_head else "--head-init transfer"
        raise UsageError(f"{asked}: the head of the artifact {model.weights} is not taken over", "leave it out")


def _of_artifact(model: ModelOptions) -> tuple[Classifier, Parent]:
    if not Path(model.weights).is_file():
        raise InputMissing(f"--weights {model.weights}: no such file", "name weights or an artifact")
    given = model.model is not None or model.output_stride is not None or model.options
    if model.probe is None or given:
        raise UsageError(
            f"--weights {model.weights}: a probed artifact knows its own model, a new network needs one",
            "give --probe LAYER without --model, --output-stride and --set, or --model without --probe",
        )
    _, content, classifier = load_classifier(model.weights, torch.device("cpu"))
    return classifier.lay_out(torch.contiguous_format), Parent("classifier", content)


def _header(
    dataset: Dataset,
    classifier: Classifier,
    origin: Parent,
    model: ModelOptions,
    settings: TrainSettings | None,
    run: _Run,
) -> Header:
    decided: dict[str, Any] = {
        **asdict(model),
        "training": asdict(settings) if settings else None,
        "seed": run.runtime.seed,
    }
    del decided["weights"]  # the parents know them by content
    # A run without these stays the run it was.
    if model.probe is None:
        del decided["probe"]
    if run.random_labels:
        decided["permute_labels"] = True
    if run.objective != "labels":
        decided["objective"] = run.objective
    return Header(
        "classifier",
        classifier.config.classes,
        "train-cls",
        decided,
        parents=(origin, *(() if model.keep_head else (dataset_parent(dataset),))),
        argv=run.runtime.argv,
        provenance=provenance(run.device, dataset),
        root=str(dataset.root.absolute()),
    )


def summary(result: TrainResult) -> dict[str, Any]:
    """What is recorded of a training: steps, time, losses and, if measured, average precisions or accuracies."""
    facts: dict[str, Any] = {"steps": result.steps, "seconds": round(result.seconds, 1), "history": result.history}
    if isinstance(result.validation, Accuracy):
        facts["accuracy"] = result.validation.mean
        facts["accuracies"] = dict(zip(result.classes, result.validation.per_rotation.tolist(), strict=True))
    elif result.validation is not None:
        values = result.validation.average_precision.tolist()
        facts["map"] = result.validation.mean
        facts["ap"] = {
            name: None if value != value else value for name, value in zip(result.classes, values, strict=True)
        }
    return facts


def progress_of(reporter: Reporter, task: str) -> Callable[[int, int, Mapping[str, float]], None]:
    """The training loop's progress as a reporter understands it."""
    told: int | None = None

    def progress(done: int, total: int, values: Mapping[str, float]) -> None:
        nonlocal told
        if told is None:
            told = done
            reporter.start(task, total, told)
        reporter.advance(done - told, " ".join(f"{name} {value:.4f}" for name, value in values.items()))
        told = done

    return progress


def load_classifier(
    source: str, device: torch.device, output_stride: int | None = None
) -> tuple[Header, str, Classifier]:
    """A classifier artifact as a network in evaluation mode.

    Args:
        source: path of the artifact, or `-`.
        device: where the network is wanted.
        output_stride: run it at another output stride than it was trained at; the weights are the same.

    Returns:
        Its header, `content` and the network.

    Raises:
        InputMissing: no such file.
        BadInput: not a classifier, or damaged.
        UsageError: the network does not support the stride.
    """
    header, content, text, state = read_weights(source, "classifier")
    config = ClassifierConfig.from_json(text)
    if output_stride is not None:
        config = replace(config, output_stride=output_stride)
    classifier = build(config)
    try:
        classifier.net.load_state_dict(state)
    except RuntimeError as error:
        raise BadInput(f"{source}: the weights do not fit its config ({str(error).splitlines()[0]})") from error
    if device.type == "cpu":
        classifier.lay_out(classifier.layout)
    return header, content, classifier.to(device).eval()
