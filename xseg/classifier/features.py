"""Feature maps of every stage of a network, for steps that read more than its last layer."""

from dataclasses import dataclass
from math import log2

from xseg.classifier.model import Classifier
from xseg.classifier.probe import Call, find_head, is_transparent, token_blocks, trace
from xseg.errors import UsageError


@dataclass(frozen=True)
class FeatureLayer:
    """One stage's output.

    Args:
        path: module path, for `capture`.
        channels: size of its channel axis.
        stride: pixels of the input per position.
    """

    path: str
    channels: int
    stride: int


def feature_layers(classifier: Classifier) -> list[FeatureLayer]:
    """The outputs of the network's stages from fine to coarse, the target layer last.

    A container is opened as long as more than one halving happens within it; what then runs in sequence are the
    stages (residual stages, inverted-residual groups, dense blocks, or the plain layers of a VGG). Of neighbours with
    equal stride and channels the last stands; pools are passed over.

    Returns:
        At least one layer; with an output stride several may share the last stride.
    """
    config = classifier.config
    calls, logits = trace(classifier.net, config.input_size)
    calls = _before_tokens(calls[: find_head(calls, logits)], classifier)
    height = config.input_size[0]
    layers: list[FeatureLayer] = []
    for call in _stages(calls, height):
        layer = FeatureLayer(call.path, call.shape[1], _stride(call, height))
        if layers and (layers[-1].channels, layers[-1].stride) == (layer.channels, layer.stride):
            layers.pop()
        layers.append(layer)
    return _ending_with(layers, config.layer, calls, height)


def stage_modules(classifier: Classifier, count: int) -> list[str]:
    """Paths of the modules that make the first `count` outputs of `feature_layers`, for freezing them.

    Raises:
        UsageError: the network has fewer stages.
    """
    layers = feature_layers(classifier)
    if not 0 <= count < len(layers):
        paths = ", ".join(layer.path for layer in layers)
        raise UsageError(f"--freeze {count}: the network has {len(layers)} stages", f"fewer of: {paths}")
    if not count:
        return []
    made = [call.path for call in trace(classifier.net, classifier.config.input_size)[0]]
    # A container that is still running when the stage ends has parts that come later: it is not in the list yet.
    return made[: made.index(layers[count - 1].path) + 1]


def _before_tokens(calls: list[Call], classifier: Classifier) -> list[Call]:
    # Between the last feature map of a transformer and its blocks lie projections to tokens, which are no stage.
    end = next((place for place, call in enumerate(calls, 1) if call.path == classifier.config.layer), len(calls))
    return calls[:end] if token_blocks(classifier.net, calls[end:]) else calls


def _ending_with(layers: list[FeatureLayer], path: str, calls: list[Call], height: int) -> list[FeatureLayer]:
    # The target layer may be the container around the last stage, or a pool; it is what CAM sees, so it stands last.
    target = next((call for call in calls if call.path == path and call.spatial), None)
    if target is None:
        return layers
    last = FeatureLayer(path, target.shape[1], _stride(target, height))
    same = layers and (layers[-1].channels, layers[-1].stride) == (last.channels, last.stride)
    return [*(layers[:-1] if same else layers), last]


def _stages(calls: list[Call], height: int) -> list[Call]:
    spatial = [call for call in calls if call.spatial]
    called = {call.path for call in spatial}
    children: dict[str, list[Call]] = {}
    for call in spatial:
        children.setdefault(_enclosing(call.path, called), []).append(call)

    def chain(path: str, before: int) -> list[Call]:
        stages: list[Call] = []
        for call in children.get(path, []):
            start = _stride(stages[-1], height) if stages else before
            inside = [c for c in spatial if f"{c.path}.".startswith(f"{call.path}.")]
            halvings = {_stride(c, height) for c in inside} - {start}
            stages += chain(call.path, start) if len(halvings) > 1 and call.path in children else [call]
        return stages

    return [c for c in chain("", 1) if "Pool" not in type(c.module).__name__ and not is_transparent(c.module)]


def _enclosing(path: str, called: set[str]) -> str:
    # Containers that are only iterated over never run themselves: the parent is the nearest module that did.
    parent = path.rpartition(".")[0]
    while parent and parent not in called:
        parent = parent.rpartition(".")[0]
    return parent


def _stride(call: Call, height: int) -> int:
    return 2 ** round(log2(height / call.shape[2]))
