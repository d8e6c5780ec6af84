"""What decides the layers of a network of xseg's own: options with limits, presets, and their refusals."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from xseg.classifier.config import Scalar
from xseg.errors import UsageError


@dataclass(frozen=True)
class Shape:
    """Base of such options, which are `--set KEY=VALUE`; `preset` (of `presets`) replaces the defaults.

    Attributes:
        kind: what `--model` calls the network.
        presets: values by name of the preset; the first is what nobody has to name.
        limits: lowest and highest value of every number.

    Raises:
        UsageError: a value of another type than the default's, or out of range.
    """

    kind: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Scalar]]]
    limits: ClassVar[Mapping[str, tuple[float, float]]]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, default = getattr(self, field.name), field.default
            if field.name in self.limits:
                self._require_number(field.name, value, field.type)
            elif isinstance(default, bool):
                if not isinstance(value, bool):
                    raise UsageError(f"--set {field.name}={value}: needed true or false")
            elif not isinstance(value, str):
                raise UsageError(f"--set {field.name}={value}: needed the name of a timm model")

    def _require_number(self, name: str, value: object, annotated: Any) -> None:  # noqa: ANN401 - a type
        if value is None and annotated == float | None:
            return
        whole = annotated is int
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise UsageError(f"--set {name}={value}: needed {'a whole number' if whole else 'a number'}")
        low, high = self.limits[name]
        if not low <= value <= high:
            raise UsageError(f"--set {name}={value}: needed a number from {low} to {high}")

    @classmethod
    def of(cls, options: Mapping[str, Scalar]) -> Self:
        """The shape that a model's options ask for.

        Raises:
            UsageError: an unknown option or preset, or values that mean nothing.
        """
        given = dict(options)
        preset = given.pop("preset", next(iter(cls.presets)))
        if preset not in cls.presets:
            raise UsageError(f"--set preset={preset}: unknown", f"one of {', '.join(cls.presets)}")
        names = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(given) - set(names)):
            raise UsageError(f"--set {unknown[0]}: not an option of {cls.kind}", f"preset, {', '.join(names)}")
        values: dict[str, Any] = {**cls.presets[str(preset)], **given}
        return cls(**values)
