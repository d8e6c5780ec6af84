"""The step `train-guided`: images, labels and masks in, a classifier whose heatmaps are segmentations out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from xseg.artifacts.header import Header, Parent
from xseg.classifier.config import Scalar
from xseg.classifier.model import Classifier, create
from xseg.classifier.multi_task import MultiTaskShape
from xseg.classifier.step import ModelOptions, load_classifier, progress_of, summary
from xseg.classifier.train import TrainResult
from xseg.classifier.validation import require_classes
from xseg.datasets.index import Dataset
from xseg.device import cores, resolve
from xseg.errors import BadInput, UsageError
from xseg.guided.losses import SEGMENTATION
from xseg.guided.masks import Regions, chosen_items, masks_parent
from xseg.guided.network import guiding_method, prepared, with_decoder, with_heatmap
from xseg.guided.settings import GuidedSettings
from xseg.guided.terms import Others
from xseg.guided.train import train_guided
from xseg.heatmaps.registry import Method
from xseg.registry import parameters
from xseg.runs.provenance import provenance
from xseg.runs.runtime import Runtime
from xseg.training.output import dataset_parent, is_finished, open_checkpoint, publish_network, weights_parent
from xseg.training.together import Together, together


@dataclass(frozen=True)
class GuidedInputs:
    """What a guided training reads.

    Attributes:
        dataset: the training list.
        split: opens another list of the same data set by name.
        classifier: path of the one to start from; None: `model`.
        model: the network to start from otherwise.
        masks: which images' masks are used, see `xseg.guided.masks.chosen_items`.
        balance: of the draw of a number of masks.
        ignored: where the regions to be ignored are.
        against: paths of classifiers for the loss `diversity`.
        validation: measured at the end.
        layer: module path that heatmaps look at; None: the classifier's own.
        decoder: options of the decoder that the heatmap `segmentation-head` adds to `classifier`.
    """

    dataset: Dataset
    split: Callable[[str], Dataset]
    classifier: str | None
    model: ModelOptions | None
    masks: str
    balance: float = 1.0
    ignored: Path | None = None
    against: Sequence[str] = ()
    validation: Dataset | None = None
    layer: str | None = None
    decoder: Mapping[str, Scalar] | None = None


def train(
    inputs: GuidedInputs, settings: GuidedSettings, background: bool | None, runtime: Runtime, *, at_once: int = 0
) -> TrainResult | None:
    """Train with losses on heatmaps, and publish the classifier.

    Args:
        inputs: data and networks.
        settings: numbers; `background` decides about that.
        background: whether the classifier gets a logit for it; None: where the loss needs one or it has one.
        runtime: shared options.
        at_once: classes of an image whose maps are in memory at once; 0: all.

    Returns:
        What training reports; None when the output was there already.

    Raises:
        UsageError, BadInput, InputMissing, Unavailable, CannotCreate, OutputFailed, Stopped: told in the message.
    """
    device = resolve(runtime.device, runtime.rank.local)
    with together(runtime.rank, device) as group:
        return _train(inputs, settings, background, runtime.for_rank(), at_once, device, group)


def _train(
    inputs: GuidedInputs,
    settings: GuidedSettings,
    background: bool | None,
    runtime: Runtime,
    at_once: int,
    device: torch.device,
    group: Together,
) -> TrainResult | None:
    dataset, path = inputs.dataset, runtime.path
    dataset.require_classes(1, "a classifier")
    _refuse_useless(inputs, settings)
    classifier, origin = _network(inputs, settings, background, runtime.seed)
    settings = replace(settings, background=classifier.config.background)
    classifier = with_heatmap(classifier, settings.heatmap)
    require_classes(dataset, classifier)
    method = guiding_method(settings.heatmap, classifier, settings.loss)
    masked = chosen_items(dataset, inputs.masks, inputs.split, seed=runtime.seed, balance=inputs.balance)
    regions = None if inputs.ignored is None else Regions(inputs.ignored, dataset)
    others, theirs = _others(inputs.against, settings, dataset)
    parents = [origin, dataset_parent(dataset), *theirs]
    parents += [masks_parent(dataset, masked)] if masked else []
    parents += [regions.parent] if regions else []
    header = _header(inputs, settings, classifier, method, tuple(parents), runtime, device)
    if group.first_does(lambda: is_finished(path, header, runtime)):
        return None
    _tell(settings, len(masked), len(dataset), regions, runtime)
    checkpoint = group.first_does(lambda: open_checkpoint(path, header, runtime))
    result = train_guided(
        dataset, masked, classifier, settings, regions=regions, against=others, validation=inputs.validation,
        device=device, workers=cores() if runtime.workers is None else runtime.workers, at_once=at_once,
        checkpoint=checkpoint, should_stop=runtime.stop, progress=progress_of(runtime.reporter, "train-guided"),
        group=group,
    )  # fmt: skip
    trained = {"training": summary(result), "processes": runtime.rank.count, "masks": len(masked)}
    header = replace(header, provenance={**header.provenance, **trained})
    text, state = classifier.config.to_json(), classifier.net.state_dict()
    group.first_does(lambda: publish_network(path, header, text, state, checkpoint, runtime))
    return result


def _refuse_useless(inputs: GuidedInputs, settings: GuidedSettings) -> None:
    if settings.compares != bool(inputs.against):
        raise UsageError(
            f"--loss {settings.loss} {'without' if settings.compares else 'with'} --against",
            "--loss diversity --against CLASSIFIER belong together",
        )
    if settings.compares and inputs.masks != "0":
        raise UsageError(f"--masks {inputs.masks} with --loss diversity: it looks at no mask", "--masks 0")


def _network(
    inputs: GuidedInputs, settings: GuidedSettings, background: bool | None, seed: int
) -> tuple[Classifier, Parent]:
    """The network to train, and where its weights came from."""
    needed = settings.loss in SEGMENTATION
    if inputs.classifier is not None:
        _, content, given = load_classifier(inputs.classifier, torch.device("cpu"))
        given.lay_out(torch.contiguous_format)
        if settings.heatmap[0] == "segmentation-head" and given.config.model != MultiTaskShape.kind:
            given = with_decoder(given, inputs.decoder or {}, seed)
        elif inputs.decoder:
            raise UsageError("CLASSIFIER has a decoder already", "leave --model-set out")
        wanted = (needed or given.config.background) if background is None else background
        return prepared(given, wanted, inputs.layer, seed), Parent("classifier", content)
    model = inputs.model
    if model is None or model.model is None:
        raise UsageError(
            "neither CLASSIFIER nor --model is given", "give one: xseg train-guided DATASET CLASSIFIER -o OUT"
        )
    classifier = create(
        model.model,
        inputs.dataset.classes,
        weights=model.weights,
        output_stride=model.output_stride,
        layer=inputs.layer,
        options=dict(model.options or {}),
        background=needed if background is None else background,
        seed=seed,
    )
    return classifier, weights_parent(model.weights)


def _others(paths: Sequence[str], settings: GuidedSettings, dataset: Dataset) -> tuple[Others, list[Parent]]:
    """The classifiers of `--against`, each with the maps that were trained or else those that are to be."""
    others, parents = [], []
    for path in paths:
        _, content, other = load_classifier(path, torch.device("cpu"))
        try:
            require_classes(dataset, other)
        except BadInput as error:
            raise BadInput(f"--against {path}: {error.problem}", error.hint) from error
        others.append((other, guiding_method(other.config.heatmap or settings.heatmap, other, settings.loss)))
        parents.append(Parent("classifier", content))
    return others, parents


def _header(
    inputs: GuidedInputs,
    settings: GuidedSettings,
    classifier: Classifier,
    method: Method,
    parents: tuple[Parent, ...],
    runtime: Runtime,
    device: torch.device,
) -> Header:
    decided: dict[str, Any] = {
        "guidance": {**asdict(settings), "heatmap": [settings.heatmap[0], parameters(method)]},
        "layer": inputs.layer,
        "seed": runtime.seed,
    }
    if inputs.decoder:
        decided["decoder"] = dict(inputs.decoder)
    if inputs.classifier is None and inputs.model is not None:
        model = asdict(inputs.model)
        decided["model"] = {name: model[name] for name in ("model", "output_stride", "options")}
    return Header(
        "classifier",
        classifier.config.classes,
        "train-guided",
        decided,
        parents=parents,
        argv=runtime.argv,
        provenance=provenance(device, inputs.dataset),
        root=str(inputs.dataset.root.absolute()),
    )


def _tell(settings: GuidedSettings, masked: int, images: int, regions: Regions | None, runtime: Runtime) -> None:
    detail = runtime.reporter.detail
    detail(f"{masked} of {images} images bring their mask")
    if regions is not None:
        detail(f"{len(regions)} of {images} images have a region to be ignored")
    elif not masked and not settings.compares:
        runtime.reporter.note("no image brings a mask or a region: nothing guides the heatmaps")
