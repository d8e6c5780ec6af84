"""Records from artifacts of an earlier step: one run, one work list, every image exactly once."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from xseg.artifacts.decode import Part
from xseg.artifacts.header import Header, Parent
from xseg.artifacts.record import Failure, Record
from xseg.artifacts.schema import KINDS
from xseg.artifacts.stream import Location, locate
from xseg.errors import BadInput, UsageError
from xseg.runs.shards import Shard, positions


class RecordSource:
    """The images of one artifact, however many files, parts or streams it comes in.

    Iterate over it once. Coverage is checked beforehand for files and at the end for streams, so that a producer
    that died between two parts is noticed.

    Attributes:
        header: of the first part; the others agree with it.
        parent: identity of the input for the next step's `run`.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        kinds: Sequence[str],
        *,
        allow_missing: bool = False,
        shard: Shard | None = None,
        inherit_shard: bool = True,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Open the inputs and check what can be checked before the work begins.

        Args:
            inputs: paths, directories of parts, or `-`.
            kinds: accepted kinds of artifact.
            allow_missing: accept images that are in the work list but not in the input.
            shard: only this slice of the work list is wanted.
            inherit_shard: one shard as input makes one shard as output; otherwise the whole work list is needed.
            notice: told about repeated images.

        Raises:
            BadInput: wrong kind, mixed runs, missing images, damage.
        """
        self._kinds = kinds
        self._allow_missing = allow_missing
        self._notice = notice
        self._chosen, self._inherit = shard, inherit_shard
        self._seen: dict[int, str] = {}
        self._failed: dict[int, Failure] = {}
        self._shards: set[str] = set()
        locations = locate(inputs)
        self._scanned = all(location.again for location in locations)
        self._parts = self._all_parts(locations)
        if self._scanned:
            self.header, content = self._scan(self._parts)
            self._parts = self._all_parts(locations)
        else:
            first = next(self._parts)
            self._check(first, first.header)
            self.header, content = first.header, ""
            self._parts = self._prepended(first, self._parts)
        # Of a stream or a shard the content of the whole is not known; the run stands for it, so that the results
        # of all shards are of one run again.
        known = self._scanned and not self._single_shard
        self.parent = Parent(self.header.kind, content if known else f"run:{self.header.run}")
        if self._scanned:
            self._check_coverage(self._indices)

    @property
    def again(self) -> bool:
        """Whether the input can be read a second time, as files can and streams cannot."""
        return self._scanned

    @property
    def shard(self) -> Shard | None:
        """The slice of the work list that the result is about; of a stream, as far as it is known by now."""
        if self._chosen is None and self._inherit and self._single_shard:
            return Shard.parse(self._single_shard)
        return self._chosen

    @property
    def _single_shard(self) -> str:
        return next(iter(self._shards)) if len(self._shards) == 1 else ""

    @property
    def expected(self) -> range:
        """Positions of the work list that are needed."""
        return positions(str(self.shard or ""), self._total)

    @property
    def failures(self) -> list[Failure]:
        """Images that failed in an earlier step and did not succeed later; complete once the iteration has ended."""
        return [failure for index, failure in sorted(self._failed.items()) if index not in self._seen]

    def _all_parts(self, locations: Sequence[Location]) -> Iterator[Part]:
        for location in locations:
            yield from location.parts()

    def _prepended(self, first: Part, rest: Iterator[Part]) -> Iterator[Part]:
        yield first
        yield from rest

    def _scan(self, parts: Iterator[Part]) -> tuple[Header, str]:
        header: Header | None = None
        digests: dict[int, str] = {}
        failed: set[int] = set()
        for part in parts:
            header = header or part.header
            self._check(part, header)
            digests.update(zip(part.index.tolist(), part.digests, strict=True))
            failed |= {failure.index for failure in part.failures}
        if header is None:
            raise BadInput("no input", "give at least one artifact")
        self._indices = {*digests, *failed}
        return header, header.content(digests[index] for index in sorted(digests))

    def _check(self, part: Part, first: Header) -> None:
        header = part.header
        if header.kind not in self._kinds:
            needed = " or ".join(self._kinds)
            made = KINDS[self._kinds[0]].made_by
            raise BadInput(f"{part.where} holds {header.kind}, this step needs {needed}", f"make it with: {made}")
        for what, same in (
            ("kind", header.kind == first.kind),
            ("classes", header.classes == first.classes),
            ("run", header.run == first.run),
            ("work list", header.work == first.work),
        ):
            if not same:
                raise BadInput(
                    f"{part.where}: its {what} differs from that of the first input",
                    "give the parts of one run only; compare them with: xseg info FILE...",
                )
        self._check_shard(part)

    def _check_shard(self, part: Part) -> None:
        self._total = part.header.work.total if part.header.work else 0
        try:
            own = positions(part.header.shard, self._total)
        except UsageError as error:
            raise BadInput(f"{part.where}: the attribute shard is {part.header.shard!r}") from error
        if not all(index in own for index in (*part.index.tolist(), *(failure.index for failure in part.failures))):
            raise BadInput(f"{part.where}: has images that are not of its shard {part.header.shard}")
        self._shards.add(part.header.shard)

    def require_classes(self, classes: Sequence[str], owner: str) -> None:
        """Refuse to go on with something made for other classes.

        Args:
            classes: names in order, as `owner` has them.
            owner: what it is, for the message.

        Raises:
            BadInput: they differ in names or order.
        """
        ours = self.header.classes
        if ours != tuple(classes):
            pairs = enumerate(zip(ours, classes, strict=False))
            at = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(classes)))
            found = [names[at] if at < len(names) else "nothing" for names in (ours, classes)]
            raise BadInput(
                f"{owner} has other classes than the {self.header.kind}:"
                f" number {at + 1} is {found[1]!r} there and {found[0]!r} here",
                "use artifacts and data of one set of classes; compare with: xseg info FILE",
            )

    def __iter__(self) -> Iterator[Record]:
        for part in self._parts:
            self._check(part, self.header)
            wanted = self._chosen.range(self._total) if self._chosen else range(self._total)
            self._failed |= {failure.index: failure for failure in part.failures if failure.index in wanted}
            for position, index in enumerate(part.index.tolist()):
                if index not in wanted:
                    continue
                if index in self._seen:
                    self._repeated(part, position, index)
                    continue
                self._seen[index] = part.digests[position]
                yield part.record(position)
        if not self._scanned:
            self._check_coverage({*self._seen, *self._failed})

    def _repeated(self, part: Part, position: int, index: int) -> None:
        if self._seen[index] != part.digests[position]:
            raise BadInput(f"{part.where}: {part.ids[position]} is there twice with different data", "give it once")
        self._notice(f"{part.where}: {part.ids[position]} is there twice; the second copy is equal and left out")

    def _check_coverage(self, seen: set[int]) -> None:
        missing = [index for index in self.expected if index not in seen]
        if missing and not self._allow_missing:
            spans = np.array(missing)
            raise BadInput(
                f"{len(missing)} of {len(self.expected)} images are missing from the {self.header.kind}"
                f" (positions {spans.min()} to {spans.max()} of the work list)",
                "the step before did not finish; run it again, or go on without them with --allow-missing",
            )
