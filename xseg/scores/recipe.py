"""How the heatmaps of a run were made, read from the run itself, to make them again."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from xseg.artifacts.header import Header
from xseg.classifier.model import Classifier
from xseg.errors import BadInput
from xseg.heatmaps import explain_images, methods
from xseg.heatmaps.registry import Method
from xseg.heatmaps.step import ExplainOptions

# What decides the maps once the classes are known, beside the method and its settings, `amp` and `seed`.
_VIEWS = ("size", "scales", "flip", "map_size", "layer")
_ELSEWHERE = ("method", "settings", "targets", "threshold", "output_stride", "dtype", "amp", "seed", "neighbour")


@dataclass(frozen=True)
class Recipe:
    """Everything `explain` was told, resolved.

    Attributes:
        name: of the method. method: with its settings.
        settings: of the method, as recorded.
        output_stride: that the classifier was run at; None: its own.
        views: `size`, `scales`, `flip`, `map_size` and `layer` for `explain_images`.
        amp: mixed precision, on an accelerator.
        seed: of the method's random draws.
    """

    name: str
    method: Method
    settings: dict[str, Any]
    output_stride: int | None
    views: dict[str, Any]
    amp: bool
    seed: int

    def maps(
        self,
        classifier: Classifier,
        images: Sequence[np.ndarray],
        targets: Sequence[tuple[int, ...]],
        ids: Sequence[str],
        batch_size: int,
    ) -> list[np.ndarray]:
        """Raw maps (K,h,w) float32 of each image's target classes; see `explain_images`."""
        found = explain_images(
            classifier,
            self.method,
            images,
            targets,
            ids,
            **self.views,
            seed=self.seed,
            batch_size=batch_size,
            amp=self.amp,
        )
        return [one.maps for one in found]


def recipe_of(header: Header, where: str) -> Recipe:
    """The recipe of a run of heatmaps.

    Args:
        header: of the heatmaps.
        where: their name, for messages.

    Raises:
        BadInput: they were not made by `explain`, or with an option that is not understood here.
        UsageError: this xseg has no such method.
    """
    if header.command != "explain":
        raise BadInput(
            f"{where}: heatmaps made by {header.command or 'something else'}, needed those of explain",
            "only what a classifier gives by itself can be made again with other weights",
        )
    given = dict(header.params)
    _require_understood(given, where)
    try:
        cls = methods.get(str(given["method"]))
        settings = dict(given["settings"])
        method = cls(**{key: _hashable(value) for key, value in settings.items()})
        views = {name: _hashable(given[name]) for name in _VIEWS}
        return Recipe(
            str(given["method"]),
            method,
            settings,
            given["output_stride"],
            views,
            bool(given["amp"]),
            int(given["seed"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"{where}: its recorded options are incomplete ({error})", "make it again: xseg explain"
        ) from error


def _require_understood(given: dict[str, Any], where: str) -> None:
    defaults = asdict(ExplainOptions())
    known = {*_VIEWS, *_ELSEWHERE}
    for name, value in given.items():
        if name not in known and (name not in defaults or _hashable(value) != defaults[name]):
            raise BadInput(f"{where}: made with {name}={value}, which this protocol cannot repeat", "leave it out")


def _hashable(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
