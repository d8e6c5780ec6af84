"""What lies on top of one another in the gallery, each as small as it looks good: photograph, heatmap, label map."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from xseg.errors import BadInput
from xseg.pictures.overlay import Pixels, colour_steps
from xseg.pictures.palette import Ints, colours
from xseg.scores.frame import truth_in_frame
from xseg.shapes import check_shapes

_QUALITY = 80
_PALETTE = 256
_STEPS = 64  # colours of a heatmap: half the bytes of 256, and no eye sees the difference through a photograph


def fitted(grid: tuple[int, ...], longest: int) -> tuple[int, int]:
    """Height and width shrunk so that the long side is at most `longest`; aspect kept, never enlarged."""
    height, width = grid
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def photograph_layer(image: Pixels, longest: int) -> bytes:
    """A photograph as a small JPEG.

    Args:
        image: (H, W, 3) uint8.
        longest: pixels of the long side.

    Raises:
        ValueError: another shape.
    """
    check_shapes(image=(image, "H W 3"))
    height, width = fitted(image.shape[:2], longest)
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def heatmap_layer(heatmap: npt.NDArray[np.floating], longest: int) -> bytes:
    """A heatmap as a small palette PNG: violet to yellow for 0..1, or blue, white, red where a value is negative.

    Args:
        heatmap: (h, w) floats in [-1, 1], on any grid over the image.
        longest: pixels of the long side.

    Raises:
        ValueError: another number of axes.
    """
    check_shapes(heatmap=(heatmap, "h w"))
    values = np.asarray(heatmap, np.float32)
    height, width = fitted(values.shape, longest)
    values = np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))
    steps, table = colour_steps(values, signed=bool((heatmap < 0).any()), limit=1.0)
    kept = np.rint(np.linspace(0, len(table) - 1, _STEPS)).astype(np.intp)
    return _palette_png((steps // (len(table) // _STEPS)).astype(np.uint8), table[kept])


def mask_layer(mask: Ints, longest: int) -> bytes:
    """A label map as a small palette PNG in the colours of its classes, see-through where it is background.

    Args:
        mask: (H, W) class ids, 0 the background.
        longest: pixels of the long side.

    Raises:
        ValueError: another number of axes.
        BadInput: more than 256 classes in one image.
    """
    check_shapes(mask=(mask, "H W"))
    height, width = fitted(mask.shape, longest)
    ids, places = np.unique(truth_in_frame(mask, (height, width)), return_inverse=True)
    if len(ids) > _PALETTE:
        raise BadInput(
            f"a label map of {len(ids)} classes, needed at most {_PALETTE} in one image", "draw larger regions"
        )
    return _palette_png(places.reshape(height, width).astype(np.uint8), colours(ids), opaque=ids != 0)


def _palette_png(places: Pixels, palette: Pixels, opaque: npt.NDArray[np.bool_] | None = None) -> bytes:
    picture = Image.fromarray(places)
    picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    alpha = {} if opaque is None else {"transparency": (opaque * np.uint8(255)).astype(np.uint8).tobytes()}
    picture.save(buffer, "PNG", optimize=True, **alpha)
    return buffer.getvalue()
