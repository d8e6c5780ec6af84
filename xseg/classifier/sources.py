"""Where networks come from: timm, torchvision, xseg itself, user factories. Only `hub_state` ever downloads."""

import importlib
import inspect
import os
import re
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from xseg.classifier.config import Scalar
from xseg.classifier.encoder import Preprocessing, require_timm
from xseg.classifier.own import OWN_KINDS, OwnKind
from xseg.device import torchvision_ready
from xseg.errors import Unavailable, UsageError

PERMITTED = "XSEG_FACTORIES"
_OWN = {"xseg.classifier.alexnet:AlexNetBN"}  # factories that come with xseg, and need nobody's permission
# A stored config must not reach a constructor's loading or downloading arguments, hence a list of what is allowed.
_OPTIONS = {
    "timm": {"drop_rate", "drop_path_rate", "drop_block_rate"},
    "torchvision": {"dropout", "stochastic_depth_prob"},
}


@dataclass(frozen=True)
class Source:
    """A parsed `--model`.

    Args:
        kind: `timm`, `torchvision`, `factory`, or one of `OWN_KINDS`: `hybrid-vit`, `unet`, `multi-task-unet`.
        name: the model's name, or `package.module:factory`.
    """

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.kind in _OPTIONS else self.name

    @property
    def own(self) -> OwnKind | None:
        """What is known of a network of xseg's own."""
        return OWN_KINDS.get(self.kind)


def parse_source(model: str) -> Source:
    """Take `timm:NAME`, `NAME`, `torchvision:NAME`, a name of `OWN_KINDS` or `package.module:factory` apart.

    Raises:
        UsageError: none of these.
    """
    if model in OWN_KINDS:
        return Source(model, model)
    prefix, colon, rest = model.partition(":")
    source = Source(prefix, rest) if prefix in _OPTIONS else Source("factory" if colon else "timm", model)
    pattern = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*" if source.kind == "factory" else r"[\w.\-]+"
    if not re.fullmatch(pattern, source.name):
        raise UsageError(
            f"--model {model}: not a model's name",
            f"timm:NAME, torchvision:NAME, {', '.join(OWN_KINDS)} or package.module:factory",
        )
    return source


def resolved_options(source: Source, options: dict[str, Scalar]) -> dict[str, Scalar]:
    """The options a config records, which must rebuild the network whatever the defaults of a later version are.

    Raises:
        UsageError: an option of a network of xseg's own that is unknown or means nothing.
    """
    return asdict(source.own.shape.of(options)) if source.own else options


def construct(
    source: Source, classes: int, *, output_stride: int | None, options: dict[str, Scalar], trusted: bool
) -> nn.Module:
    """A network with random weights and `classes` logits.

    Args:
        source: what to construct.
        classes: number of logits.
        output_stride: stride of the last feature map; None leaves the network's own.
        options: keyword arguments for the constructor.
        trusted: the user named the model just now. Otherwise (a config read from a file) a factory is only imported
            if the environment variable XSEG_FACTORIES lists it: a data file must not choose which code runs.

    Raises:
        UsageError: unknown name, option or output stride.
        Unavailable: a factory that cannot be imported or may not be.
    """
    refused = set(options) - _OPTIONS.get(source.kind, set(options))
    if refused:
        known = ", ".join(sorted(_OPTIONS[source.kind]))
        raise UsageError(f"model {source}: option {', '.join(sorted(refused))} is not allowed", f"allowed: {known}")
    if source.kind == "factory":
        return _from_factory(source, classes, output_stride, options, trusted)
    torchvision_ready()
    if source.own:
        return source.own.make(source.own.shape.of(options), classes, output_stride)
    if source.kind == "timm":
        return _from_timm(source, classes, output_stride, options)
    return _from_torchvision(source, classes, output_stride, options)


def _from_timm(source: Source, classes: int, output_stride: int | None, options: dict[str, Any]) -> nn.Module:
    import timm

    require_timm(source.name, f"--model {source}")
    stride: dict[str, Any] = {} if output_stride is None else {"output_stride": output_stride}
    arguments = {"pretrained": False, "num_classes": classes, **stride, **options}
    try:
        try:
            # A transformer then takes images of any size and interpolates its position embeddings; its keys stay.
            return timm.create_model(source.name, **arguments, dynamic_img_size=True)
        except TypeError as error:
            if "dynamic_img_size" not in str(error):
                raise
        return timm.create_model(source.name, **arguments)
    except (AssertionError, TypeError, ValueError, NotImplementedError) as error:
        raise _refusal(source, output_stride, options, error) from error


def _from_torchvision(source: Source, classes: int, output_stride: int | None, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    if source.name not in models.list_models(module=models):
        near = models.list_models(module=models, include=f"*{source.name}*")[:5]
        hint = f"did you mean {', '.join(near)}?" if near else ""
        raise UsageError(f"--model {source}: torchvision has no such classifier", hint)
    stride: dict[str, Any] = {}
    if output_stride in (8, 16):
        stride = {"replace_stride_with_dilation": [False, output_stride == 8, True]}
    elif output_stride not in (None, 32):
        raise UsageError(f"--output-stride {output_stride}: torchvision offers 8, 16 and 32", "use a timm model")
    # These two initialise with a slow truncated normal unless told not to; weights are drawn or loaded afterwards.
    extra = {"init_weights": True} if source.name in {"inception_v3", "googlenet"} else {}
    try:
        return models.get_model(source.name, weights=None, num_classes=classes, **stride, **extra, **options)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise _refusal(source, output_stride, options, error) from error


def _refusal(source: Source, output_stride: int | None, options: dict[str, Any], error: Exception) -> UsageError:
    asked = ", ".join([f"--output-stride {output_stride}"] * (output_stride is not None) + sorted(options))
    reason = str(error) or "not supported by this network"
    return UsageError(
        f"--model {source} with {asked or 'its defaults'}: {reason}", "leave it out, or choose another model"
    )


def _from_factory(
    source: Source, classes: int, output_stride: int | None, options: dict[str, Any], trusted: bool
) -> nn.Module:
    permitted = _OWN | {name.strip() for name in os.environ.get(PERMITTED, "").split(",")}
    if not trusted and source.name not in permitted:
        raise Unavailable(
            f"the classifier is made by {source.name}, code that the artifact itself cannot vouch for",
            f"if you trust it: export {PERMITTED}={source.name}",
        )
    module, _, name = source.name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise Unavailable(f"--model {source}: {error}", "is its package installed, or on PYTHONPATH?") from error
    if output_stride is not None:
        if "output_stride" not in inspect.signature(factory).parameters:
            raise UsageError(f"--output-stride {output_stride}: {source} takes no output_stride", "leave it out")
        options = {**options, "output_stride": output_stride}
    net = factory(num_classes=classes, **options)
    if not isinstance(net, nn.Module):
        raise UsageError(f"--model {source}: returned a {type(net).__name__}, needed a torch.nn.Module")
    return net


def preprocessing(source: Source, net: nn.Module) -> Preprocessing:
    """Input size, mean and std that the published weights of `source` expect; ImageNet's for a factory."""
    if source.own:
        return source.own.preprocessing(net)
    if source.kind == "timm":
        cfg: Any = net.pretrained_cfg
        return Preprocessing(tuple(cfg["input_size"][1:]), tuple(cfg["mean"]), tuple(cfg["std"]))
    if source.kind == "torchvision":
        from torchvision import models

        transforms = models.get_model_weights(source.name).DEFAULT.transforms()
        size = transforms.crop_size[0]
        return Preprocessing((size, size), tuple(transforms.mean), tuple(transforms.std))
    return Preprocessing()


def published_weights(source: Source, options: dict[str, Scalar]) -> Source:
    """The model whose published weights `source` starts from: itself, but for xseg's own networks the part of them."""
    name = source.own.published(source.own.shape.of(options)) if source.own else None
    return Source("timm", name) if name else source


def hub_state(source: Source) -> dict[str, Tensor]:
    """Download the published weights of a timm or torchvision model.

    Raises:
        UsageError: a factory, or a network or model without published weights.
        Unavailable: the download failed.
    """
    if source.kind not in _OPTIONS:
        raise UsageError(f"--weights hub: {source} has no published weights", "give a file, or --weights none")
    torchvision_ready()
    hint = "with no network here, download the file elsewhere and give its path to --weights"
    try:
        if source.kind == "timm":
            import timm

            published: Any = timm.get_pretrained_cfg(source.name)
            if not (published and published.has_weights):
                raise UsageError(f"--weights hub: no published weights for {source}", "give a file, or --weights none")
            return timm.create_model(source.name, pretrained=True).state_dict()
        from torchvision import models

        return models.get_model(source.name, weights="DEFAULT").state_dict()
    except UsageError:
        raise
    except Exception as error:  # the hubs' clients raise whatever their HTTP library does
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise Unavailable(f"--weights hub: the weights of {source} cannot be fetched ({reason})", hint) from error


def imagenet_names(count: int) -> tuple[str, ...] | None:
    """Names of the ImageNet classes of a head with `count` logits, unique and without commas; None if unknown."""
    torchvision_ready()
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": count})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    names = [info.index_to_description(index).split(",")[0].strip() for index in range(count)]
    return tuple(
        f"{name} {info.index_to_label_name(index)}" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    )
