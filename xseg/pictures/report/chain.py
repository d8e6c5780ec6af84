"""Which artifact was made from which: the steps behind a report, in order."""

from collections.abc import Sequence
from dataclasses import dataclass

from xseg.artifacts.header import Header, Parent


@dataclass(frozen=True)
class Known:
    """An input of the report: its name, header and identity (its `content`, or `run:...` of a stream)."""

    name: str
    header: Header
    identity: str


@dataclass(frozen=True)
class Node:
    """A step of the chain.

    Attributes:
        kind: of the artifact, or `dataset` or `weights`.
        identity: its content; of a stream `run:...`.
        known: the input that it is; None if it is only named as a parent.
        parents: places of what it was made from, in the list of all nodes.
        depth: how many steps lie before it at most.
    """

    kind: str
    identity: str
    known: Known | None
    parents: tuple[int, ...]
    depth: int


def chain_of(inputs: Sequence[Known]) -> list[Node]:
    """The inputs and all that they name as parents, parents first, otherwise in order of appearance.

    A parent that is one of the inputs is found by its content, or by its run where it was a stream.
    """
    places: dict[str, int] = {}
    found: list[tuple[str, str, Known | None]] = []
    for known in inputs:
        for name in (known.identity, f"run:{known.header.run}"):
            places.setdefault(name, len(found))
        found.append((known.header.kind, known.identity, known))
    for known in inputs:
        for parent in known.header.parents:
            if parent.content not in places:
                places[parent.content] = len(found)
                found.append((parent.kind, parent.content, None))
    parents = [_parents(known.header.parents, places, at) if known else () for at, (_, _, known) in enumerate(found)]
    depths = _depths(parents)
    order = sorted(range(len(found)), key=lambda at: depths[at])
    moved = {at: place for place, at in enumerate(order)}
    return [
        Node(*found[at], parents=tuple(sorted(moved[parent] for parent in parents[at])), depth=depths[at])
        for at in order
    ]


def _parents(parents: Sequence[Parent], places: dict[str, int], own: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(place for parent in parents if (place := places[parent.content]) != own))


def _depths(parents: Sequence[tuple[int, ...]]) -> list[int]:
    depths = [0] * len(parents)
    for _ in parents:  # as often as the longest way is long; forged parents in a circle end, too
        depths = [max((depths[parent] + 1 for parent in own), default=0) for own in parents]
    return [min(depth, len(parents)) for depth in depths]
