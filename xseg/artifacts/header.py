"""An artifact's identity: the root attributes, and the `run` and `content` digests that tie a chain together."""

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from xseg.artifacts.schema import KINDS, Ragged
from xseg.artifacts.text import any_controls, without_controls
from xseg.errors import BadInput, UsageError
from xseg.version import __version__

_SMALL = 1 << 16  # bytes; shorter texts are copied together, since each call into the hash costs as much as 1 kB
METHOD_VERSION = 1  # raised when a command's results change for the same parameters


# One encoder: `json.dumps` makes another at every call, and there is a call for every image.
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def canonical(value: object) -> str:
    """JSON with one spelling per value: sorted keys, no spaces, UTF-8."""
    return _encode(value)


def sha256(*parts: bytes | str) -> str:
    """Hex sha256 of the parts, each preceded by its length so that no two lists collide."""
    digest, waiting = hashlib.sha256(), bytearray()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        waiting += len(data).to_bytes(8, "little")
        if len(data) < _SMALL:
            waiting += data
        else:
            digest.update(waiting)
            digest.update(data)
            waiting.clear()
    digest.update(waiting)
    return digest.hexdigest()


@dataclass(frozen=True)
class Parent:
    """An input of the step: its kind and `content`, or for a stream, whose content is not known yet, its `run`."""

    kind: str
    content: str

    def to_json(self) -> dict[str, str]:
        """As kept in the attribute `parents`."""
        return {"kind": self.kind, "content": self.content}


@dataclass(frozen=True)
class WorkList:
    """The images a run is about, after split and limit.

    Attributes:
        total: number of images.
        sha256: digest of the ordered ids.
    """

    total: int
    sha256: str

    @classmethod
    def of(cls, ids: Iterable[str]) -> "WorkList":
        """The work list of these ids, in this order."""
        names = list(ids)
        return cls(len(names), sha256(*names))


@dataclass(frozen=True)
class Header:
    """Everything an artifact says about itself.

    Attributes:
        kind: name of the artifact's kind.
        classes: foreground class names; class id = position + 1.
        params: resolved options that decide the result.
        parents: the inputs.
        command: name of the step, as it enters `run`.
        argv: the command line, for the reader's eyes only.
        extra: the kind's further root attributes (`signed`, `map_size`, ...).
        provenance: split, device, library versions, seconds: recorded, never part of `run`.
        root: where images were found, a hint for later steps.
        work: the work list; None for kinds without images.
        shard: `I/N` when the artifact covers one shard of the work list only.
    """

    kind: str
    classes: tuple[str, ...]
    command: str
    params: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    argv: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    root: str = ""
    work: WorkList | None = None
    shard: str = ""
    run: str = ""
    version: int = 0
    created: str = ""
    xseg_version: str = __version__

    def __post_init__(self) -> None:
        if not self.run:
            # No reader would accept them, and hours of work lie between here and the first reader.
            if any_controls([self.command, self.params, self.classes]):
                raise UsageError(
                    f"the options or classes of {self.command!r} have control characters", "leave them out"
                )
            object.__setattr__(self, "run", self._run())
        if not self.version:
            object.__setattr__(self, "version", KINDS[self.kind].version)
        if not self.created:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            object.__setattr__(self, "created", now)

    def _run(self) -> str:
        identity = {
            "command": self.command,
            "method_version": METHOD_VERSION,
            "params": dict(self.params),
            "parents": [parent.to_json() for parent in self.parents],
            "classes": list(self.classes),
        }
        return hashlib.sha256(canonical(identity).encode()).hexdigest()

    def content(self, digests: Iterable[str]) -> str:
        """`content`: sha256 over kind, version, classes, run and the digests in index order."""
        return sha256(self.kind, str(self.version), canonical(list(self.classes)), self.run, *digests)

    def same_work(self, other: "Header") -> bool:
        """Whether both describe the same run over the same images."""
        return self.run == other.run and self.work == other.work

    def on_image(self, ragged: Ragged) -> bool:
        """Whether the array has one value per pixel of the image."""
        return ragged.on_image or self.extra.get("map_size") == "image"

    def with_shard(self, shard: str) -> "Header":
        """This header for one shard (or, with an empty string, for the whole work list)."""
        return replace(self, shard=shard)

    def attributes(self, content: str) -> dict[str, str | int]:
        """The root attributes as written.

        What is only there for people or as a hint, and comes from outside, is made plain: a command line or a
        directory may hold anything.
        """
        return {
            "format": "xseg",
            "kind": self.kind,
            "format_version": self.version,
            "xseg_version": self.xseg_version,
            "created": self.created,
            "command": canonical([_plain(argument) for argument in self.argv]),
            "params": canonical({"command": self.command, **self.params}),
            "classes": canonical(list(self.classes)),
            "run": self.run,
            "parents": canonical([parent.to_json() for parent in self.parents]),
            "provenance": canonical(_plain(self.provenance)),
            "root": _plain(self.root),
            "shard": self.shard,
            "content": content,
            **{key: value if isinstance(value, str) else canonical(value) for key, value in self.extra.items()},
            "complete": 1,
        }


def parse_header(attributes: Mapping[str, Any], where: str, work: WorkList | None = None) -> Header:
    """A header from root attributes.

    Args:
        attributes: as read; strings and integers.
        where: name of the input, for messages.
        work: from the `images` group.

    Raises:
        BadInput: not an xseg artifact, a kind or version this xseg does not read, a malformed attribute.
    """
    if attributes.get("format") != "xseg":
        raise BadInput(f"{where}: an HDF5 file, but not an xseg artifact", "make one with an xseg command")
    kind = KINDS.get(str(attributes.get("kind")))
    if kind is None:
        raise BadInput(f"{where}: unknown kind {attributes.get('kind')!r}", "upgrade xseg")
    version = attributes.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= kind.version:
        raise BadInput(f"{where}: {kind.name} version {version}, this xseg reads up to {kind.version}", "upgrade xseg")
    if attributes.get("complete") != 1:
        raise BadInput(f"{where}: not marked complete", "run the command that makes it again")
    if strange := next((name for name, value in attributes.items() if any_controls([name, value])), None):
        raise BadInput(f"{where}: the attribute {strange!r} has control characters", "it was not written by xseg")
    try:
        params = _typed(parse_json(attributes["params"]), dict)
        return Header(
            kind=kind.name,
            classes=tuple(_strings(parse_json(attributes["classes"]))),
            command=str(params.pop("command", "")),
            params=params,
            parents=tuple(Parent(str(p["kind"]), str(p["content"])) for p in parse_json(attributes["parents"])),
            argv=tuple(_strings(parse_json(attributes["command"]))),
            extra={name: _loose(attributes[name]) for name in kind.attributes},
            provenance=_typed(parse_json(attributes["provenance"]), dict),
            root=str(attributes["root"]),
            work=work,
            shard=str(attributes["shard"]),
            run=str(attributes["run"]),
            version=version,
            created=str(attributes["created"]),
            xseg_version=str(attributes["xseg_version"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{where}: root attributes are malformed ({error})", "it was not written by xseg") from error


def parse_json(text: str) -> Any:  # noqa: ANN401
    """What the JSON of an attribute says.

    Raises:
        ValueError: it is not JSON.
        TypeError: once its escapes are undone, a text in it has control characters.
    """
    value = json.loads(text, parse_constant=_no_number)
    if any_controls(value):
        raise TypeError("found control characters in JSON")
    return value


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, Mapping):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return without_controls(value, "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value


def _typed(value: object, kind: type) -> Any:  # noqa: ANN401
    if not isinstance(value, kind):
        raise TypeError(f"needed a {kind.__name__}, found {type(value).__name__}")
    return value


def _strings(value: object) -> list[str]:
    for text in _typed(value, list):
        if not isinstance(text, str):
            raise TypeError("needed a list of strings")
    return _typed(value, list)


def _loose(value: object) -> object:
    try:
        return parse_json(value) if isinstance(value, str) else value
    except ValueError:
        return value
