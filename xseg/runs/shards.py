"""`--shard I/N`: contiguous, nearly equal slices of the work list."""

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
        number, slash, count = text.partition("/")
        if slash and number.isdigit() and count.isdigit() and int(number) < int(count):
            return cls(int(number), int(count))
        raise UsageError(f"--shard {text}: needed I/N with I from 0 to N-1", "for example --shard 0/4 to --shard 3/4")

    def range(self, total: int) -> range:
        """Positions of the work list that belong to the shard."""
        return range(self.number * total // self.count, (self.number + 1) * total // self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
