"""A small data set that is drawn, not photographed: for the demo and for tests, with exact masks.

Most objects have a head, whose colours and pattern tell the class at once, and all have a larger body, of which the
outline and the peaks of a texture tell it while the colour between them says nothing: a classifier looks at heads
before bodies, so its heatmaps are uneven, cover some objects only partly and reach over the outlines of others.
Some bodies have the colour of the ground they stand on, and two of the classes mostly appear together.
"""

import csv
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from xseg.errors import CannotCreate, OutputFailed, UsageError
from xseg.seeding import generator

CLASSES = ("beetle", "crate", "arrow", "capsule", "cross", "kite")
_EMPTY = 0.06  # share of images without any object
_CAMOUFLAGED = 0.2  # share of bodies in the colour of the ground
_HEADLESS = 0.33  # share of objects whose head is plain: only they make a classifier look at bodies
_TOGETHER = 0.7  # chance that a crate brings an arrow
_OUTLINE = 35.0
_PEAK, _TINT = 0.35, 0.85  # where a body's texture takes on a shade of the head's colour, and how much
_TRIES = 40

Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]
Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Bodies in object coordinates: u along the axis, head at u = -0.75, both roughly -1..1.
_BODIES: tuple[Shape, ...] = (
    lambda u, v: u**2 + (v / 0.72) ** 2 < 1,
    lambda u, v: (abs(u) < 0.95) & (abs(v) < 0.6),
    lambda u, v: (u > -0.8) & (u < 1) & (abs(v) < 0.42 * (u + 1)),
    lambda u, v: np.maximum(abs(u) - 0.65, 0) ** 2 + v**2 < 0.4**2,
    lambda u, v: ((abs(u) < 1) & (abs(v) < 0.36)) | ((abs(u - 0.15) < 0.36) & (abs(v) < 0.85)),
    lambda u, v: abs(u) + abs(v) / 0.8 < 1,
)
_HEAD_CENTRE, _HEAD_RADIUS = -0.7, 0.42
# Patterns give -1..1. Heads: one for each class, in head coordinates.
_HEADS: tuple[Pattern, ...] = (
    lambda u, v: np.sign(np.hypot(u, v) - 0.55),
    lambda u, v: np.sign(np.sin(5.5 * u)),
    lambda u, v: np.sign(u * v),
    lambda u, v: np.sign(np.sin(5.5 * v)),
    lambda u, v: np.sign(np.minimum(abs(u), abs(v)) - 0.28),
    lambda u, v: np.sign(v),
)
_HEAD_COLOURS = np.array(
    [
        [[200, 30, 40], [250, 240, 230]],
        [[30, 60, 190], [250, 220, 60]],
        [[20, 20, 20], [80, 220, 90]],
        [[150, 30, 160], [240, 240, 120]],
        [[250, 130, 20], [30, 40, 110]],
        [[40, 190, 200], [190, 30, 100]],
    ],
    np.float64,
)
# Bodies: fine ones, in pixels along and across the object.
_TEXTURES: tuple[Pattern, ...] = (
    lambda x, y: np.sin(x * 1.1),
    lambda x, y: np.sin(y * 1.1),
    lambda x, y: np.sin(x * 0.9) * np.sin(y * 0.9) * 1.4,
    lambda x, y: np.sin((x + y) * 0.8),
    lambda x, y: np.sin((x + y) * 0.65) * np.sin((x - y) * 0.65) * 1.4,
    lambda x, y: np.sin(x * 0.55) + 0.4 * np.sin(y * 1.6),
)


@dataclass(frozen=True)
class _Pose:
    row: float
    column: float
    radius: float
    angle: float

    def coordinates(self, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Object coordinates (u, v) of every pixel centre."""
        rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
        down, right = (rows - self.row) / self.radius, (columns - self.column) / self.radius
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        return right * cosine + down * sine, down * cosine - right * sine


def render(seed: int, index: int, *, classes: int = 6, size: int = 112) -> tuple[np.ndarray, np.ndarray]:
    """Image number `index` of the data set `seed`, the same on every call.

    Args:
        seed: of the data set.
        index: number of the image; its first object is of class `index % classes`.
        classes: how many of `CLASSES` occur, 1..6.
        size: longest side possible; height and width are drawn from 3/4 of it upwards.

    Returns:
        (H, W, 3) uint8 and its mask (H, W) uint8: 0 background, 1..classes.

    Raises:
        ValueError: `classes` or `size` out of range.
    """
    if not 1 <= classes <= len(CLASSES) or size < 32:
        raise ValueError(f"classes {classes} and size {size}, needed 1..{len(CLASSES)} and 32 or more")
    rng = generator(seed, "synthetic", index)
    shape = int(rng.integers(size * 3 // 4, size + 1)), int(rng.integers(size * 3 // 4, size + 1))
    canvas = _background(rng, shape)
    mask = np.zeros(shape, np.uint8)
    _clutter(rng, canvas)
    kinds = _draw_classes(rng, index, classes)
    for kind in kinds:
        _add_object(rng, canvas, mask, kind, crowd=len(kinds))
    canvas += rng.normal(0, 3, canvas.shape)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), mask


def _draw_classes(rng: np.random.Generator, index: int, classes: int) -> list[int]:
    if rng.random() < _EMPTY:
        return []
    kinds = [index % classes]
    if kinds[0] == 1 and classes > 2 and rng.random() < _TOGETHER:
        kinds.append(2)
    while len(kinds) < 3 and rng.random() < 0.4:
        kinds.append(int(rng.integers(classes)))
    return kinds


def _colour(rng: np.random.Generator) -> np.ndarray:
    """A muted colour of any hue: (3,) in 0..255."""
    phase = 2 * np.pi * (rng.random() + np.arange(3) / 3)
    return 128 + rng.uniform(-35, 35) + rng.uniform(20, 55) * np.cos(phase)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> np.ndarray:
    """Bilinear noise over a grid of `cells`, about -1..1."""
    grid = rng.uniform(-1, 1, (cells + 1, cells + 1))
    rows, columns = (np.linspace(0, cells, length, endpoint=False) for length in shape)
    row, column = rows.astype(int), columns.astype(int)
    down, right = (rows - row)[:, None], columns - column
    top = grid[row][:, column] * (1 - right) + grid[row][:, column + 1] * right
    bottom = grid[row + 1][:, column] * (1 - right) + grid[row + 1][:, column + 1] * right
    return top * (1 - down) + bottom * down


def _background(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Ground of one or two colours with slow shading and a fine, faint weave: (H, W, 3) float64."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    canvas = np.broadcast_to(_colour(rng), (*shape, 3)).copy()
    if rng.random() < 0.5:
        horizon = shape[0] * (rng.uniform(0.3, 0.7) + 0.08 * _smooth_noise(rng, shape, 3))
        canvas[rows > horizon] = _colour(rng)
    angle, pitch = rng.uniform(0, np.pi), rng.uniform(0.35, 0.6)
    weave = np.sin(pitch * (rows * np.cos(angle) + columns * np.sin(angle)))
    return canvas + (14 * _smooth_noise(rng, shape, 4) + 7 * _smooth_noise(rng, shape, 16) + 5 * weave)[..., None]


def _clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Plain pebbles that belong to no class."""
    shape = canvas.shape[0], canvas.shape[1]
    for _ in range(int(rng.integers(0, 4))):
        radius = rng.uniform(0.04, 0.08) * min(shape)
        pose = _Pose(rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), radius, rng.uniform(0, np.pi))
        u, v = pose.coordinates(shape)
        canvas[u**2 + (v / 0.7) ** 2 < 1] = _colour(rng)


def _add_object(rng: np.random.Generator, canvas: np.ndarray, mask: np.ndarray, kind: int, crowd: int) -> None:
    """Draw one object where it hardly hides another; leave it out where no such place is found."""
    shape = mask.shape[0], mask.shape[1]
    for _ in range(_TRIES):
        radius = rng.uniform(0.3, 0.44) * min(shape) * (1, 0.85, 0.72)[crowd - 1]
        place = rng.uniform(radius * 0.7, np.array(shape) - radius * 0.7)
        pose = _Pose(place[0], place[1], radius, rng.uniform(0, 2 * np.pi))
        u, v = pose.coordinates(shape)
        head = np.hypot(u - _HEAD_CENTRE, v) < _HEAD_RADIUS
        whole = head | _BODIES[kind](u, v)
        if (whole & (mask > 0)).sum() <= 0.03 * whole.sum() and head.sum() > 0.2 * (_HEAD_RADIUS * radius) ** 2:
            break
    else:
        return
    visible = whole & (mask == 0)
    mask[visible] = kind + 1
    ground = np.median(canvas[visible], axis=0)
    colour = ground if rng.random() < _CAMOUFLAGED else _distant_colour(rng, ground)
    texture = _TEXTURES[kind](u * radius, v * radius)
    dark, light = _HEAD_COLOURS[kind]
    body = colour + 16 * texture[..., None] * np.array([1.0, 0.95, 0.9])
    peaks = texture > _PEAK
    body[peaks] += _TINT * (light - body[peaks])
    if rng.random() >= _HEADLESS:
        pattern = _HEADS[kind]((u - _HEAD_CENTRE) / _HEAD_RADIUS, v / _HEAD_RADIUS)
        body[head] = np.where(pattern[head][:, None] < 0, dark, light)
    body[_rim(whole)] = _OUTLINE
    canvas[visible] = body[visible]


def _distant_colour(rng: np.random.Generator, other: np.ndarray) -> np.ndarray:
    colour = _colour(rng)
    for _ in range(_TRIES):
        if np.abs(colour - other).max() >= 50:
            break
        colour = _colour(rng)
    return colour


def _rim(region: np.ndarray) -> np.ndarray:
    """Pixels of a region with a neighbour outside of it: (H, W) bool."""
    padded = np.pad(region, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region & ~inner


def write_synthetic(
    directory: str | Path, *, images: int = 320, classes: int = 6, size: int = 112, seed: int = 0
) -> Path:
    """Write `images` images in VOC layout; the last quarter is the split `val`, the rest `train`.

    Args:
        directory: made here; may exist if empty.
        images: how many, 2 or more.
        classes: how many classes, 1..6.
        size: longest side possible, pixels.
        seed: of the data set.

    Returns:
        The directory, complete: it appears under its name only when every file is written.

    Raises:
        UsageError: a number out of range.
        CannotCreate: the directory holds files already, or cannot be made.
        OutputFailed: writing failed, as on a full disk.
    """
    directory = Path(directory)
    if images < 2 or not 1 <= classes <= len(CLASSES) or size < 32:
        needed = f"2 images, 1..{len(CLASSES)} classes and a size of 32 or more"
        raise UsageError(f"synthetic data: {images} images, {classes} classes, size {size}; needed {needed}")
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise CannotCreate(f"{directory}: exists and is not empty", "choose another directory, or remove it")
        directory.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise CannotCreate(f"{directory}: cannot be made ({error.strerror})", "choose another directory") from error
    try:
        _write(work, images, classes, size, seed)
        work.chmod(0o755)
        work.replace(directory)
    except OSError as error:
        raise OutputFailed(f"{directory}: writing failed ({error.strerror})", "make room, then run it again") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return directory


def _write(root: Path, images: int, classes: int, size: int, seed: int) -> None:
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    names = CLASSES[:classes]
    ids = [f"{index:05d}" for index in range(images)]
    table = [("id", "classes")]
    for index, stem in enumerate(ids):
        image, mask = render(seed, index, classes=classes, size=size)
        Image.fromarray(image).save(root / "JPEGImages" / f"{stem}.jpg", quality=92, subsampling=0)
        indexed = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
        indexed.putpalette(_palette())
        indexed.save(root / "SegmentationClass" / f"{stem}.png")
        present = np.unique(mask[mask > 0])
        table.append((stem, " ".join(names[label - 1] for label in present)))
    train = images - max(1, images // 4)
    for split, members in (("train", ids[:train]), ("val", ids[train:])):
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in members))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table)


def _palette() -> list[int]:
    """The palette of PASCAL VOC: bit k of an id's three-bit groups sets bit 7 - k of red, green, blue."""
    colours = []
    for identity in range(256):
        for channel in range(3):
            colours.append(sum((identity >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)))
    return colours
