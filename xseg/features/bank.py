"""A `features` artifact, read in blocks: kept in memory where it fits, read again where it does not."""

from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import numpy as np

from xseg.artifacts.header import Header, Parent
from xseg.artifacts.record import Record
from xseg.artifacts.stream import locate
from xseg.errors import BadInput, UsageError
from xseg.features.neighbours import Block
from xseg.runs.source import RecordSource

KEPT = 1 << 30  # bytes of vectors that are kept in memory
_BLOCK = 16 << 20  # bytes of a block's vectors; double precision takes twice as many


class Bank:
    """Latent vectors of a set of images.

    Attributes:
        name: path, for messages.
        header: of the artifact.
        parent: its identity, for the next step's `run`.
        width: numbers in a vector.
        kept: whether it is small enough to be read once.
    """

    def __init__(self, name: str, keep: int = KEPT, block: int = _BLOCK) -> None:
        """Open a bank and check that it is complete; the vectors are read later.

        Args:
            name: path of the artifact or of the directory of its parts.
            keep: most bytes of vectors to keep in memory.
            block: bytes of vectors that are read at once.

        Raises:
            UsageError: a stream: the bank may have to be read more than once.
            BadInput, InputMissing: not a complete `features` artifact, or one without a vector.
        """
        if not all(location.again for location in locate([name])):
            raise UsageError(f"--bank {name}: a stream can be read only once", "save it to a file: -o bank.h5")
        self.name, self._block = name, block
        source = self._source()
        self.header: Header = source.header
        self.parent: Parent = source.parent
        with closing(iter(source)) as records:  # type: ignore[type-var] # a generator
            first = next(records, None)
        self.width = 0 if first is None else len(_vector(first))
        if not self.width:
            raise BadInput(f"{name}: no image of this bank has a vector", "make it again: xseg features")
        self.kept = 4 * self.width * len(source.expected) <= keep
        self._blocks: list[Block] | None = None

    def blocks(self) -> Iterator[Block]:
        """All vectors, some at a time.

        Raises:
            BadInput: damaged, or a vector of another length.
        """
        if not self.kept:
            return self._read()
        if self._blocks is None:
            self._blocks = list(self._read())
        return iter(self._blocks)

    def _source(self) -> RecordSource:
        # Neighbours are looked for in all of the bank: one shard of it would give others.
        return RecordSource([self.name], ("features",), inherit_shard=False)

    def _read(self) -> Iterator[Block]:
        records, count = iter(self._source()), max(1, self._block // (4 * self.width))
        while some := list(islice(records, count)):
            for record in some:
                if len(_vector(record)) != self.width:
                    found = f"{record.id} has a vector of {len(_vector(record))} numbers, others of {self.width}"
                    raise BadInput(f"{self.name}: {found}", "make the bank again: xseg features")
            yield Block(
                np.array([record.index for record in some], np.int64),
                [record.id for record in some],
                [record.source for record in some],
                np.stack([_vector(record) for record in some]),
            )


def _vector(record: Record) -> np.ndarray:
    return record.arrays["latent"]
