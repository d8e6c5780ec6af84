"""Images of a data set by the names that other files call them."""

from collections import defaultdict
from pathlib import PurePosixPath

from xseg.datasets.index import Dataset
from xseg.datasets.names import without_suffix
from xseg.errors import BadInput


class Wanted:
    """The images of a data set, found by path, id, last part of the id, or number.

    Args:
        dataset: the images.
        where: the file that the names come from, for messages.
    """

    def __init__(self, dataset: Dataset, where: str) -> None:
        self._where = where
        self._exact = {name: item.id for item in dataset.items for name in (item.path, item.id)}
        self._last: dict[str | int, list[str]] = defaultdict(list)
        for item in dataset.items:
            stem = PurePosixPath(item.id).name
            self._last[stem].append(item.id)
            if stem.isdecimal():
                self._last[int(stem)].append(item.id)

    def of(self, file_name: object, number: int | str) -> str | None:
        """Id of the image with this file name or, where there is none, this number or name; None: it is not wanted.

        Raises:
            BadInput: several images bear the name.
        """
        called = file_name if isinstance(file_name, str) else number
        exact = without_suffix(called) if isinstance(called, str) else str(called)
        for name in (called, exact):
            if name in self._exact:
                return self._exact[str(name)]
        found = self._last.get(PurePosixPath(exact).name if isinstance(called, str) else called, [])
        if len(found) > 1:
            raise BadInput(
                f"{self._where}: {called} may be {found[0]} or {found[1]}", "give file_name as the whole path"
            )
        return found[0] if found else None
