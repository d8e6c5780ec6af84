"""What artifacts are called on the page: as short as tells them apart."""

from collections.abc import Sequence
from pathlib import PurePath


def short_names(paths: Sequence[str]) -> list[str]:
    """The last parts of paths, as many as no other path ends in; a path that is there twice stays whole."""
    parts = [PurePath(path).parts or (path,) for path in paths]
    return [_shortest(own, [other for k, other in enumerate(parts) if k != place]) for place, own in enumerate(parts)]


def _shortest(own: Sequence[str], others: Sequence[Sequence[str]]) -> str:
    lengths = range(1, len(own) + 1)
    fits = (count for count in lengths if all(other[-count:] != own[-count:] for other in others))
    return str(PurePath(*own[-next(fits, len(own)) :]))
