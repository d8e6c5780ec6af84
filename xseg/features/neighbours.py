"""The nearest neighbour of latent vectors in a bank that comes in blocks, exact in double precision."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from xseg.shapes import check_shapes

#: A vector this close to the query, as a fraction of the query's length, is a copy of it: rounding in float32, and
#: other batch sizes, move a vector of an equal picture that far.
COPY = 1e-5


@dataclass(frozen=True)
class Block:
    """Some images of a bank.

    Attributes:
        index: (M,) int64, position in the bank's work list.
        ids: M ids.
        sources: M sha256 (hex) of the image files.
        vectors: (M,F) float32.
    """

    index: np.ndarray
    ids: Sequence[str]
    sources: Sequence[str]
    vectors: np.ndarray


@dataclass(frozen=True)
class Neighbour:
    """The image of the bank whose vector is nearest.

    Attributes:
        index: its position in the bank's work list.
        id: its id.
        distance: Euclidean.
        vector: (F,) float32.
    """

    index: int
    id: str
    distance: float
    vector: np.ndarray


def nearest(
    queries: np.ndarray, ids: Sequence[str], sources: Sequence[str], blocks: Iterable[Block]
) -> list[Neighbour | None]:
    """The nearest neighbour of each query but itself: Euclidean, of equally near ones that of the lowest index.

    Left out is what is the query's own picture: the image of its id, one whose file has the same bytes, and vectors
    that are a copy of the query's (`COPY`), such as those of the same picture in another file. Their difference from
    it is zero or rounding.

    Args:
        queries: (Q,F) float32.
        ids: Q ids of their images.
        sources: Q sha256 (hex) of their images' files.
        blocks: the bank, in any order and division.

    Returns:
        One for each query; None where nothing but the query's own picture is there.
    """
    best: list[Neighbour | None] = [None] * len(queries)
    wide = queries.astype(np.float64)
    for block in blocks:
        check_shapes(queries=(queries, "Q F"), vectors=(block.vectors, "M F"), index=(block.index, "M"))
        vectors, names, files = block.vectors.astype(np.float64), np.array(block.ids), np.array(block.sources)
        for number, query in enumerate(wide):
            squares = np.square(vectors - query).sum(1)
            own = (names == ids[number]) | (files == sources[number])
            own |= squares <= (COPY**2) * np.square(query).sum()
            best[number] = _nearer(best[number], _nearest_in(block, np.where(own, np.inf, squares)))
    return best


def _nearest_in(block: Block, squares: np.ndarray) -> Neighbour | None:
    if not len(squares) or not np.isfinite(least := squares.min()):
        return None
    ties = np.flatnonzero(squares == least)
    at = int(ties[np.argmin(block.index[ties])])
    return Neighbour(int(block.index[at]), block.ids[at], float(np.sqrt(least)), block.vectors[at])


def _nearer(one: Neighbour | None, other: Neighbour | None) -> Neighbour | None:
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda found: (found.distance, found.index))
