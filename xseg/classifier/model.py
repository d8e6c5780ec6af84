"""The classifier: an unmodified network, and what one must know to feed it and to read its logits."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from xseg.classifier.capture import module_at
from xseg.classifier.checkpoints import find_network
from xseg.classifier.config import Activation, ClassifierConfig, Scalar
from xseg.classifier.linear_probe import LinearProbe, probe_name, probed
from xseg.classifier.own import OwnKind
from xseg.classifier.probe import find_head, find_layer, trace
from xseg.classifier.sides import nearest, refused_steps
from xseg.classifier.sources import (
    Source,
    construct,
    hub_state,
    imagenet_names,
    parse_source,
    preprocessing,
    published_weights,
    resolved_options,
)
from xseg.classifier.weights import load_into, read_weights
from xseg.datasets.transforms import zero_padding
from xseg.errors import BadInput, UsageError
from xseg.seeding import key_seed

BACKGROUND = "background"


class Classifier(nn.Module):
    """A network with its config.

    Args:
        config: what rebuilds it.
        net: the timm, torchvision or user module, unmodified, with its own state-dict keys.
    """

    def __init__(self, config: ClassifierConfig, net: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N,C) of normalised images (N,3,H,W); a logit of the background is left out.

        Raises:
            ValueError: the network returned another shape.
        """
        logits = self.net(images)
        if logits.ndim == 4 and logits.shape[2:] == (1, 1):
            logits = logits.flatten(1)
        needed = (len(images), self.config.logits)
        if logits.shape != needed:
            raise ValueError(f"logits have shape {tuple(logits.shape)}, needed {needed} = (N, C)")
        return logits[:, 1:] if self.config.background else logits

    @cached_property
    def full(self) -> "Classifier":
        """The same network with the background, if it has a logit for it, as its first class among the others.

        Explanation methods are asked about this one, so that the background is a class like any other to them. A class
        id k belongs to its logit k - 1 + `config.background`.
        """
        config = self.config
        if not config.background:
            return self
        return Classifier(replace(config, classes=(BACKGROUND, *config.classes), background=False), self.net)

    def normalise(self, images: Tensor) -> Tensor:
        """RGB (N,3,H,W), uint8 or float in [0, 1], as the float32 input of the network: (x - mean) / std."""
        values = images.float() / 255 if images.dtype == torch.uint8 else images
        mean = torch.tensor(self.config.mean, dtype=values.dtype, device=values.device).view(1, -1, 1, 1)
        std = torch.tensor(self.config.std, dtype=values.dtype, device=values.device).view(1, -1, 1, 1)
        return (values - mean) / std

    def prepared(self, images: Tensor, valid: Tensor) -> Tensor:
        """Crops (N,3,h,w) uint8 as the network learns from them: normalised, 0 outside of the boxes `valid` (N,4)."""
        return zero_padding(self.normalise(images), valid).contiguous(memory_format=self.layout)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities (N,C) in [0, 1] of logits (N,C), by the recorded activation."""
        return logits.sigmoid() if self.config.activation == "sigmoid" else logits.softmax(1)

    @property
    def layout(self) -> torch.memory_format:
        """The memory layout that is fast: channels last, a third to a half less time per pass on a CPU.

        A user's network may rely on the usual one (`view`), so it keeps it.
        """
        known = parse_source(probed(self.config.model)[0]).kind != "factory"
        return torch.channels_last if known else torch.contiguous_format

    @property
    def fresh(self) -> list[str]:
        """Module paths of what learns at the rate of a new head: the head, and the decoder of a U-Net."""
        model, layer = probed(self.config.model)
        own = parse_source(model).own if layer is None else None
        return [self.config.head, *(own.fresh if own else ())]

    def lay_out(self, layout: torch.memory_format) -> "Classifier":
        """Bring the weights into `layout`; values and keys stay."""
        self.to(memory_format=layout)  # type: ignore[call-overload]
        return self

    @property
    def head(self) -> nn.Module:
        """The linear layer (weight (C,K)) or 1x1 convolution (weight (C,K,1,1)) that makes the logits."""
        return self.net.get_submodule(self.config.head)


def build(config: ClassifierConfig, seed: int = 0) -> Classifier:
    """A fresh classifier from its config alone: no network access; load its weights into `.net`.

    Args:
        config: the recipe.
        seed: of the weights that it has until then.

    Raises:
        UsageError, Unavailable: the model cannot be constructed here.
        BadInput: `config.layer` or `config.head` is not a module of it.
    """
    model, layer = probed(config.model)
    net = _construct(parse_source(model), config, trusted=False, seed=seed)
    if layer is not None:
        net = LinearProbe(net, layer, config.logits, config.input_size)
    classifier = Classifier(config, net)
    for path in (config.layer, config.head):
        try:
            module_at(classifier.net, path)
        except UsageError as error:
            raise BadInput(f"classifier config: {config.model} has no module {path!r}", error.hint) from error
    _drop_bias(classifier)
    return classifier


def create(
    model: str,
    classes: Sequence[str] | None,
    *,
    weights: str,
    keep_head: bool = False,
    output_stride: int | None = None,
    head_bias: bool = True,
    activation: Activation | None = None,
    layer: str | None = None,
    input_size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    options: dict[str, Scalar] | None = None,
    background: bool = False,
    seed: int = 0,
) -> Classifier:
    """A classifier for new classes, or with the weights' own classes.

    Args:
        model: `timm:NAME` (the prefix may be left out), `torchvision:NAME`, `hybrid-vit`, `unet` or
            `package.module:factory`; a factory is called as `factory(num_classes=C, **options)`.
        classes: class names. With `keep_head` the names of the weights' own classes, or None for ImageNet's, and for
            the cluster heads of self-supervised networks "cluster 0" and so on.
        weights: a .safetensors or .pth file, `hub` (download) or `none` (random); for a hybrid or a U-Net those of
            its stem or encoder, or of all of it.
        keep_head: keep the weights' head instead of drawing a new one from N(0, 0.01^2).
        output_stride: stride of the last feature map in pixels.
        head_bias: False gives a new head without bias, as in psa (Ahn and Kwak, CVPR 2018).
        activation: default `sigmoid` for a new head, `softmax` for a kept one.
        layer: target layer for heatmaps; found by probing if None.
        input_size: height, width; default what the published weights expect. Likewise `mean` and `std`.
        mean: per channel for RGB in [0, 1].
        std: per channel for RGB in [0, 1].
        options: keyword arguments for the constructor; see `HybridShape` and `UNetShape`.
        background: one more logit for the background, the first; for a new head.
        seed: of the random weights.

    Raises:
        UsageError: unknown model, layer or unsupported output stride; class names missing or not unique.
        InputMissing: no such weights file.
        BadInput: the weights do not fit, or their number of classes is not that of the names.
        Unavailable: a download failed, or a factory cannot be imported.
    """
    source = parse_source(model)
    if keep_head and weights == "none":
        raise UsageError("--keep-head with --weights none: there is no head to keep", "give weights")
    if classes is None and not keep_head:
        raise UsageError("class names are needed for a new head", "give a dataset, or --keep-head")
    config = ClassifierConfig(
        model=str(source),
        classes=_unique(classes or [str(index) for index in range(1000)]),
        activation=activation or ("softmax" if keep_head else "sigmoid"),
        output_stride=output_stride,
        head_bias=head_bias,
        options=resolved_options(source, options or {}),
        background=background,
    )
    net = _construct(source, config, trusted=True, seed=seed)
    given = preprocessing(source, net)
    config = replace(config, input_size=input_size or given.input_size, mean=mean or given.mean, std=std or given.std)
    config = _probed(config, net, layer, source.own)
    state, clusters = _weights(published_weights(source, config.options), weights, net, config.head)
    if keep_head and state is not None:
        if source.own and not source.own.is_whole(state):
            raise UsageError(
                f"--keep-head: {weights} has the head of the {source.own.part}",
                f"needed weights of a whole {source.kind}",
            )
        config = _kept(config, state, classes, weights, clusters)
        net = _construct(source, config, trusted=True)
    classifier = Classifier(config, net)
    if not keep_head:
        _draw_head(classifier.head, seed)
    _drop_bias(classifier)
    if state is not None:
        load = source.own.load if source.own else load_into
        load(net, state, weights, None if keep_head else config.head)
    return classifier


def create_former(
    model: str, class_names: Sequence[str] | None, *, weights: str, options: dict[str, Scalar] | None = None
) -> Classifier:
    """The classifier that the weights of a new one come from, with its own head; of a hybrid's stem, the stem's.

    Refuses weights whose head reads what the new one does not: see `former_model`.

    Args:
        model: as in `create`.
        class_names: names of the weights' own classes; None: ImageNet's.
        weights: a file or `hub`.
        options: as in `create`.

    Raises:
        UsageError, InputMissing, BadInput, Unavailable: as `create`.
    """
    former = former_model(model, weights, options)
    return create(former, class_names, weights=weights, keep_head=True, options=options if former == model else None)


def former_model(model: str, weights: str, options: dict[str, Scalar] | None = None) -> str:
    """What `--model` of the classifier is that weights come from: `model`, or that of its stem.

    Raises:
        UsageError: the weights are an encoder's, whose head reads other features than the new one.
        InputMissing, BadInput, Unavailable: as `create`.
    """
    source = parse_source(model)
    published = published_weights(source, options or {})
    if published == source or source.own is None or source.own.is_whole(_read(published, weights) or {}):
        return model
    if not source.own.reads_part:
        raise UsageError(
            f"--head-init transfer: the head in {weights} reads the {source.own.part}, that of {source} does not",
            f"leave it out, or give weights of a whole {source}",
        )
    return str(published)


def attach_probe(
    classifier: Classifier, layer: str, classes: Sequence[str], *, head_bias: bool = True, seed: int = 0
) -> Classifier:
    """A linear probe: `classifier` ends at `layer`, and a new sigmoid head reads the mean of its output.

    Args:
        classifier: its network becomes part of the probe, without what comes after the layer.
        layer: module path before the head.
        classes: class names of the new head.
        head_bias: whether it has a bias.
        seed: of its random weights.

    Raises:
        UsageError: no such layer, one that is never run, or the head; class names that are not unique.
    """
    config = classifier.config
    model, already = probed(config.model)
    if already is not None:
        raise UsageError(f"--probe {layer}: this network is a probe itself, at {already}", "probe what it was made of")
    head = classifier.head  # before it is taken out
    probe = LinearProbe(classifier.net, layer, len(classes), config.input_size)
    if any(module is head for module in probe.modules()):
        raise UsageError(
            f"--probe {layer}: the head {config.head} is part of it, and says nothing of other classes",
            "choose a layer before the head",
        )
    config = replace(
        config,
        model=probe_name(layer, model),
        classes=_unique(classes),
        activation="sigmoid",
        head_bias=head_bias,
        layer="trunk",
        head="head",
    )
    made = Classifier(config, probe)
    _draw_head(made.head, seed)
    _drop_bias(made)
    return made


def _read(source: Source, weights: str) -> dict[str, Tensor] | None:
    if weights == "none":
        return None
    return hub_state(source) if weights == "hub" else read_weights(Path(weights))


def _weights(source: Source, weights: str, net: nn.Module, head: str) -> tuple[dict[str, Tensor] | None, bool]:
    """The tensors to load, and whether their head sorts into clusters without names."""
    state = _read(source, weights)
    if state is None or weights == "hub":
        return state, False
    found = find_network(state, net.state_dict(), head, weights)
    return found.state, found.clusters


def _construct(source: Source, config: ClassifierConfig, *, trusted: bool, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_seed(seed, "model"))
        return construct(
            source,
            config.logits,
            output_stride=config.output_stride,
            options=config.options,
            trusted=trusted,
        )


def _probed(config: ClassifierConfig, net: nn.Module, layer: str | None, own: OwnKind | None) -> ClassifierConfig:
    layer = layer or (own.layer if own else None)
    for side, step in zip(config.input_size, refused_steps(net), strict=True):
        if side % step:
            raise UsageError(
                f"--model {config.model}: takes sides divisible by {step}, not {side}", f"use {nearest(side, step)}"
            )
    calls, logits = trace(net, config.input_size)
    if logits != config.logits:
        raise UsageError(f"--model {config.model}: {logits} logits for {config.logits} classes")
    if own and own.layer is None:  # what is fresh leads to other things than logits
        calls = [call for call in calls if call.path.split(".")[0] not in own.fresh]
    head = find_head(calls, logits)
    last = find_layer(net, calls, head, config.input_size) if layer is None else None
    if last is None:
        module_at(net, str(layer))
    elif config.output_stride and last.spatial and round(config.input_size[0] / last.shape[2]) != config.output_stride:
        stride = round(config.input_size[0] / last.shape[2])
        raise UsageError(f"--output-stride {config.output_stride}: {config.model} has stride {stride}", "leave it out")
    return replace(config, layer=last.path if last else str(layer), head=calls[head].path)


def _kept(
    config: ClassifierConfig, state: dict[str, Tensor], names: Sequence[str] | None, weights: str, clusters: bool
) -> ClassifierConfig:
    key = f"{config.head}.weight"
    if key not in state:
        raise BadInput(f"weights {weights}: no {key}, so no head to keep", "leave --keep-head out")
    count = len(state[key])
    known = tuple(f"cluster {number}" for number in range(count)) if clusters else imagenet_names(count)
    own = known if names is None else tuple(names)
    if own is None:
        raise UsageError(
            f"--keep-head: the {count} classes of {weights} have no known names", "give --class-names FILE"
        )
    if len(own) != count:
        raise BadInput(
            f"--class-names: {len(own)} names, but {weights} has {count} classes", "one name a line, in order"
        )
    return replace(config, classes=_unique(own), head_bias=f"{config.head}.bias" in state)


def _unique(classes: Sequence[str]) -> tuple[str, ...]:
    twice = sorted({name for name in classes if list(classes).count(name) > 1})
    if twice:
        raise UsageError(f"class names occur twice: {', '.join(twice[:5])}", "give each class its own name")
    return tuple(classes)


def _draw_head(head: nn.Module, seed: int) -> None:
    random = torch.Generator().manual_seed(key_seed(seed, "head"))
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if name == "weight":
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.01)
            else:
                parameter.zero_()


def _drop_bias(classifier: Classifier) -> None:
    if not classifier.config.head_bias:
        classifier.head.register_parameter("bias", None)
