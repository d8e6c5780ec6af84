"""What is needed to rebuild a segmenter around its stored weights."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from xseg.classifier.config import ClassifierConfig
from xseg.errors import BadInput

Head = Literal["deeplabv3", "deeplabv3+", "lraspp"]
Norm = Literal["batch", "group"]
HEADS: tuple[Head, ...] = get_args(Head)
NORMS: tuple[Norm, ...] = get_args(Norm)
_LARGEST = 1 << 13  # of every size: a file must not decide how much memory is asked for


@dataclass(frozen=True)
class SegmenterConfig:
    """Recipe of a segmenter; with the weights it is the whole `segmenter` artifact.

    Attributes:
        classes: names of the foreground classes; the logits are one more, background first.
        backbone: recipe of the network whose features are read; its own classes and head play no part.
        layer: module path of the features that the head reads.
        channels: of these features.
        fine_layer: module path of finer features that the head adds, or None.
        fine_channels: of these; 0 without.
        head: see `xseg.segmenter.heads`.
        width: channels inside the head.
        rates: dilations of the ASPP; empty for `lraspp`.
        norm: normalisation inside the head.
        dropout: probability in front of the last layer of the ASPP, in [0, 1).
        smallest: pixels that a side of an image must have for the backbone to run.

    Raises:
        ValueError: values that have no meaning or do not fit together.
    """

    classes: tuple[str, ...]
    backbone: ClassifierConfig
    layer: str
    channels: int
    fine_layer: str | None = None
    fine_channels: int = 0
    head: Head = "deeplabv3"
    width: int = 256
    rates: tuple[int, ...] = (6, 12, 18)
    norm: Norm = "batch"
    dropout: float = 0.1
    smallest: int = 32

    def __post_init__(self) -> None:
        for name in ("channels", "width", "smallest"):
            if not 0 < getattr(self, name) < _LARGEST:
                raise ValueError(f"{name} is {getattr(self, name)}, needed 1..{_LARGEST - 1}")
        if not all(0 < rate < _LARGEST for rate in self.rates) or len(self.rates) > 16:
            raise ValueError(f"rates are {self.rates}, needed up to 16 positive numbers")
        if bool(self.rates) != (self.head != "lraspp"):
            raise ValueError(f"{len(self.rates)} rates with the head {self.head}")
        if self.head not in HEADS or self.norm not in NORMS or not 0 <= self.dropout < 1:
            raise ValueError(f"head, norm, dropout are {self.head!r}, {self.norm!r}, {self.dropout}")
        if (self.fine_layer is None) != (self.fine_channels == 0) or not 0 <= self.fine_channels < _LARGEST:
            raise ValueError(f"{self.fine_channels} fine channels of the layer {self.fine_layer}")
        if self.head == "deeplabv3+" and self.fine_layer is None:
            raise ValueError("deeplabv3+ without a finer layer")
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError("no classes, or the same twice")

    def to_json(self) -> str:
        """The configuration as one JSON object."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "SegmenterConfig":
        """The configuration back from `to_json`.

        Raises:
            BadInput: not JSON, unknown or missing entries, or values that cannot be.
        """
        try:
            values: dict[str, Any] = dict(json.loads(text))
            backbone = ClassifierConfig.from_json(json.dumps(values.pop("backbone")))
            _check_types(values)
            rest: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
            }
            return cls(backbone=backbone, **rest)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"the configuration of the segmenter does not fit this version: {error}",
                "train it again with: xseg train-seg",
            ) from error


_TYPES: dict[str, type | tuple[type, ...]] = {
    "layer": str, "channels": int, "fine_layer": (str, type(None)), "fine_channels": int, "head": str, "width": int,
    "norm": str, "dropout": (int, float), "smallest": int,
}  # fmt: skip
_LISTS = {"classes": str, "rates": int}


def _check_types(values: Mapping[str, Any]) -> None:
    for name, kind in _TYPES.items():
        if not isinstance(values[name], kind) or isinstance(values[name], bool):
            raise TypeError(f"{name} is {values[name]!r}")
    for name, of in _LISTS.items():
        if not isinstance(values[name], list) or not all(type(value) is of for value in values[name]):
            raise TypeError(f"{name} is {values[name]!r}")
