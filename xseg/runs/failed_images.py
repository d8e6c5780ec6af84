"""Images that could not be scored or drawn, while the others go on."""

from collections import Counter
from typing import Self

from xseg.errors import XsegError
from xseg.runs.reporter import Reporter


class FailedImages:
    """Tells every image that fails; of several that fail for the same reason the first, and at the end how many.

    Attributes:
        ids: the images that failed.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._reasons: Counter[str] = Counter()
        self.ids: set[str] = set()

    def __len__(self) -> int:
        """How many images failed."""
        return len(self.ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.tell_repeated()

    def add(self, image: str, error: XsegError) -> None:
        """The image with this id fails."""
        self.ids.add(image)
        reason = str(error)
        self._reasons[reason] += 1
        if self._reasons[reason] == 1:
            self._reporter.note(f"failed: {image}: {reason}")
        else:
            self._reporter.detail(f"failed: {image}: {reason}")

    def tell_repeated(self) -> None:
        """Tell how many images failed for reasons that were told once; also done at the end of a `with`."""
        for reason, count in self._reasons.items():
            if count > 1:
                self._reporter.note(f"failed: {count - 1} more images: {reason}")
        self._reasons.clear()
