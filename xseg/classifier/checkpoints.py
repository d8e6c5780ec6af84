"""State dicts of self-supervised training: the network is found in them under whatever name it has there.

A checkpoint of a pretext task holds the network as a part of something: `backbone.` beside cluster heads (SCAN),
`encoder_q.` beside a momentum encoder and a queue (MoCo), a teacher beside a student (DINO), stages numbered within
`features.` (SeLa). Nothing is guessed: a prefix counts only if every tensor of the network is under it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from xseg.errors import BadInput

# Other names of the same modules, tried in turn. SeLa's ResNet is torchvision's with its stages in one Sequential.
_SELA = {"features.0": "conv1", "features.1": "bn1"} | {f"features.{4 + k}": f"layer{1 + k}" for k in range(4)}
_LAYOUTS: tuple[dict[str, str], ...] = ({}, _SELA)
# Of two copies these are the ones that published evaluations do not use.
_SECOND = re.compile(r"encoder_k|momentum|target|student|_ema\b")
# What pretext tasks put beside the network's own names: projections, predictions, prototypes, queues, cluster heads.
_PRETEXT = re.compile(
    r"(projection_head|projection|projector|predictor|prediction_head|prototypes|queue|queue_ptr|contrastive_head"
    r"|cluster_head|top_layer\d*|head|mlp_head)\b"
)
_CLUSTERS = re.compile(r"(?:^|\.)(cluster_head\.(\d+)|top_layer(\d*))\.weight$")


@dataclass(frozen=True)
class Found:
    """A network's part of a checkpoint.

    Attributes:
        state: tensors by the network's own keys; what is neither its own nor of a pretext task keeps its name.
        clusters: whether the head is one that sorts images into clusters, whose classes have no names.
    """

    state: dict[str, Tensor]
    clusters: bool = False


def find_network(state: Mapping[str, Tensor], own: Mapping[str, Tensor], head: str, source: str) -> Found:
    """The part of `state` that is a network with the tensors `own`, whatever stands before and beside its names.

    Of several cluster heads the first one that fits is taken.

    Args:
        state: as read from a file.
        own: the network's state dict.
        head: module path of its head; the file's may be another one, or none.
        source: where `state` came from, for the message.

    Returns:
        `state` itself where no prefix makes it the network's, so that the loader tells what is missing.

    Raises:
        BadInput: several complete networks and no reason to prefer one.
    """
    body = [key for key in own if not key.startswith(f"{head}.") and not key.endswith("num_batches_tracked")]
    for layout in _LAYOUTS if body else ():
        named = {_renamed(key, layout): value for key, value in state.items()}
        prefixes = [prefix for prefix in _prefixes(named, body[0]) if all(prefix + key in named for key in body)]
        if prefixes:
            return _part(named, own, head, _preferred(prefixes, source))
    return Found(dict(state))


def _part(named: Mapping[str, Tensor], own: Mapping[str, Tensor], head: str, prefix: str) -> Found:
    found = {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}
    # A head that the network has under this name is its own, whatever else the name is used for.
    kept = {key: v for key, v in found.items() if key in own or _inside(key, head) or not _PRETEXT.match(key)}
    if f"{head}.weight" in kept:
        return Found(kept, clusters=bool(_CLUSTERS.search(f"{head}.weight")))
    weight = own[f"{head}.weight"]
    for _, name in sorted(_cluster_heads(named)):
        given = named[f"{name}.weight"]
        if given.shape[1:] == weight.shape[1:2]:
            kept[f"{head}.weight"] = given.view(*given.shape, *weight.shape[2:])
            if f"{name}.bias" in named:
                kept[f"{head}.bias"] = named[f"{name}.bias"]
            return Found(kept, clusters=True)
    return Found(kept)


def _cluster_heads(named: Mapping[str, Tensor]) -> Iterator[tuple[int, str]]:
    for key, value in named.items():
        match = _CLUSTERS.search(key)
        if match and value.ndim == 2:
            yield int(match[2] or match[3] or 0), key.removesuffix(".weight")


def _prefixes(named: Mapping[str, Tensor], first: str) -> list[str]:
    """What stands before `first` wherever a key ends with it, at the start of a name."""
    return [key.removesuffix(first) for key in named if f".{key}".endswith(f".{first}")]


def _preferred(prefixes: list[str], source: str) -> str:
    if "" in prefixes:
        return ""
    main = [prefix for prefix in prefixes if not _SECOND.search(prefix)] or prefixes
    if len(main) > 1:
        raise BadInput(
            f"weights {source} hold the network {len(main)} times: under {', '.join(sorted(main))}",
            "save the one wanted as a file of its own",
        )
    return main[0]


def _renamed(key: str, layout: Mapping[str, str]) -> str:
    for old, new in layout.items():
        place = f".{key}".find(f".{old}.")
        if place >= 0:
            return f"{key[:place]}{new}{key[place + len(old) :]}"
    return key


def _inside(key: str, path: str) -> bool:
    return key.startswith(f"{path}.")
