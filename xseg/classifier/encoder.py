"""Published networks as parts of xseg's own: found by timm's name, loaded as timm has them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from xseg.classifier.weights import load_into
from xseg.errors import UsageError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What timm's constructors and forward passes raise for networks that do not serve.
UNFIT = (AssertionError, TypeError, ValueError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Preprocessing:
    """What a network's published weights expect: height and width in pixels, mean and std of RGB in [0, 1]."""

    input_size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def require_timm(name: str, told: str) -> None:
    """Refuse a name that timm does not have.

    Args:
        name: of a model.
        told: the option that named it, for the message.

    Raises:
        UsageError: near misses are listed.
    """
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0]}*")[:5]
        raise UsageError(
            f"{told}: timm has no such model",
            f"did you mean {', '.join(near)}?" if near else "timm.list_models() has all names",
        )


def reason_of(error: Exception) -> str:
    """What one of `UNFIT` says."""
    return str(error) or type(error).__name__


def published_head(net: nn.Module) -> str:
    """Module path of the head that a network has in timm."""
    published: Any = getattr(net, "pretrained_cfg", {})
    return str(published.get("classifier") or "head")


def published_preprocessing(net: nn.Module, without: Preprocessing) -> Preprocessing:
    """What the weights of a timm network expect; `without` for one that timm does not have."""
    published: Any = getattr(net, "pretrained_cfg", None)
    if not published:
        return without
    return Preprocessing(tuple(published["input_size"][1:]), tuple(published["mean"]), tuple(published["std"]))


def load_published(
    net: nn.Module, state: Mapping[str, Tensor], source: str, part: str, unused: Collection[str] = ()
) -> None:
    """Load the weights of a whole timm network into the part of it that was built; its head is left out.

    Args:
        net: the part, with timm's keys.
        state: tensors by state-dict key.
        source: where they came from, for messages.
        part: what the network is in xseg's, for messages.
        unused: keys that the whole network has and the part has not.

    Raises:
        BadInput: they do not fit.
    """
    given = {key: value for key, value in state.items() if key not in unused}
    load_into(net, given, f"{source} (as those of the {part})", skip=published_head(net))
