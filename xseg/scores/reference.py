"""A second artifact beside the one that is read: its records by image id."""

from collections.abc import Container

from xseg.artifacts.record import Record
from xseg.errors import BadInput
from xseg.runs.source import RecordSource


class Beside:
    """Finds the record of an image that another source has just given.

    Both are usually in the same order, so that nothing waits; records that come too early are kept until asked for.

    Args:
        source: records of one run; read once.
        wanted: ids that may be asked for; None: all.
    """

    def __init__(self, source: RecordSource, wanted: Container[str] | None = None) -> None:
        self._source, self._wanted = source, wanted
        self._records = iter(source)
        self._waiting: dict[str, Record] = {}

    @property
    def failed(self) -> set[str]:
        """Ids of images that failed in the step that made the artifact; complete once an image was not found."""
        return {failure.id for failure in self._source.failures}

    def of(self, record: Record) -> Record | None:
        """What the second artifact has for the image of `record`, once; None if it does not have the image.

        Raises:
            BadInput: it was made from another picture, or is damaged.
        """
        found = self._waiting.pop(record.id, None)
        while found is None and (coming := next(self._records, None)) is not None:
            if coming.id == record.id:
                found = coming
            elif self._wanted is None or coming.id in self._wanted:
                self._waiting[coming.id] = coming
        if found is not None and _differ(found, record):
            raise BadInput(
                f"{record.id}: the {self._source.header.kind} beside it were made from another picture",
                "make both from the same images",
            )
        return found


def _differ(one: Record, other: Record) -> bool:
    return one.size != other.size or bool(one.source and other.source and one.source != other.source)
