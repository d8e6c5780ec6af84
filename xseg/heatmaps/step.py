"""The step `explain`: classifier and data set in, heatmaps out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from xseg.artifacts.header import Header, Parent, WorkList
from xseg.artifacts.record import Record
from xseg.classifier.model import Classifier
from xseg.classifier.step import load_classifier
from xseg.datasets.index import Dataset, Item
from xseg.device import resolve, uses_amp
from xseg.errors import BadInput, Status
from xseg.heatmaps import methods
from xseg.heatmaps.batches import device_of
from xseg.heatmaps.inference import explain_images
from xseg.heatmaps.prediction import predict_images
from xseg.heatmaps.quantise import quantise, stored_dtype
from xseg.heatmaps.registry import Method, require_served
from xseg.heatmaps.targets import Targets, parse_targets
from xseg.heatmaps.views import MapSize
from xseg.registry import parameters
from xseg.runs.images import execute
from xseg.runs.provenance import provenance
from xseg.runs.runtime import Runtime

BATCH_SIZE = 8
_WINDOW = 4  # batches looked ahead, so that images of equal size find each other


@dataclass(frozen=True)
class ExplainOptions:
    """What decides the heatmaps.

    Attributes:
        method: name of an explanation method.
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


@dataclass(frozen=True)
class _Job:
    index: int
    item: Item

    @property
    def id(self) -> str:
        return self.item.id


@dataclass(frozen=True)
class _Photograph:
    job: _Job
    image: np.ndarray
    source: str
    labels: np.ndarray


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
    method = methods.create(options.method, options.settings)
    require_served(method, classifier, options.layer)
    labels = Labels(dataset, classifier.config.classes)
    targets = parse_targets(
        options.targets, classifier, dataset_has_labels=dataset.has_labels, threshold=options.threshold
    )
    if targets.needs_labels:
        labels.require()
    header = _header(content, classifier, dataset, method, options, runtime, targets.needs_labels)
    explainer = _Explainer(classifier, method, targets, options, header, runtime)
    positions = runtime.shard.range(len(dataset)) if runtime.shard else range(len(dataset))

    def load(job: _Job) -> _Photograph:
        image, digest = dataset.read_verified(job.item)
        return _Photograph(job, image, digest, labels.of(job.item))

    return execute(
        runtime,
        header,
        [_Job(index, dataset.items[index]) for index in positions],
        load,
        explainer,
        total=len(positions),
        batch_size=explainer.window,
    )


class Labels:
    """Image-level labels of a data set in the order of a classifier's classes."""

    def __init__(self, dataset: Dataset, classes: Sequence[str]) -> None:
        self._dataset = dataset
        self._classes = classes
        places = {name: place for place, name in enumerate(classes)}
        self.unknown = [name for name in dataset.classes if name not in places]
        self._places = np.array([places.get(name, -1) for name in dataset.classes], np.int64)

    def require(self) -> None:
        """Refuse labels that the classifier does not know.

        Raises:
            BadInput: a class of the data set is none of the classifier's, or labels are missing.
        """
        self._dataset.require_labels()
        if self.unknown:
            raise BadInput(
                f"{self._dataset.location}: class {self.unknown[0]!r} is unknown to the classifier"
                f" ({len(self.unknown)} of {len(self._places)} are)",
                "use a classifier trained on these classes, or --targets predicted",
            )

    def of(self, item: Item) -> np.ndarray:
        """(C,) uint8 in the classifier's order: 1 present, 0 absent, 255 unknown."""
        vector = np.full(len(self._classes), 255, np.uint8)
        if item.labels is None or self.unknown:
            return vector
        vector[self._places] = self._dataset.label_vector(item)
        return vector


def _default_batch_size(classifier: Classifier) -> int:
    # On a CPU several images at once are no faster, take gigabytes, and change the last bits of the result, so that
    # shards would not join to the bytes of the whole.
    return 1 if device_of(classifier).type == "cpu" else BATCH_SIZE


class _Explainer:
    """Windows of photographs to records."""

    def __init__(
        self,
        classifier: Classifier,
        method: Method,
        targets: Targets,
        options: ExplainOptions,
        header: Header,
        runtime: Runtime,
    ) -> None:
        self.batch_size = runtime.batch_size or _default_batch_size(classifier)
        self.window = 1 if self.batch_size == 1 else _WINDOW * self.batch_size
        self._classifier, self._method, self._targets, self._options = classifier, method, targets, options
        self._dtype = stored_dtype(options.dtype, method.is_signed)
        self._amp, self._seed = header.params["amp"], runtime.seed

    def __call__(self, window: Sequence[_Photograph]) -> list[Record]:
        options = self._options
        images = [photograph.image for photograph in window]
        probabilities: Sequence[np.ndarray | None] = [None] * len(window)
        if self._targets.needs_probabilities:
            probabilities = list(
                predict_images(self._classifier, images, size=options.size, batch_size=self.batch_size, amp=self._amp)
            )
        asked = [
            self._targets.of(photograph.labels, probability)
            for photograph, probability in zip(window, probabilities, strict=True)
        ]
        maps = explain_images(
            self._classifier,
            self._method,
            images,
            asked,
            [photograph.job.id for photograph in window],
            scales=options.scales,
            flip=options.flip,
            size=options.size,
            map_size=options.map_size,
            seed=self._seed,
            layer=options.layer,
            batch_size=self.batch_size,
            amp=self._amp,
        )
        return [
            self._record(photograph, found.maps, found.class_id) for photograph, found in zip(window, maps, strict=True)
        ]

    def _record(self, photograph: _Photograph, maps: np.ndarray, class_id: np.ndarray) -> Record:
        values, scale = quantise(maps, self._dtype)
        height, width = photograph.image.shape[:2]
        item = photograph.job.item
        arrays = {"maps": values, "maps/class_id": class_id.astype(np.int32), "maps/scale": scale}
        return Record(
            photograph.job.index, item.id, item.path, (height, width), photograph.source, photograph.labels, arrays
        )


def _header(
    content: str,
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
    return Header(
        "heatmaps",
        classifier.config.classes,
        "explain",
        decided,
        parents=(Parent("classifier", content),),
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
