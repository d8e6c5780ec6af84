"""Named, extensible sets: a thing registers itself by decorator and states its parameters as dataclass fields."""

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, get_type_hints

from xseg.errors import UsageError

T = TypeVar("T")
_TRAITS = ("summary", "source", "models", "cost", "signed", "class_specific", "needs_model", "differentiable")
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


class Registry(Generic[T]):
    """Classes by name; `create` turns `KEY=VALUE` settings into an instance.

    Args:
        noun: what one entry is called in messages ("explanation method").
        group: entry-point group through which other packages add theirs.
    """

    def __init__(self, noun: str, group: str | None = None) -> None:
        self.noun = noun
        self._group = group
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Decorator that adds a dataclass under `name`; a name can be taken only once."""

        def add(cls: type[T]) -> type[T]:
            if name in self._classes:
                raise ValueError(f"{self.noun} {name!r} is registered twice")
            self._classes[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """All names, sorted, plug-ins included."""
        self._load_plugins()
        return sorted(self._classes)

    def __iter__(self) -> Iterator[tuple[str, type[T]]]:
        """Pairs (name, class) in order of name."""
        return ((name, self._classes[name]) for name in self.names())

    def get(self, name: str) -> type[T]:
        """The class registered as `name`.

        Raises:
            UsageError: no such name; the message lists near misses, then all.
        """
        if name not in self._classes:
            self._load_plugins()
        if name not in self._classes:
            near = difflib.get_close_matches(name, self._classes, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"one of: {', '.join(self.names())}"
            raise UsageError(f"unknown {self.noun} {name!r}", hint)
        return self._classes[name]

    def create(self, name: str, settings: Sequence[str] = ()) -> T:
        """An instance of `name` with its fields set from `KEY=VALUE` strings.

        Raises:
            UsageError: unknown name or key, or a value that does not parse as the field's type.
        """
        cls = self.get(name)
        return cls(**parse_settings(cls, settings, f"{self.noun} {name}"))

    def _load_plugins(self) -> None:
        group, self._group = self._group, None
        for entry in entry_points(group=group) if group else ():
            entry.load()


def memory_only(default: int) -> Any:  # noqa: ANN401 - as dataclasses.field, whatever the field's type
    """A field that decides how much memory is used and not what comes out, like a batch size."""
    return dataclasses.field(default=default, metadata={"memory_only": True})


def parameters(instance: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
    """Field values of a registered dataclass instance that decide its results, as they enter an artifact's `params`."""
    decided = (field.name for field in dataclasses.fields(instance) if not field.metadata.get("memory_only"))
    return {name: getattr(instance, name) for name in decided}


def parse_settings(cls: type, settings: Sequence[str], owner: str) -> dict[str, Any]:
    """`KEY=VALUE` strings as keyword arguments of the dataclass `cls`, converted to its field types."""
    hints = get_type_hints(cls)
    fields = {field.name for field in dataclasses.fields(cls) if field.init}
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or key not in fields:
            known = ", ".join(sorted(fields)) or "it has none"
            raise UsageError(f"--set {setting}: not a parameter of {owner}", f"its parameters: {known}")
        values[key] = _convert(text.strip(), hints[key], setting)
    return values


def _convert(text: str, kind: Any, setting: str) -> Any:  # noqa: ANN401 - the type decides
    try:
        if kind is bool:
            if text.lower() in _TRUE | _FALSE:
                return text.lower() in _TRUE
            raise ValueError(text)
        if kind in (int, float, str):
            return kind(text)
        args = getattr(kind, "__args__", ())
        if type(None) in args:
            if text.lower() in {"none", "auto"}:
                return None
            (some,) = (option for option in args if option is not type(None))
            return _convert(text, some, setting)
        if text in args:  # Literal["a", "b"]
            return text
    except ValueError:
        pass
    choices = getattr(kind, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        raise UsageError(f"--set {setting}: no such choice", f"one of {', '.join(choices)}")
    name = getattr(kind, "__name__", str(kind))
    raise UsageError(f"--set {setting}: {text!r} is not a valid {name}")


def describe(name: str, cls: type) -> dict[str, Any]:
    """One entry for a listing: its class-level traits and its parameters with their defaults."""
    traits = {key: getattr(cls, key) for key in _TRAITS}
    hints = get_type_hints(cls)
    fields = [field for field in dataclasses.fields(cls) if field.init]
    return {
        "name": name,
        **traits,
        "parameters": {
            field.name: {
                "default": field.default,
                "type": getattr(hints[field.name], "__name__", str(hints[field.name])),
            }
            for field in fields
        },
    }
