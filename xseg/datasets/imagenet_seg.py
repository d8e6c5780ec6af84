"""ImageNet-Segmentation (Guillaumin et al. 2014): gtsegs_ijcv.mat, photographs with foreground masks."""

from dataclasses import dataclass
from typing import ClassVar

from xseg.datasets.formats import FORMATS, Listing, Place
from xseg.datasets.index import Item
from xseg.datasets.mat import MatStorage, image_name, mask_name
from xseg.errors import BadInput

FOREGROUND = "foreground"


@FORMATS.register("imagenet-seg")
@dataclass(frozen=True)
class ImageNetSegmentation:
    """The one class is `foreground`, ids are the numbers of the images; there are no image-level labels."""

    order: ClassVar[int] = 5

    def recognises(self, place: Place) -> bool:
        """See `Format.recognises`."""
        return isinstance(place.storage, MatStorage)

    def splits(self, place: Place) -> list[str]:
        """See `Format.splits`: there are none."""
        return []

    def read(self, place: Place, split: str | None) -> Listing:
        """See `Format.read`."""
        if not isinstance(place.storage, MatStorage):
            raise BadInput(f"{place.location}: --format imagenet-seg needs a .mat file", "give gtsegs_ijcv.mat itself")
        count = len(place.storage)
        items = (Item(f"{n:06}", image_name(n), None, mask_name(n)) for n in range(count))
        return Listing((FOREGROUND,), tuple(items))
