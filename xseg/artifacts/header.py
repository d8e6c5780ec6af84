"""An artifact's identity: the root attributes, and the `run` and `content` digests that tie a chain together."""

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from xseg.artifacts.schema import KINDS
from xseg.errors import BadInput
from xseg.version import __version__

METHOD_VERSION = 1  # raised when a command's results change for the same parameters


def canonical(value: object) -> str:
    """JSON with one spelling per value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(*parts: bytes | str) -> str:
    """Hex sha256 of the parts, each preceded by its length so that no two lists collide."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
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

    def with_shard(self, shard: str) -> "Header":
        """This header for one shard (or, with an empty string, for the whole work list)."""
        return replace(self, shard=shard)

    def attributes(self, content: str) -> dict[str, str | int]:
        """The root attributes as written."""
        return {
            "format": "xseg",
            "kind": self.kind,
            "format_version": self.version,
            "xseg_version": self.xseg_version,
            "created": self.created,
            "command": canonical(list(self.argv)),
            "params": canonical({"command": self.command, **self.params}),
            "classes": canonical(list(self.classes)),
            "run": self.run,
            "parents": canonical([parent.to_json() for parent in self.parents]),
            "provenance": canonical(dict(self.provenance)),
            "root": self.root,
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
    try:
        params = _typed(_json(attributes["params"]), dict)
        return Header(
            kind=kind.name,
            classes=tuple(_strings(_json(attributes["classes"]))),
            command=str(params.pop("command", "")),
            params=params,
            parents=tuple(Parent(str(p["kind"]), str(p["content"])) for p in _json(attributes["parents"])),
            argv=tuple(_strings(_json(attributes["command"]))),
            extra={name: _loose(attributes[name]) for name in kind.attributes},
            provenance=_typed(_json(attributes["provenance"]), dict),
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


def _json(text: str) -> Any:  # noqa: ANN401
    return json.loads(text, parse_constant=_no_number)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _typed(value: object, kind: type) -> Any:  # noqa: ANN401
    if not isinstance(value, kind):
        raise TypeError(f"needed a {kind.__name__}, found {type(value).__name__}")
    return value


def _strings(value: object) -> list[str]:
    for text in _typed(value, list):
        if not isinstance(text, str) or any(ord(letter) < 32 for letter in text):
            raise TypeError("needed a list of plain strings")
    return _typed(value, list)


def _loose(value: object) -> object:
    try:
        return _json(value) if isinstance(value, str) else value
    except ValueError:
        return value
