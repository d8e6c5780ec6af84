"""The networks that are xseg's own: each is built around a published one, whose weights it can start from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from xseg.classifier import hybrid, multi_task, unet
from xseg.classifier.encoder import Preprocessing
from xseg.classifier.shape import Shape


@dataclass(frozen=True)
class OwnKind:
    """What must be known of one to build, load and train it.

    Attributes:
        shape: its options.
        make: a network of a shape, with that many logits, at an output stride.
        part: what the published network is in it: the option that names it.
        whole: how keys of a state dict begin that the part does not have.
        layer: module path of the last feature map; None: it is the part's, found by probing what is not `fresh`.
        fresh: module paths beside the head that are new where weights are those of the part, and learn at its rate.
        published: timm's name of the part's weights of a shape, or of weights of the whole; None: there are none.
        preprocessing: what the weights expect.
        load: weights of the whole or of the part, from a source, but for the parameters at a module path.
        reads_part: whether a head of the part can be taken over, because the features it read are at hand.
    """

    shape: type[Shape]
    make: Callable[[Any, int, int | None], nn.Module]
    part: str
    whole: str
    layer: str | None
    fresh: tuple[str, ...]
    published: Callable[[Any], str | None]
    preprocessing: Callable[[nn.Module], Preprocessing]
    load: Callable[[nn.Module, Mapping[str, Tensor], str, str | None], None]
    reads_part: bool

    def is_whole(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a state dict is that of such a network, not of its part alone."""
        return any(key.startswith(self.whole) for key in state)


def _of_hybrid(shape: hybrid.HybridShape) -> str:
    return hybrid.PAPER_MODEL if shape.stem == hybrid.PAPER_STEM else shape.stem


def _of_unet(shape: unet.UNetShape) -> str | None:
    return None if shape.encoder == unet.PLAIN else shape.encoder


OWN_KINDS: dict[str, OwnKind] = {
    hybrid.HybridShape.kind: OwnKind(
        shape=hybrid.HybridShape,
        make=hybrid.hybrid_vit,
        part="stem",
        whole=hybrid.WHOLE,
        layer=hybrid.FEATURES,
        fresh=(),  # its blocks start as a network that pools, and as published they learn at the rate of the stem
        published=_of_hybrid,
        preprocessing=hybrid.preprocessing_of,
        load=hybrid.load_hybrid,
        reads_part=True,
    ),
    unet.UNetShape.kind: OwnKind(
        shape=unet.UNetShape,
        make=unet.unet,
        part="encoder",
        whole=unet.WHOLE,
        layer=unet.FEATURES,
        fresh=(unet.FEATURES,),
        published=_of_unet,
        preprocessing=unet.preprocessing_of,
        load=unet.load_unet,
        reads_part=False,
    ),
    multi_task.MultiTaskShape.kind: OwnKind(
        shape=multi_task.MultiTaskShape,
        make=multi_task.multi_task_unet,
        part="encoder",
        whole=unet.WHOLE,
        layer=None,
        fresh=(unet.FEATURES, multi_task.SEGMENT),
        published=_of_unet,
        preprocessing=multi_task.preprocessing_of,
        load=unet.load_unet,
        reads_part=False,
    ),
}
