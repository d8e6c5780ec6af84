"""The step `import`: masks and heatmaps that other programs wrote, one file an image or one for all, as an artifact."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xseg.artifacts.header import Header, Parent, WorkList, sha256
from xseg.artifacts.record import Record
from xseg.datasets.index import Dataset
from xseg.datasets.source import digest
from xseg.datasets.storage import Storage, open_storage
from xseg.errors import BadInput, InputMissing, Status, UsageError
from xseg.exchange.annotations import Annotations
from xseg.exchange.npy import read_npy
from xseg.heatmaps.quantise import joint_scale, quantise, stored_dtype
from xseg.heatmaps.step import Labels
from xseg.runs.given import Given, ImageJob, jobs_of, reader
from xseg.runs.images import execute
from xseg.runs.provenance import provenance
from xseg.runs.runtime import Runtime

MASKS, MAPS = ".png", ".npy"
JSON, ANNOTATIONS = ".json", "annotations.json"
_IRN = ("high_res", "cam")


@dataclass(frozen=True)
class ImportOptions:
    """How files are read.

    Attributes:
        background: number 0 is the background and the first class has 1, as in psa's CRF scores; else the first class
            has 0, as in the CAMs of psa and irn. Masks always count from the background.
        array: which of irn's two arrays, `high_res` or `cam`; None: `high_res`.
        signed: values may be negative.
        dtype: as for `explain`.
    """

    background: bool = False
    array: str | None = None
    signed: bool = False
    dtype: str | None = None


def import_files(source: str, dataset: Dataset, options: ImportOptions, runtime: Runtime) -> Status:
    """Make masks of PNG files or of a COCO file, or heatmaps of `.npy` files.

    Args:
        source: directory or archive with a file for each image of the data set, named by its id, or with
            annotations.json; or such a file by itself.
        dataset: the images, and the classes in the order of the files' numbers.
        options: how files are read.
        runtime: shared options.

    Returns:
        0, or 3 when more images failed than allowed.

    Raises:
        InputMissing: no file there bears an image's id.
        BadInput: files of two kinds for these images, or a COCO file that cannot be read as a whole.
        UsageError: an option that masks do not have.
    """
    location = Path(source)
    single = location.name if location.suffix.lower() == JSON else None
    storage = open_storage(location.parent if single else location)
    if single and not storage.exists(single):
        raise InputMissing(f"{source}: not there", "check the path")
    kind = JSON if single else _kind(source, storage, dataset)
    if kind != MAPS and options != ImportOptions():
        raise UsageError(f"{source} holds masks, which have none of the options of heatmaps", "leave them out")
    files: _Masks | _Maps | _Annotated
    if kind == JSON:
        files = _Annotated(storage, single or ANNOTATIONS, dataset)
        dataset = replace(dataset, classes=files.found.classes)
        if bare := files.found.bare([item.id for item in dataset.items]):
            runtime.reporter.note(f"{bare} of {len(dataset)} images have no annotation: all background")
    else:
        files = _Masks(storage, dataset) if kind == MASKS else _Maps(storage, dataset, options)
    header = _header(files, dataset, options, runtime)
    jobs, read = jobs_of(dataset, runtime.shard), reader(dataset, Labels(dataset, dataset.classes).of)

    def load(job: ImageJob) -> Record:
        return files.record(read(job))

    return execute(runtime, header, jobs, load, list, total=len(jobs))


def _kind(source: str, storage: Storage, dataset: Dataset) -> str:
    found = [end for end in (MASKS, MAPS) if any(storage.exists(item.id + end) for item in dataset.items)]
    found += [JSON] * storage.exists(ANNOTATIONS)
    if not found:
        raise InputMissing(
            f"{source}: no file of an image of {dataset.location} is there, as {dataset.items[0].id}{MAPS}",
            f"files bear the images' ids and end in {MASKS} or {MAPS}; COCO's is called {ANNOTATIONS}",
        )
    if len(found) > 1:
        raise BadInput(
            f"{source}: has both {found[0]} and {found[1]} files of these images", "import one kind at a time"
        )
    return found[0]


def _header(files: "_Masks | _Maps | _Annotated", dataset: Dataset, options: ImportOptions, runtime: Runtime) -> Header:
    heatmaps = isinstance(files, _Maps)
    decided: dict[str, Any] = {**asdict(options), "dtype": stored_dtype(options.dtype, options.signed)}
    map_size = "model" if options.array == "cam" else "image"
    extra = {"signed": options.signed, "class_specific": True, "map_size": map_size}
    return Header(
        "heatmaps" if heatmaps else "masks",
        dataset.classes,
        "import",
        decided if heatmaps else {},
        parents=(Parent("files", files.digest),),
        argv=runtime.argv,
        extra=extra if heatmaps else {},
        provenance=provenance(None, dataset),
        root=str(dataset.root.absolute()),
        work=WorkList.of(item.id for item in dataset.items),
        shard=str(runtime.shard) if runtime.shard else "",
    )


def _digest(storage: Storage, dataset: Dataset, suffix: str) -> str:
    """Identity of the files of these images, one each; those that are absent are told when their image's turn comes."""
    names = [name for item in dataset.items if storage.exists(name := item.id + suffix)]
    return sha256(*(f"{name}\t{digest(storage.read(name))}" for name in names))


class _Annotated:
    """One COCO file of annotations."""

    def __init__(self, storage: Storage, name: str, dataset: Dataset) -> None:
        data = storage.read(name)
        self.found, self.digest = Annotations(data, name, dataset), digest(data)

    def record(self, given: Given) -> Record:
        """The record of an image."""
        height, width = given.image.shape[:2]
        return given.record({"masks": self.found.label_map(given.job.id, (height, width))})


class _Masks:
    """PNG files of class ids, 255 unknown."""

    def __init__(self, storage: Storage, dataset: Dataset) -> None:
        self._files, self.digest = replace(dataset, storage=storage), _digest(storage, dataset, MASKS)

    def record(self, given: Given) -> Record:
        """The record of an image."""
        name = given.job.id + MASKS
        if not self._files.storage.exists(name):
            raise InputMissing(f"{name} is not there", "make it, or take the image out of the list")
        height, width = given.image.shape[:2]
        mask = self._files.read_mask(replace(given.job.item, mask=name), (height, width))
        return given.record({"masks": mask})


class _Maps:
    """`.npy` files of scores."""

    def __init__(self, storage: Storage, dataset: Dataset, options: ImportOptions) -> None:
        self._storage, self._classes, self._options = storage, len(dataset.classes), options
        self.digest = _digest(storage, dataset, MAPS)

    def record(self, given: Given) -> Record:
        """The record of an image."""
        name = given.job.id + MAPS
        if not self._storage.exists(name):
            raise InputMissing(f"{name} is not there", "make it, or take the image out of the list")
        numbers, maps = self._numbered(read_npy(self._storage.read(name), name), name)
        class_id = np.array(numbers, np.int64) + (not self._options.background)
        self._check(class_id, maps, given.image.shape[:2], name)
        order = np.argsort(class_id)
        with_background = bool((class_id == 0).any())
        dtype = stored_dtype(self._options.dtype, self._options.signed)
        values, scale = (joint_scale if with_background else quantise)(maps[order], dtype)
        return given.record({"maps": values, "maps/class_id": class_id[order].astype(np.int32), "maps/scale": scale})

    def _numbered(self, found: object, name: str) -> tuple[Sequence[int], np.ndarray]:
        """Numbers of the classes, and their maps (K,h,w) float32."""
        if isinstance(found, dict) and "keys" in found:
            return found["keys"].tolist(), self._stacked(list(found.get(self._options.array or _IRN[0], [])), name)
        if self._options.array is not None:
            raise UsageError(f"--array {self._options.array}: {name} is not a file of irn", "leave it out")
        if isinstance(found, dict) and all(isinstance(key, int) for key in found):
            return list(found), self._stacked(list(found.values()), name)
        if isinstance(found, np.ndarray) and found.ndim == 3:
            return range(len(found)), self._stacked(list(found), name)
        raise BadInput(
            f"{name}: neither an array (classes,height,width) nor a dictionary of psa or irn",
            "save one map for each class: numpy.save(name, maps)",
        )

    def _stacked(self, maps: Sequence[object], name: str) -> np.ndarray:
        shapes = {np.shape(one) for one in maps}  # type: ignore[call-overload]
        if len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
            raise BadInput(f"{name}: its maps have the shapes {sorted(shapes)}, needed one height and width")
        return np.array(maps, np.float32).reshape(len(maps), *(next(iter(shapes), (0, 0))))

    def _check(self, class_id: np.ndarray, maps: np.ndarray, size: tuple[int, ...], name: str) -> None:
        low = 0 if self._options.background else 1
        if len(class_id) != len(maps) or len(np.unique(class_id)) != len(class_id):
            raise BadInput(f"{name}: {len(maps)} maps for the numbers {class_id.tolist()}")
        if len(class_id) and not (low <= class_id.min() and class_id.max() <= self._classes):
            found = f"{class_id.min() - low} to {class_id.max() - low}"
            hint = "number 0 is a class unless --background is given; the classes are those of the data set"
            raise BadInput(f"{name}: numbers {found}, needed 0 to {self._classes - low}", hint)
        if len(maps) and self._options.array != "cam" and maps.shape[1:] != size:
            found = " x ".join(map(str, maps.shape[1:]))
            raise BadInput(f"{name}: maps of {found} pixels, the image has {size[0]} x {size[1]}", _SIZES)
        if not self._options.signed and (maps < 0).any():
            raise BadInput(f"{name}: has negative values", "give --signed if they mean something")


_SIZES = "maps lie pixel on pixel over the EXIF-rotated image; irn's smaller ones: --array cam"
