"""The step `train-cls`: image-level labels in, classifier out; and reading a classifier back."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from xseg.artifacts.header import Header
from xseg.artifacts.weights import read_weights
from xseg.classifier.config import ClassifierConfig, Scalar
from xseg.classifier.model import Classifier, build, create, create_former
from xseg.classifier.samples import permute_labels
from xseg.classifier.settings import TrainSettings
from xseg.classifier.train import TrainResult, train_classifier
from xseg.classifier.transfer import transfer_head
from xseg.datasets.index import Dataset
from xseg.device import cores, resolve
from xseg.errors import BadInput
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
        model: `timm:NAME`, `torchvision:NAME`, `hybrid-vit` or `package.module:factory`.
        weights: a .safetensors or .pth file, `hub` or `none`.
        keep_head: keep the weights' own classes.
        class_names: their names; None: ImageNet's.
        output_stride: of the last feature map; None: the network's own.
        head_bias: whether a new head has a bias.
        head_init: `random`, or `transfer`: blended from the weights' own head (`xseg.classifier.transfer`).
        layer: target layer for heatmaps; None: found.
        options: further arguments of the network's constructor.
    """

    model: str
    weights: str
    keep_head: bool = False
    class_names: tuple[str, ...] | None = None
    output_stride: int | None = None
    head_bias: bool = True
    head_init: Literal["random", "transfer"] = "random"
    layer: str | None = None
    options: Mapping[str, Scalar] | None = None


def train(
    dataset: Dataset,
    model: ModelOptions,
    settings: TrainSettings | None,
    validation: Dataset | None,
    runtime: Runtime,
    *,
    random_labels: bool = False,
) -> TrainResult | None:
    """Train a classifier, or wrap an existing one, and publish it.

    Args:
        dataset: images with image-level labels; for `keep_head` only its location is used.
        model: the network.
        settings: of training; None (`--init-only`) publishes the network as it is.
        validation: measured at the end.
        runtime: shared options.
        random_labels: permute the labels among the training images, for a sanity check of heatmaps.

    Returns:
        What training reports; None without training or when the output was there already.

    Raises:
        UsageError, BadInput, InputMissing, Unavailable, CannotCreate, OutputFailed, Stopped: told in the message.
    """
    device = resolve(runtime.device, runtime.rank.local)
    with together(runtime.rank, device) as group:
        return _train(dataset, model, settings, validation, runtime.for_rank(), device, group, random_labels)


def _train(
    dataset: Dataset,
    model: ModelOptions,
    settings: TrainSettings | None,
    validation: Dataset | None,
    runtime: Runtime,
    device: torch.device,
    group: Together,
    random_labels: bool,
) -> TrainResult | None:
    if not model.keep_head:
        dataset.require_labels()
        dataset.require_classes(1, "a classifier")
    classifier = create(
        model.model,
        model.class_names if model.keep_head else dataset.classes,
        weights=model.weights,
        keep_head=model.keep_head,
        output_stride=model.output_stride,
        head_bias=model.head_bias,
        layer=model.layer,
        options=dict(model.options or {}),
        seed=runtime.seed,
    )
    header = _header(dataset, classifier, model, settings, runtime, device, random_labels)
    if random_labels:
        dataset = permute_labels(dataset, runtime.seed)
    path = runtime.path

    def publish(header: Header, checkpoint: Checkpoint | None) -> None:
        state = classifier.net.state_dict()
        group.first_does(lambda: publish_network(path, header, classifier.config.to_json(), state, checkpoint, runtime))

    if group.first_does(lambda: is_finished(path, header, runtime)):
        return None
    if settings is None:
        if model.head_init == "transfer":
            _transfer(classifier, dataset, model, runtime, device)
        publish(header, None)
        return None
    checkpoint = group.first_does(lambda: open_checkpoint(path, header, runtime))
    if model.head_init == "transfer":
        _transfer(classifier, dataset, model, runtime, device)
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
    )
    trained = {"training": summary(result, dataset.classes), "processes": runtime.rank.count}
    publish(replace(header, provenance={**header.provenance, **trained}), checkpoint)
    return result


def _transfer(
    classifier: Classifier, dataset: Dataset, model: ModelOptions, runtime: Runtime, device: torch.device
) -> None:
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


def _header(
    dataset: Dataset,
    classifier: Classifier,
    model: ModelOptions,
    settings: TrainSettings | None,
    runtime: Runtime,
    device: torch.device,
    random_labels: bool,
) -> Header:
    decided: dict[str, Any] = {
        **asdict(model),
        "training": asdict(settings) if settings else None,
        "seed": runtime.seed,
    }
    del decided["weights"]  # the parents know them by content
    if random_labels:  # a run without it stays the run it was
        decided["permute_labels"] = True
    return Header(
        "classifier",
        classifier.config.classes,
        "train-cls",
        decided,
        parents=(weights_parent(model.weights), *(() if model.keep_head else (dataset_parent(dataset),))),
        argv=runtime.argv,
        provenance=provenance(device, dataset),
        root=str(dataset.root.absolute()),
    )


def summary(result: TrainResult, classes: tuple[str, ...]) -> dict[str, Any]:
    """What is recorded of a training: steps, time, losses and, if measured, average precisions."""
    facts: dict[str, Any] = {"steps": result.steps, "seconds": round(result.seconds, 1), "history": result.history}
    if result.validation is not None:
        values = result.validation.average_precision.tolist()
        facts["map"] = result.validation.mean
        facts["ap"] = {name: None if value != value else value for name, value in zip(classes, values, strict=True)}
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
