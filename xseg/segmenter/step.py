"""The step `train-seg`: masks or confident labels in, segmenter out; and reading a segmenter back."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from xseg.artifacts.header import Header, Parent
from xseg.artifacts.record import Record
from xseg.artifacts.weights import is_artifact, read_weights
from xseg.classifier.config import Scalar
from xseg.classifier.model import Classifier
from xseg.classifier.model import create as create_classifier
from xseg.classifier.step import load_classifier, progress_of
from xseg.datasets.index import Dataset
from xseg.device import cores, resolve
from xseg.errors import BadInput, UsageError
from xseg.runs.photographs import Photographs
from xseg.runs.provenance import inherited, provenance
from xseg.runs.runtime import Runtime
from xseg.runs.source import RecordSource
from xseg.segmenter.config import SegmenterConfig
from xseg.segmenter.network import HeadOptions, Segmenter, create, rebuild
from xseg.segmenter.samples import LABEL_MAPS, Samples
from xseg.segmenter.settings import SegmenterSettings
from xseg.segmenter.train import train_segmenter
from xseg.segmenter.validation import MeanIou, require_every_mask, validate
from xseg.training.output import dataset_parent, is_finished, open_checkpoint, publish_network, weights_parent
from xseg.training.together import Together, together


@dataclass(frozen=True)
class NetworkOptions:
    """Which network, and from what weights.

    Attributes:
        model: of the backbone, as for `train-cls`; None: that of the artifact in `weights`.
        weights: a .safetensors or .pth file, `hub`, `none`, or a classifier artifact.
        output_stride: of the backbone's last features; None: its own.
        options: further arguments of its constructor.
        head: the head.
    """

    model: str | None
    weights: str
    output_stride: int | None = None
    options: Mapping[str, Scalar] = field(default_factory=dict)
    head: HeadOptions = field(default_factory=HeadOptions)


@dataclass(frozen=True)
class Training:
    """What is learned from, and what is held out.

    Attributes:
        masks: artifact of masks or pseudolabels.
        chosen: only its images are learned from; None: all that have masks.
        held_out: images with true masks, measured at the end and never learned from.
        confidence: artifact of heatmaps with a background, whose shares weigh the pixels; None: no such weights.
    """

    masks: str
    chosen: Dataset | None = None
    held_out: Dataset | None = None
    confidence: str | None = None


@dataclass(frozen=True)
class Trained:
    """What training reports.

    Attributes:
        history: one entry per epoch.
        validation: None without images held out.
    """

    history: list[dict[str, float]]
    validation: MeanIou | None

    def facts(self) -> dict[str, Any]:
        """As JSON: `history`, and if measured `miou` and `per_class_iou`, null for a class that is nowhere."""
        found: dict[str, Any] = {"history": self.history}
        if self.validation is not None:
            per_class = {name: x if x == x else None for name, x in self.validation.per_class.items()}
            mean = self.validation.mean
            scores = {"miou": mean if mean == mean else None, "per_class_iou": per_class}
            found |= {**scores, "validation_images": self.validation.images}
        return found


def train(training: Training, network: NetworkOptions, settings: SegmenterSettings, runtime: Runtime) -> Trained | None:
    """Train a segmenter on masks and publish it.

    Returns:
        What training reports; None when the output was there already.

    Raises:
        UsageError: options that do not fit together, or images that are both learned from and held out.
        BadInput: the wrong kind of artifact, other classes, nothing to learn from.
        InputMissing, Unavailable, CannotCreate, OutputFailed, Stopped: told in the message.
    """
    device = resolve(runtime.device, runtime.rank.local)
    with together(runtime.rank, device) as group:
        return _train(training, network, settings, runtime.for_rank(), device, group)


def _train(
    training: Training,
    network: NetworkOptions,
    settings: SegmenterSettings,
    runtime: Runtime,
    device: torch.device,
    group: Together,
) -> Trained | None:
    source = RecordSource(
        [training.masks], list(LABEL_MAPS), allow_missing=runtime.allow_missing, notice=runtime.reporter.note
    )
    classes = source.header.classes
    maps = _confidence(training, classes, runtime)
    for dataset in (training.chosen, training.held_out):
        if dataset is not None:
            source.require_classes(dataset.classes, str(dataset.location))
    if training.held_out is not None:
        require_every_mask(training.held_out)
    classifier, origin = _backbone(network, classes, settings.seed)
    segmenter = create(classifier, classes, network.head, settings.seed)
    header = _header((source, maps), segmenter.config, origin, training, settings, runtime, device)
    path = runtime.path
    if group.first_does(lambda: is_finished(path, header, runtime)):
        return None
    photographs = Photographs(source, runtime)
    samples = Samples(
        _wanted(source, training, runtime),
        lambda record: photographs.of(record).image,
        len(classes),
        weighted=settings.weighting == "confidence",
        heatmaps=maps,
    )
    checkpoint = group.first_does(lambda: open_checkpoint(path, header, runtime))
    history = train_segmenter(
        segmenter,
        samples,
        settings,
        device=device,
        workers=cores() if runtime.workers is None else runtime.workers,
        checkpoint=checkpoint,
        should_stop=runtime.stop,
        progress=progress_of(runtime.reporter, "train-seg"),
        group=group,
    )
    measured = None
    if training.held_out is not None:
        measured = validate(training.held_out, segmenter, amp=settings.amp, should_stop=runtime.stop, group=group)
    trained = Trained(history, measured)
    known = {"training": trained.facts(), "processes": runtime.rank.count, "images": len(samples)}
    header = replace(header, provenance={**header.provenance, **known})
    state, config = segmenter.state_dict(), segmenter.config.to_json()
    group.first_does(lambda: publish_network(path, header, config, state, checkpoint, runtime))
    return trained


def _confidence(training: Training, classes: tuple[str, ...], runtime: Runtime) -> RecordSource | None:
    """The heatmaps that weigh the pixels, where there are any."""
    if training.confidence is None:
        return None
    if training.confidence == training.masks == "-":
        raise UsageError("MASKS and --confidence are both '-', standard input can be read once", "save one to a file")
    maps = RecordSource([training.confidence], ["heatmaps"], allow_missing=True, notice=runtime.reporter.note)
    maps.require_classes(classes, training.masks)
    return maps


def _backbone(network: NetworkOptions, classes: tuple[str, ...], seed: int) -> tuple[Classifier, Parent]:
    """The classifier whose features are read, and where its weights came from."""
    if is_artifact(network.weights):
        if network.model is not None or network.options:
            raise UsageError(
                f"--weights {network.weights}: a classifier artifact knows its own model",
                "leave --model and --set out",
            )
        _, content, classifier = load_classifier(network.weights, torch.device("cpu"), network.output_stride)
        return classifier.lay_out(torch.contiguous_format), Parent("classifier", content)
    if network.model is None:
        raise UsageError("--model is missing", "give one, or a classifier artifact to --weights")
    made = create_classifier(
        network.model,
        classes,
        weights=network.weights,
        output_stride=network.output_stride,
        options=dict(network.options),
        seed=seed,
    )
    return made, weights_parent(network.weights)


def _wanted(source: RecordSource, training: Training, runtime: Runtime) -> Iterator[Record]:
    """The records to learn from, in order; a stream is read to its end.

    Raises:
        BadInput: none of them, or images that were chosen and have no mask.
        UsageError: one of them is held out.
    """
    chosen = None if training.chosen is None else set(training.chosen.by_id)
    held_out = set() if training.held_out is None else set(training.held_out.by_id)
    seen: set[str] = set()
    for record in source:
        if (chosen is not None and record.id not in chosen) or (runtime.limit and len(seen) >= runtime.limit):
            continue
        if record.id in held_out:
            raise UsageError(
                f"{record.id} is among the images that validation holds out, and {training.masks} has a mask of it",
                "name a DATASET and its --split to learn from others only",
            )
        seen.add(record.id)
        yield record
    absent = sorted((chosen or set()) - seen - {failure.id for failure in source.failures})
    if absent and not runtime.limit and not runtime.allow_missing:
        raise BadInput(
            f"{training.masks}: has no mask of {absent[0]!r} ({len(absent)} of {len(chosen or ())} images absent)",
            "make masks of the whole --split, or go on without them with --allow-missing",
        )


def _header(
    sources: tuple[RecordSource, RecordSource | None],
    config: SegmenterConfig,
    origin: Parent,
    training: Training,
    settings: SegmenterSettings,
    runtime: Runtime,
    device: torch.device,
) -> Header:
    network = {key: value for key, value in asdict(config).items() if key != "classes"}
    decided: dict[str, Any] = {"network": network, "training": asdict(settings), "limit": runtime.limit}
    chosen = () if training.chosen is None else (_images_of(training.chosen),)
    source, maps = sources
    weighing = () if maps is None else (maps.parent,)
    return Header(
        "segmenter",
        config.classes,
        "train-seg",
        decided,
        parents=(source.parent, origin, *chosen, *weighing),
        argv=runtime.argv,
        provenance=provenance(device) | inherited(source.header),
        root=source.header.root,
    )


def _images_of(dataset: Dataset) -> Parent:
    # Its labels and masks are not looked at.
    return dataset_parent(replace(dataset, items=tuple(replace(item, labels=None) for item in dataset.items)))


def load_segmenter(source: str, device: torch.device) -> tuple[Header, str, Segmenter]:
    """A segmenter artifact as a network in evaluation mode.

    Args:
        source: path of the artifact, or `-`.
        device: where the network is wanted.

    Returns:
        Its header, `content` and the network.

    Raises:
        InputMissing: no such file.
        BadInput: not a segmenter, or damaged.
    """
    header, content, text, state = read_weights(source, "segmenter")
    config = SegmenterConfig.from_json(text)
    if config.classes != header.classes:
        raise BadInput(f"{source}: its config has other classes than its header", "make it again: xseg train-seg")
    segmenter = rebuild(config)
    try:
        segmenter.load_state_dict(state)
    except RuntimeError as error:
        raise BadInput(f"{source}: the weights do not fit its config ({str(error).splitlines()[0]})") from error
    if device.type == "cpu":
        segmenter.to(memory_format=segmenter.backbone.classifier.layout)  # type: ignore[call-overload]
    return header, content, segmenter.to(device).eval()
