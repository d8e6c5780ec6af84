"""Two perceptual colour maps, computed in Oklab: even steps of a map's value look like even steps."""

from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
STEPS = 256


def oklab_to_srgb(lightness: Floats, chroma: Floats, hue: Floats) -> Floats:
    """Colours of Oklab's polar form; source: B. Ottosson, "A perceptual color space for image processing", 2020.

    Args:
        lightness: (N,) 0 black to 1 white.
        chroma: (N,) 0 grey; about 0.3 at most.
        hue: (N,) degrees.

    Returns:
        (N, 3) gamma-encoded sRGB; outside [0, 1] where no screen shows the colour.
    """
    a, b = chroma * np.cos(np.deg2rad(hue)), chroma * np.sin(np.deg2rad(hue))
    cones = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    matrix = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = (matrix @ cones**3).T
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)


def _table(lightness: Floats, chroma: Floats, hue: Floats) -> npt.NDArray[np.uint8]:
    """Colours as (N, 3) uint8; chroma is lowered, at equal lightness and hue, until the colour can be shown."""
    low, high = np.zeros_like(chroma), np.full_like(chroma, 2.0)  # a grey can always be shown
    for _ in range(20):
        middle = (low + high) / 2
        colour = oklab_to_srgb(lightness, chroma * middle, hue)
        shown = ((colour >= 0) & (colour <= 1)).all(axis=1)
        low, high = np.where(shown, middle, low), np.where(shown, high, middle)
    colour = oklab_to_srgb(lightness, chroma * np.minimum(low, 1), hue)
    return np.rint(np.clip(colour, 0, 1) * 255).astype(np.uint8)


@cache
def sequential() -> npt.NDArray[np.uint8]:
    """Dark violet over red to light yellow, lightness rising evenly: (256, 3) uint8 for values 0..1."""
    t = np.linspace(0, 1, STEPS)
    return _table(0.18 + 0.78 * t, 0.04 + 0.145 * np.sin(np.pi * (0.1 + 0.8 * t)), 290 + 175 * t)


@cache
def diverging() -> npt.NDArray[np.uint8]:
    """Blue over near-white to red, lightness mirrored about 0: (256, 3) uint8 for values -1..1."""
    t = np.linspace(-1, 1, STEPS)
    return _table(0.97 - 0.5 * np.abs(t), 0.2 * np.abs(t), np.where(t < 0, 257.0, 27.0))
