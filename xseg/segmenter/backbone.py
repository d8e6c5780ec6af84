"""The part of a classifier that a segmenter reads: its network up to one layer, and finer features on the way there."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xseg.classifier.capture import capture
from xseg.classifier.features import feature_layers
from xseg.classifier.linear_probe import Trunk, trim
from xseg.classifier.model import Classifier
from xseg.classifier.probe import Call, find_head, is_transparent, token_blocks, trace
from xseg.errors import UsageError
from xseg.heatmaps.batches import sides_of
from xseg.heatmaps.layers import feature_maps


class Backbone(nn.Module):
    """A classifier's network up to a layer; what comes after it is taken out, the classifier's head included.

    Args:
        classifier: whose network becomes part of this; it makes no logits any more.
        layer: module path of the features; (N,K,h,w), (N,h,w,K), or tokens on a grid over the image.
        fine_layer: module path of finer ones, that runs before it; None for none.

    Raises:
        UsageError: no such layer, one that is never run, or whose output are no features with places.
    """

    def __init__(self, classifier: Classifier, layer: str, fine_layer: str | None = None) -> None:
        super().__init__()
        self.trunk = Trunk(classifier.net, layer)
        self._whole = (classifier,)  # a tuple, since its network must not be registered twice
        self._paths = [layer] if fine_layer is None else [layer, fine_layer]
        trim(self.trunk, classifier.config.input_size)

    def _to_the_end(self, images: Tensor) -> Tensor:
        with capture(self.trunk.net, self._paths[:1], grad=torch.is_grad_enabled()) as captured:
            self.trunk.net(images)
        return captured[self._paths[0]]

    @property
    def classifier(self) -> Classifier:
        """What normalises images and knows where tokens lie; its network ends at the layer."""
        return self._whole[0]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (N,K,h,w) of normalised images (N,3,H,W), and the finer ones (N,L,h',w') or None."""
        first, *finer = self._paths
        with capture(self.trunk.net, finer, grad=torch.is_grad_enabled()) as captured:
            captured[first] = self.trunk(images) if self.trunk.leaves else self._to_the_end(images)
        size = sides_of(images)
        features, *fine = [feature_maps(self.classifier, path, captured[path], size) for path in self._paths]
        return features, fine[0] if fine else None


@dataclass(frozen=True)
class Level:
    """Features that were found.

    Attributes:
        path: module path.
        channels: K.
        stride: pixels of the image per place.
    """

    path: str
    channels: int
    stride: int


def last_layer(classifier: Classifier) -> str:
    """Module path of the last features with places: the classifier's own layer, or of a transformer the last tokens.

    A classifier's layer may lie before the end of a transformer, where its logits still depend on the patches.
    """
    calls, logits = trace(classifier.net, classifier.config.input_size)
    calls = calls[: find_head(calls, logits)]
    places = {call.path: place for place, call in enumerate(calls)}
    blocks = token_blocks(classifier.net, calls)
    own = classifier.config.layer
    if not blocks or places.get(own, -1) > places[blocks[-1]]:
        return own
    last = calls[places[blocks[-1]]]
    pools = [call.path for call in calls if call.shape and not (call.spatial or call.of_tokens)]
    after = [call for call in calls[places[last.path] :] if _continues(call, last, [*blocks, *pools])]
    return after[-1].path


def _continues(call: Call, last: Call, closed: Sequence[str]) -> bool:
    inside = any(call.path.startswith(f"{path}.") for path in closed)
    return call.shape == last.shape and not inside and not is_transparent(call.module)


def finer_layer(classifier: Classifier, layer: Level, largest: int) -> Level | None:
    """The coarsest stage before `layer` that is finer than it and not coarser than `largest` pixels per place.

    Args:
        classifier: untrimmed.
        layer: the features that it is to be finer than.
        largest: 4 for DeepLabv3+, 8 for LR-ASPP, as published.

    Returns:
        None: there is none.
    """
    calls, _ = trace(classifier.net, classifier.config.input_size)
    inside = tuple(f"{block}." for block in token_blocks(classifier.net, calls))  # attention is no picture
    order = [call.path for call in calls]
    # Of a module that runs several times nobody can say what comes before it: it is not among the calls.
    before = set(order[: order.index(layer.path)] if layer.path in order else ())
    stages = [
        stage.path
        for stage in feature_layers(classifier)
        if stage.stride < layer.stride and stage.stride <= largest
        if stage.path in before and not stage.path.startswith(inside)
    ]
    return level_at(classifier, stages[-1]) if stages else None


def level_at(classifier: Classifier, path: str) -> Level:
    """Channels and stride of the features at a layer, found by running the classifier.

    Raises:
        UsageError: no such layer, one that never runs, or whose output are no features with places.
    """
    size = classifier.config.input_size
    with capture(classifier, [path]) as found:
        trace(classifier.net, size)
    if path not in found:
        raise UsageError(f"--layer {path}: this module is never run", "choose another layer")
    maps = feature_maps(classifier, path, found[path], size)
    return Level(path, maps.shape[1], max(1, round(size[0] / maps.shape[2])))
