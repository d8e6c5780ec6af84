"""The steps `affinity-train` and `random-walk`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch

from xseg.affinity.colour import colour_affinities
from xseg.affinity.loss import affinities
from xseg.affinity.model import AffinityModel, configure
from xseg.affinity.network import AffinityConfig, AffinityNet
from xseg.affinity.train import AffinitySettings, Samples, train_affinity
from xseg.affinity.walk import random_walk, with_constant_background
from xseg.artifacts.header import Header, Parent
from xseg.artifacts.record import Record
from xseg.artifacts.weights import read_weights
from xseg.classifier.config import ClassifierConfig
from xseg.classifier.model import Classifier, build
from xseg.classifier.step import load_classifier, progress_of
from xseg.device import cores, halving, resolve
from xseg.errors import BadInput, Status
from xseg.heatmaps.quantise import joint_scale, stored_dtype
from xseg.labels.area import exponent
from xseg.labels.area_step import find_thresholds
from xseg.labels.confident import with_background
from xseg.labels.masks import shares
from xseg.labels.shaping import Shaping, shape_maps
from xseg.runs.images import execute
from xseg.runs.photographs import Photograph, Photographs, heatmaps_of
from xseg.runs.provenance import inherited, provenance
from xseg.runs.runtime import Runtime
from xseg.runs.source import RecordSource
from xseg.training.output import is_finished, open_checkpoint, publish_network
from xseg.training.together import Together, together


@dataclass(frozen=True)
class HeadOptions:
    """The AffinityNet's shape; None: as the preset has it."""

    preset: str = "psa"
    layers: tuple[str, ...] | None = None
    widths: tuple[int, ...] | None = None
    features: int | None = None
    groups: int | None = None
    stride: int = 8
    standardise: bool = False
    output_stride: int | None = None


def train(
    inputs: Sequence[str], classifier: str, head: HeadOptions, settings: AffinitySettings, runtime: Runtime
) -> None:
    """Train an AffinityNet on pseudolabels and publish it together with its backbone.

    Raises:
        UsageError: layers the classifier does not have.
        BadInput: other classes than the classifier's, no image with labels.
    """
    device = resolve(runtime.device, runtime.rank.local)
    with together(runtime.rank, device) as group:
        _train(inputs, classifier, head, settings, runtime.for_rank(), device, group)


def _train(
    inputs: Sequence[str],
    classifier: str,
    head: HeadOptions,
    settings: AffinitySettings,
    runtime: Runtime,
    device: torch.device,
    group: Together,
) -> None:
    parent, content, backbone = load_classifier(classifier, device, head.output_stride)
    source = RecordSource(inputs, ["pseudolabels"], allow_missing=runtime.allow_missing, notice=runtime.reporter.note)
    source.require_classes(parent.classes, classifier)
    config = _configured(backbone, head)
    header = Header(
        "affinity",
        parent.classes,
        "affinity-train",
        {
            "head": asdict(config),
            "output_stride": head.output_stride,
            "training": asdict(settings),
            "limit": runtime.limit,
        },
        parents=(source.parent, Parent("classifier", content)),
        argv=runtime.argv,
        provenance=provenance(device) | inherited(source.header),
        root=source.header.root,
    )
    path = runtime.path
    if group.first_does(lambda: is_finished(path, header, runtime)):
        return
    photographs = Photographs(source, runtime)
    samples = Samples(
        [record for record in source if runtime.limit is None or record.index < runtime.limit],
        lambda record: photographs.of(record).image,
        len(parent.classes),
    )
    if not len(samples):
        raise BadInput(f"{inputs[0]}: no image with labels", "make pseudolabels with: xseg crf HEATMAPS")
    torch.manual_seed(settings.seed)
    model = AffinityModel(backbone, AffinityNet(config), finetune=settings.backbone_lr > 0)
    checkpoint = group.first_does(lambda: open_checkpoint(path, header, runtime))
    history = train_affinity(
        model,
        samples,
        settings,
        device=device,
        workers=cores() if runtime.workers is None else runtime.workers,
        checkpoint=checkpoint,
        should_stop=runtime.stop,
        progress=progress_of(runtime.reporter, "affinity-train"),
        group=group,
    )
    trained = {"training": {"history": history}, "processes": runtime.rank.count}
    header = replace(header, provenance={**header.provenance, **trained})
    stored = {
        "classifier": json.loads(backbone.config.to_json()),
        "head": json.loads(config.to_json()),
        "radius": settings.radius,
    }
    text = json.dumps(stored, sort_keys=True)
    group.first_does(lambda: publish_network(path, header, text, model.state_dict(), checkpoint, runtime))


def _configured(backbone: Classifier, head: HeadOptions) -> AffinityConfig:
    return configure(
        backbone,
        name=head.preset,
        layers=head.layers,
        widths=head.widths,
        features=head.features,
        groups=head.groups,
        stride=head.stride,
        standardise=head.standardise,
    )


def load_affinity(source: str, device: torch.device) -> tuple[Header, str, AffinityModel, float]:
    """An affinity artifact as a network in evaluation mode.

    Returns:
        Its header, `content`, the network and the radius it was trained with.

    Raises:
        BadInput: not an affinity artifact, or damaged.
    """
    header, content, text, state = read_weights(source, "affinity")
    try:
        stored = json.loads(text)
        classifier = build(ClassifierConfig.from_json(json.dumps(stored["classifier"])))
        model = AffinityModel(classifier, AffinityNet(AffinityConfig.from_json(json.dumps(stored["head"]))))
        model.load_state_dict(state)
        radius = float(stored["radius"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{source}: the weights do not fit its config ({str(error).splitlines()[0]})") from error
    return header, content, model.to(device).eval(), radius


@dataclass(frozen=True)
class WalkOptions:
    """What decides the walk.

    Attributes:
        beta: power of the affinities.
        steps: the t of T^t.
        alpha: exponent of the background (1 - max)^alpha that walks along; None: none walks. Maps that bring a
            background, as the CRF refines them, walk with theirs.
        background: constant background joined after a walk without one.
        foreground_share: choose `alpha` by area prior: the mean share of an image that beats the background, before
            the walk; None: it is given.
        radius: pairs closer than this; None: as trained.
        colour: weight of the colour distance that multiplies into the affinities; 0: as published, none.
        shares: start from each class's share at a pixel instead of its score.
        flip: average the features with those of the mirrored image.
        shaping: how maps without a background become scores; by default each is divided by its maximum.
        dtype: of the stored maps.
    """

    beta: float = 8.0
    steps: int = 256
    alpha: float | None = 16.0
    background: float = 0.25
    foreground_share: float | None = None
    radius: float | None = None
    colour: float = 0.0
    shares: bool = False
    flip: bool = False
    shaping: Shaping = field(default_factory=Shaping)
    dtype: str | None = None

    @property
    def deciding(self) -> dict[str, object]:
        """For the header; what was not asked for is left out."""
        unused = () if self.foreground_share is not None else ("foreground_share",)
        return {name: value for name, value in asdict(self).items() if name not in unused}


def walk(inputs: Sequence[str], affinity: str, options: WalkOptions, runtime: Runtime) -> Status:
    """Spread every image's heatmaps; the result has the background as class 0 and one scale per image.

    Raises:
        UsageError: an area prior of a stream.
        BadInput: the wrong kinds, class names that differ, or a foreground share that the maps do not allow.
    """
    options = _by_area(inputs, options, runtime)
    device = resolve(runtime.device)
    parent, content, model, trained_radius = load_affinity(affinity, device)
    source = RecordSource(
        inputs, ["heatmaps"], allow_missing=runtime.allow_missing, shard=runtime.shard, notice=runtime.reporter.note
    )
    source.require_classes(parent.classes, affinity)
    options = replace(options, radius=options.radius or trained_radius, dtype=stored_dtype(options.dtype, False))
    header = Header(
        "heatmaps",
        parent.classes,
        "random-walk",
        options.deciding,
        parents=(source.parent, Parent("affinity", content)),
        argv=runtime.argv,
        extra={"signed": False, "class_specific": True, "map_size": "image"},
        provenance=provenance(device) | inherited(source.header),
        root=source.header.root,
        work=source.header.work,
        shard=str(source.shard) if source.shard else "",
    )
    photographs = Photographs(source, runtime)
    walker = _Walker(model, options, device)
    return execute(
        runtime,
        header,
        source,
        photographs.of,
        lambda loaded: halving(lambda some: [walker(one) for one in some], loaded),
        total=len(source.expected),
        carried=lambda: source.failures,
    )


def _by_area(inputs: Sequence[str], options: WalkOptions, runtime: Runtime) -> WalkOptions:
    """The options with the exponent that the area prior chose, where one is wanted."""
    if options.foreground_share is None:
        return options
    found = find_thresholds(
        inputs, (options.foreground_share,), lambda maps: shape_maps(maps, options.shaping), runtime
    )
    if found.own_background:
        raise BadInput(
            f"--foreground-share: {inputs[0]} brings a background, which walks along",
            "weigh it after the walk: xseg crf WALKED --masks --foreground-share",
        )
    return replace(options, alpha=exponent(found.thresholds[0]))


class _Walker:
    """A photograph with its heatmaps to a record of walked maps."""

    def __init__(self, model: AffinityModel, options: WalkOptions, device: torch.device) -> None:
        self._model, self._options, self._device = model, options, device

    @torch.no_grad()
    def __call__(self, photograph: Photograph) -> Record:
        options, record = self._options, photograph.record
        maps, class_id = heatmaps_of(record)
        walked, ids = self._walk(photograph.image, maps.to(self._device), class_id)
        values, scale = joint_scale(walked.cpu().numpy(), str(options.dtype))
        rows = ids.numpy().astype(np.int32)
        return replace(record, arrays={"maps": values, "maps/class_id": rows, "maps/scale": scale})

    def _walk(self, image: np.ndarray, maps: torch.Tensor, class_id: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        options, own = self._options, bool((class_id == 0).any())
        joined = class_id if own else torch.cat([class_id.new_zeros(1), class_id])
        if not len(maps):
            return with_background(maps, 1.0), joined
        start = maps.clamp(min=0) if own else shape_maps(maps, options.shaping)
        if not own and options.alpha is not None:
            start = with_background(start, options.alpha)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(self._device)
        radius, stride = options.radius or 5, self._model.net.config.stride
        if options.shares:
            start = shares(start)
        features = self._model.features_of(self._model.classifier.normalise(pixels), options.flip)[0]
        pairs = affinities(features, radius) ** options.beta
        if options.colour:
            pairs = pairs * colour_affinities(pixels[0].float() / 255, options.colour, stride, radius)
        walked = random_walk(start, pairs, beta=1, steps=options.steps, stride=stride, radius=radius)
        if len(walked) < len(joined):
            walked = with_constant_background(walked, options.background)
        return walked, joined
