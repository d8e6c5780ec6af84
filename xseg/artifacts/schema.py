"""What each kind of artifact holds: arrays, axes, dtypes, and who makes it. `docs/artifacts.md` in code."""

from dataclasses import dataclass, field

FORMAT = "xseg"
CHUNK = 256 * 1024  # elements; parts of equal dtype then share chunk boundaries
SMALL = 32 * 1024  # elements; below this a contiguous array is smaller than one padded chunk


@dataclass(frozen=True)
class Ragged:
    """One array per image, stored end to end.

    Attributes:
        name: HDF5 group that holds `values`, `offsets` and `shape`.
        ndim: number of axes of one image's array.
        dtypes: NumPy names of the dtypes it may have.
        columns: further values per entry of the first axis (name -> dtype), such as the class of each map.
        required: whether every artifact of the kind has it.
        on_image: whether it has one value per pixel of the image, whatever `map_size` says.
    """

    name: str
    ndim: int
    dtypes: tuple[str, ...]
    columns: dict[str, str] = field(default_factory=dict)
    required: bool = True
    on_image: bool = True


@dataclass(frozen=True)
class Kind:
    """A kind of artifact.

    Attributes:
        name: value of the root attribute `kind`.
        version: the format version this xseg writes; it reads this and all lower ones.
        made_by: a command that makes one.
        arrays: ragged arrays per image; empty for kinds without images.
        attributes: root attributes beyond the common ones.
        weights: whether it holds a network (`weights/...` and `config`).
    """

    name: str
    version: int
    made_by: str
    arrays: tuple[Ragged, ...] = ()
    attributes: tuple[str, ...] = ()
    weights: bool = False

    @property
    def per_image(self) -> bool:
        """Whether it holds one record per image."""
        return bool(self.arrays)


LABEL_DTYPES = ("uint8", "uint16")

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("classifier", 1, "xseg train-cls DATASET", weights=True),
        Kind(
            "heatmaps",
            1,
            "xseg explain CLASSIFIER DATASET",
            (
                Ragged(
                    "maps",
                    3,
                    ("float16", "float32", "uint8"),
                    {"class_id": "int32", "scale": "float32"},
                    on_image=False,
                ),
            ),
            ("signed", "class_specific", "map_size"),
        ),
        Kind(
            "pseudolabels",
            1,
            "xseg crf HEATMAPS",
            (
                Ragged("labels", 2, LABEL_DTYPES),
                Ragged("low", 3, ("float16",), {"class_id": "int32"}, required=False),
                Ragged("high", 3, ("float16",), {"class_id": "int32"}, required=False),
            ),
        ),
        Kind("masks", 1, "xseg crf HEATMAPS --masks", (Ragged("masks", 2, LABEL_DTYPES),)),
        Kind(
            "features",
            1,
            "xseg features CLASSIFIER DATASET",
            (Ragged("latent", 1, ("float32",), on_image=False),),
            ("layer",),
        ),
        Kind("affinity", 1, "xseg affinity-train PSEUDOLABELS CLASSIFIER", weights=True),
        Kind("segmenter", 1, "xseg train-seg MASKS", weights=True),
        Kind("scores", 1, "xseg evaluate INPUTS --dataset DATASET"),
    )
}
