"""What is needed to rebuild a classifier around its stored weights."""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from xseg.errors import BadInput

Activation = Literal["sigmoid", "softmax"]
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class ClassifierConfig:
    """Recipe of a classifier; with the weights it is the whole `classifier` artifact.

    Args:
        model: `timm:NAME`, `torchvision:NAME`, `hybrid-vit`, `unet`, `multi-task-unet` or `package.module:factory`.
        classes: class names in the order of the logits (background not listed).
        activation: `sigmoid` for multi-label heads, `softmax` for single-label ones.
        input_size: height, width in pixels the network was made for.
        mean: per channel, for RGB in [0, 1].
        std: per channel, for RGB in [0, 1].
        output_stride: stride of the last feature map if it was chosen, else None.
        head_bias: whether the head adds a bias.
        layer: module path of the last spatial feature map before global pooling.
        head: module path of the linear layer (or 1x1 convolution) that makes the logits.
        options: keyword arguments of the constructor, JSON scalars; of a hybrid or U-Net all that it has.
        background: the network has one more logit, the first, for the background.
        heatmap: the explanation method whose maps were trained to be segmentations, and its settings as `KEY=VALUE`.
    """

    model: str
    classes: tuple[str, ...]
    activation: Activation = "sigmoid"
    input_size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    output_stride: int | None = None
    head_bias: bool = True
    layer: str = ""
    head: str = ""
    options: dict[str, Scalar] = field(default_factory=dict)
    background: bool = False
    heatmap: tuple[str, ...] = ()

    @property
    def logits(self) -> int:
        """Number of logits of the network."""
        return len(self.classes) + self.background

    def to_json(self) -> str:
        """Canonical JSON (sorted keys, no spaces)."""
        values = asdict(self)
        for name in _GUIDED:
            if not values[name]:
                del values[name]  # a classifier without stays what it was
        return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "ClassifierConfig":
        """The config that `to_json` wrote.

        Raises:
            BadInput: not JSON, a field is missing or unknown, or a value has the wrong type.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise BadInput(f"classifier config is not JSON ({error})") from error
        names = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or not names - _GUIDED <= set(values) <= names:
            found = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise BadInput(f"classifier config has {found}, needed {sorted(names - _GUIDED)}")
        for name, check in _CHECKS.items():
            if name in values and not check(values[name]):
                raise BadInput(f"classifier config: {name} is {values[name]!r}, which it cannot be")
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arguments)


#: What only classifiers of `train-guided` have.
_GUIDED = {"background", "heatmap"}


def _is_text(value: Any) -> bool:  # noqa: ANN401 - parsed JSON
    return isinstance(value, str) and bool(value)


def _is_number(value: Any) -> bool:  # noqa: ANN401 - parsed JSON
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:  # noqa: ANN401 - parsed JSON
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 16


def _is_list(value: Any, check: Any, length: int = 0) -> bool:  # noqa: ANN401 - parsed JSON
    return isinstance(value, list) and len(value) in {length or len(value)} and all(map(check, value))


_CHECKS = {
    "model": _is_text,
    "classes": lambda v: _is_list(v, _is_text) and 0 < len(v) == len(set(v)),
    "activation": lambda v: v in get_args(Activation),
    "input_size": lambda v: _is_list(v, _is_positive, 2),
    "mean": lambda v: _is_list(v, _is_number, 3),
    "std": lambda v: _is_list(v, lambda x: _is_number(x) and x > 0, 3),
    "output_stride": lambda v: v is None or _is_positive(v),
    "head_bias": lambda v: isinstance(v, bool),
    "layer": _is_text,
    "head": _is_text,
    "options": lambda v: isinstance(v, dict) and all(isinstance(x, Scalar) for x in v.values()),
    "background": lambda v: isinstance(v, bool),
    "heatmap": lambda v: _is_list(v, _is_text),
}
