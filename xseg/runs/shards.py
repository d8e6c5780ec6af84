"""`--shard I/N`: contiguous, nearly equal slices of the work list."""

import re
from dataclasses import dataclass

from xseg.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """Shard `number` of `count`, counted from 0."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`I/N` with 0 <= I < N.

        Raises:
            UsageError: anything else.
        """
        found = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
        if found and int(found[1]) < int(found[2]):
            return cls(int(found[1]), int(found[2]))
        raise UsageError(f"--shard {text}: needed I/N with I from 0 to N-1", "for example --shard 0/4 to --shard 3/4")

    def range(self, total: int) -> range:
        """Positions of the work list that belong to the shard."""
        return range(self.number * total // self.count, (self.number + 1) * total // self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def positions(shard: str, total: int) -> range:
    """Positions of the work list that an artifact marked `shard` is about; an empty mark stands for all.

    Raises:
        UsageError: the mark is malformed.
    """
    return Shard.parse(shard).range(total) if shard else range(total)
