"""Which images bring a mask, and which regions are to be ignored."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from xseg.artifacts.header import Parent, sha256
from xseg.classifier.samples import label_matrix
from xseg.datasets.decode import decode_mask
from xseg.datasets.index import Dataset, Item
from xseg.datasets.source import digest
from xseg.datasets.storage import open_storage
from xseg.errors import BadInput, UsageError
from xseg.seeding import generator
from xseg.training.order import balanced_weights

ALL = "all"


def masked_items(dataset: Dataset, ids: Sequence[str], told: str) -> list[int]:
    """Places in the training list of the images with these ids, which must have masks.

    Args:
        dataset: the training list.
        ids: of images; those that are not in the list have no part in the training.
        told: what named them, for messages.

    Raises:
        BadInput: none of them is in the list, or one has no mask.
    """
    wanted = set(ids)
    places = [place for place, item in enumerate(dataset.items) if item.id in wanted]
    if not places:
        raise BadInput(
            f"{told}: none of its {len(wanted)} images is in the training list", "check --split, or name others"
        )
    bare = [dataset.items[place].id for place in places if dataset.items[place].mask is None]
    if bare:
        raise BadInput(f"{told}: {bare[0]} has no mask ({len(bare)} of {len(places)} have none)", "name those that do")
    return places


def drawn_items(dataset: Dataset, count: int | None, seed: int, balance: float) -> list[int]:
    """Places of `count` images among those with masks, None for all of them.

    Fewer are a part of more, whatever the count: a sweep over it only adds masks.

    Args:
        dataset: the training list.
        count: how many.
        seed: of the draw.
        balance: images of rare classes come first: class frequency to the power -balance weighs the draw; 0: none does.

    Raises:
        BadInput: not so many images have a mask.
    """
    places = [place for place, item in enumerate(dataset.items) if item.mask is not None]
    if count is None:
        return places
    if count > len(places):
        raise BadInput(
            f"--masks {count}: only {len(places)} of the {len(dataset)} images in the training list have a mask",
            f"--masks {len(places)}" if places else "--masks 0, or add masks",
        )
    if not count:
        return []
    labels = label_matrix(dataset)[places]
    weights = balanced_weights(labels, balance) if (labels == 1).any() else np.ones(len(places))
    # the largest u^(1/w) are a weighted draw without replacement (Efraimidis and Spirakis 2006)
    keys = np.log(generator(seed, "masks").random(len(places))) / weights
    return sorted(places[k] for k in np.argsort(-keys, kind="stable")[:count])


def chosen_items(
    dataset: Dataset, given: str, split: Callable[[str], Dataset], *, seed: int, balance: float
) -> list[int]:
    """What `--masks` asks for.

    Args:
        dataset: the training list.
        given: a number, `all`, a text file of ids (one a line), or the name of a list of the data set.
        split: opens that list.
        seed: as in `drawn_items`, and so is `balance`.
        balance: see there.

    Raises:
        UsageError: none of these.
        BadInput: images without masks, or not in the training list.
    """
    if given == ALL or given.isdecimal():
        return drawn_items(dataset, None if given == ALL else int(given), seed, balance)
    told = f"--masks {given}"
    if Path(given).is_file():
        lines = Path(given).read_text(errors="replace").splitlines()
        return masked_items(dataset, [line.strip() for line in lines if line.strip()], told)
    try:
        named = split(given)
    except UsageError as error:
        raise UsageError(f"{told}: no number, no file and no list of {dataset.location}", error.hint) from error
    return masked_items(dataset, [item.id for item in named.items], told)


def masks_parent(dataset: Dataset, places: Sequence[int]) -> Parent:
    """Identity of the masks a network is trained on: ids and file contents."""
    items = [dataset.items[place] for place in places]
    return Parent("masks", sha256(*(f"{item.id}\t{digest(dataset.storage.read(str(item.mask)))}" for item in items)))


class Regions:
    """Regions to be ignored: `ID.png` for some of the images, not 0 where the image must not count.

    Args:
        location: a directory or archive.
        dataset: whose images they are of.

    Raises:
        InputMissing: nothing is there.
        BadInput: no file in it is one of an image of the data set.
    """

    def __init__(self, location: Path, dataset: Dataset) -> None:
        self._storage, self._location = open_storage(location), location
        self._files = {item.id: name for item in dataset.items if self._storage.exists(name := f"{item.id}.png")}
        if not self._files:
            raise BadInput(
                f"--ignore-region {location}: has a file for none of the {len(dataset)} images, "
                f"looked for {dataset.items[0].id}.png and so on",
                "name each file as its image's id",
            )

    def __len__(self) -> int:
        return len(self._files)

    @property
    def parent(self) -> Parent:
        """Identity: ids and file contents."""
        rows = (f"{name}\t{digest(self._storage.read(file))}" for name, file in self._files.items())
        return Parent("regions", sha256(*rows))

    def read(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """(H,W) bool; nowhere for an image without a file.

        Raises:
            BadInput: damaged, or of another size than the image.
        """
        file = self._files.get(item.id)
        if file is None:
            return np.zeros(size, bool)
        region = decode_mask(self._storage.read(file), f"{self._location}/{file}")
        if region.shape != tuple(size):
            found = f"{region.shape[0]} x {region.shape[1]} pixels, the image has {size[0]} x {size[1]}"
            raise BadInput(f"{self._location}/{file}: {found}", "regions must lie pixel on pixel over the image")
        return region > 0
