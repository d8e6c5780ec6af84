"""The step `explain`: classifier and data set in, heatmaps out."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from xseg.artifacts.header import Header, Parent, WorkList
from xseg.artifacts.record import Record
from xseg.classifier.model import Classifier
from xseg.classifier.step import load_classifier
from xseg.datasets.index import Dataset, Item
from xseg.device import resolve, uses_amp
from xseg.errors import BadInput, Status, UsageError
from xseg.features.bank import Bank
from xseg.heatmaps import methods
from xseg.heatmaps.batches import default_batch_size
from xseg.heatmaps.inference import explain_images
from xseg.heatmaps.neighbour import Contrast, Enters, Mode, shifted
from xseg.heatmaps.prediction import predict_images
from xseg.heatmaps.quantise import quantise, stored_dtype
from xseg.heatmaps.registry import Method, require_served
from xseg.heatmaps.targets import Targets, parse_targets
from xseg.heatmaps.views import MapSize
from xseg.registry import parameters
from xseg.runs.given import Given, jobs_of, reader
from xseg.runs.images import execute
from xseg.runs.provenance import provenance
from xseg.runs.runtime import Runtime

GUIDED = "guided"
_WINDOW = 4  # batches looked ahead, so that images of equal size find each other
_WINDOW_OF_A_LARGE_BANK = 32  # images whose neighbours are looked for each time a bank is read that memory cannot keep


@dataclass(frozen=True)
class ExplainOptions:
    """What decides the heatmaps.

    Attributes:
        method: name of an explanation method, or `guided`: the one that `train-guided` made the classifier for.
        settings: its own parameters as `KEY=VALUE`.
        targets: which classes of an image are explained; None: its labels if known, else what is predicted.
        threshold: probability above which a class counts as predicted.
        size: long side in pixels at scale 1; None: the image as it is.
        scales: factors of that size; the maps are summed.
        flip: also look at the mirrored image.
        map_size: grid of the stored maps.
        layer: module path of the layer to look at; None: the classifier's own.
        output_stride: run the classifier at another output stride than it was trained at; None: at its own.
        dtype: of the stored maps; None: float16, or float32 for signed maps.
        bank: for the targets `ssl`, path of the latent vectors among which a neighbour is looked for.
        neighbour: for the targets `ssl`, whether the neighbour's vector is subtracted or added; None: subtracted.
        neighbour_in: where it plays a part: in the choice of the `class`, or in the explained `latent` vector, too.
    """

    method: str = "cam"
    settings: tuple[str, ...] = ()
    targets: str | None = None
    threshold: float = 0.5
    size: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    map_size: MapSize = "image"
    layer: str | None = None
    output_stride: int | None = None
    dtype: str | None = None
    bank: str | None = None
    neighbour: Mode | None = None
    neighbour_in: Enters = "class"

    def __post_init__(self) -> None:
        contrasts = self.targets == "ssl" and self.neighbour != "none"
        if self.targets != "ssl" and (self.bank is not None or self.neighbour is not None):
            raise UsageError("--bank and --neighbour belong to --targets ssl", "add it, or leave them out")
        if contrasts and self.bank is None:
            raise UsageError(
                "--targets ssl needs --bank, in which neighbours are looked for",
                "make one: xseg features CLASSIFIER DATASET -o bank.h5, or use --neighbour none",
            )
        if not contrasts and (self.bank is not None or self.neighbour_in != "class"):
            raise UsageError("--bank and --neighbour-in: there is no neighbour to use them", "leave them out")
        if contrasts and self.output_stride is not None:
            raise UsageError(
                f"--output-stride {self.output_stride} with --targets ssl: the bank was made at the classifier's own",
                "leave it out",
            )


def explain(source: str, dataset: Dataset, options: ExplainOptions, runtime: Runtime) -> Status:
    """Write the heatmaps of every image.

    Args:
        source: path of the classifier, or `-`.
        dataset: images, with labels if they decide the targets.
        options: what decides the maps.
        runtime: shared options.

    Raises:
        UsageError: unknown method, parameter, layer or target; a method that cannot serve the classifier.
        BadInput: class names that the classifier does not know.
    """
    device = resolve(runtime.device)
    _, content, classifier = load_classifier(source, device, options.output_stride)
    options = _as_trained(options, classifier)
    method = methods.create(options.method, options.settings)
    contrast = _contrast(classifier, content, options)
    with _tried(classifier, contrast, options):
        require_served(method, classifier.full, options.layer)
    labels = Labels(dataset, classifier.config.classes)
    targets = parse_targets(
        options.targets, classifier, dataset_has_labels=dataset.has_labels, threshold=options.threshold
    )
    if targets.needs_labels:
        labels.require()
    parents = (Parent("classifier", content), *([contrast.parent] if contrast else []))
    header = _header(parents, classifier, dataset, method, options, runtime, targets.needs_labels)
    explainer = _Explainer(classifier, method, targets, contrast, options, header, runtime)
    jobs, read = jobs_of(dataset, runtime.shard), reader(dataset, labels.of)
    return execute(runtime, header, jobs, read, explainer, total=len(jobs), batch_size=explainer.window)


def _as_trained(options: ExplainOptions, classifier: Classifier) -> ExplainOptions:
    """With the method that the classifier was trained for in place of `guided`; what is recorded is that."""
    if options.method != GUIDED:
        return options
    if not classifier.config.heatmap:
        raise UsageError(
            f"--method {GUIDED}: this classifier's heatmaps were not trained",
            "make one with: xseg train-guided DATASET, or name a method of: xseg methods",
        )
    method, *own = classifier.config.heatmap
    return replace(options, method=method, settings=(*own, *options.settings))


def _contrast(classifier: Classifier, content: str, options: ExplainOptions) -> Contrast | None:
    if options.bank is None:
        return None
    if classifier.config.background:
        raise UsageError("--targets ssl: this classifier has a logit for the background", "use --targets top1")
    return Contrast(classifier, content, Bank(options.bank), options.neighbour or "difference")


def _tried(classifier: Classifier, contrast: Contrast | None, options: ExplainOptions) -> AbstractContextManager[None]:
    """What a method has to serve: the classifier, or, where the neighbour enters the latent vector, that."""
    enters = contrast is not None and options.neighbour_in == "latent"
    return shifted(classifier, contrast.example()) if contrast and enters else nullcontext()


class Labels:
    """Image-level labels of a data set in the order of a classifier's classes."""

    def __init__(self, dataset: Dataset, classes: Sequence[str]) -> None:
        self._dataset = dataset
        self._classes = classes
        places = {name: place for place, name in enumerate(classes)}
        self.unknown = [name for name in dataset.classes if name not in places]
        self._places = np.array([places.get(name, -1) for name in dataset.classes], np.int64)

    def require(self, owner: str = "classifier", instead: str = "--targets predicted") -> None:
        """Refuse labels that the network does not know.

        Args:
            owner: what the network is, for the message.
            instead: what goes without labels.

        Raises:
            BadInput: a class of the data set is none of the network's, or labels are missing.
        """
        self._dataset.require_labels()
        if self.unknown:
            raise BadInput(
                f"{self._dataset.location}: class {self.unknown[0]!r} is unknown to the {owner}"
                f" ({len(self.unknown)} of {len(self._places)} are)",
                f"use a {owner} trained on these classes, or {instead}",
            )

    def of(self, item: Item) -> np.ndarray:
        """(C,) uint8 in the classifier's order: 1 present, 0 absent, 255 unknown."""
        vector = np.full(len(self._classes), 255, np.uint8)
        if item.labels is None or self.unknown:
            return vector
        vector[self._places] = self._dataset.label_vector(item)
        return vector


class _Explainer:
    """Windows of photographs to records."""

    def __init__(
        self,
        classifier: Classifier,
        method: Method,
        targets: Targets,
        contrast: Contrast | None,
        options: ExplainOptions,
        header: Header,
        runtime: Runtime,
    ) -> None:
        self.batch_size = runtime.batch_size or default_batch_size(classifier)
        self.window = 1 if self.batch_size == 1 else _WINDOW * self.batch_size
        if contrast is not None and not contrast.quick:
            self.window = max(self.window, _WINDOW_OF_A_LARGE_BANK)
        self._classifier, self._method, self._targets, self._options = classifier, method, targets, options
        self._contrast = contrast
        self._dtype = stored_dtype(options.dtype, method.is_signed)
        self._amp, self._seed = header.params["amp"], runtime.seed

    def __call__(self, window: Sequence[Given]) -> list[Record]:
        if self._contrast is None:
            return self._records(window, self._asked(window))
        images, ids, sources = zip(*((given.image, given.job.id, given.source) for given in window), strict=True)
        found = self._contrast.of(images, ids, sources, self.batch_size)
        asked = [(one.target + 1,) for one in found]
        if self._options.neighbour_in == "class":
            return self._records(window, asked)
        records = []
        for given, target, one in zip(window, asked, found, strict=True):  # each image has a shift of its own
            with shifted(self._classifier, one.shift):
                records += self._records([given], [target])
        return records

    def _asked(self, window: Sequence[Given]) -> list[tuple[int, ...]]:
        probabilities: Sequence[np.ndarray | None] = [None] * len(window)
        if self._targets.needs_probabilities:
            images, size = [given.image for given in window], self._options.size
            probabilities = list(
                predict_images(self._classifier, images, size=size, batch_size=self.batch_size, amp=self._amp)
            )
        return [self._targets.of(given.labels, found) for given, found in zip(window, probabilities, strict=True)]

    def _records(self, window: Sequence[Given], asked: Sequence[tuple[int, ...]]) -> list[Record]:
        options = self._options
        maps = explain_images(
            self._classifier,
            self._method,
            [given.image for given in window],
            asked,
            [given.job.id for given in window],
            scales=options.scales,
            flip=options.flip,
            size=options.size,
            map_size=options.map_size,
            seed=self._seed,
            layer=options.layer,
            batch_size=self.batch_size,
            amp=self._amp,
        )
        return [self._record(given, found.maps, found.class_id) for given, found in zip(window, maps, strict=True)]

    def _record(self, given: Given, maps: np.ndarray, class_id: np.ndarray) -> Record:
        values, scale = quantise(maps, self._dtype)
        return given.record({"maps": values, "maps/class_id": class_id.astype(np.int32), "maps/scale": scale})


def _header(
    parents: tuple[Parent, ...],
    classifier: Classifier,
    dataset: Dataset,
    method: Method,
    options: ExplainOptions,
    runtime: Runtime,
    labels_given: bool,
) -> Header:
    device = resolve(runtime.device)
    decided: dict[str, Any] = {
        **asdict(options),
        "settings": parameters(method),
        "dtype": stored_dtype(options.dtype, method.is_signed),
        "amp": uses_amp(device, runtime.amp),
        "seed": runtime.seed,
    }
    del decided["bank"]  # the parents know it by content
    # Runs that have nothing to do with neighbours stay the runs that they were.
    decided["neighbour"] = options.neighbour or "difference"
    if options.targets != "ssl":
        del decided["neighbour"]
    if options.neighbour_in == "class":
        del decided["neighbour_in"]
    return Header(
        "heatmaps",
        classifier.config.classes,
        "explain",
        decided,
        parents=parents,
        argv=runtime.argv,
        extra={
            "signed": method.is_signed,
            "class_specific": method.class_specific,
            "map_size": options.map_size if isinstance(options.map_size, str) else "x".join(map(str, options.map_size)),
        },
        provenance=provenance(device, dataset, labels_given=labels_given),
        root=str(dataset.root.absolute()),
        work=WorkList.of(item.id for item in dataset.items),
        shard=str(runtime.shard) if runtime.shard else "",
    )
