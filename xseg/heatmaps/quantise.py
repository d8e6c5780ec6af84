"""From raw maps to what is stored, a fraction of each map's largest value and that value, and back."""

from typing import Literal

import numpy as np

from xseg.errors import BadInput, UsageError

DType = Literal["float16", "float32", "uint8"]


def stored_dtype(requested: str | None, signed: bool) -> DType:
    """The type maps are stored in: as requested, else float32 for signed maps and float16 for the rest.

    Raises:
        UsageError: not one of the three types, or uint8 for signed maps.
    """
    if requested is None:
        return "float32" if signed else "float16"
    if requested not in ("float16", "float32", "uint8"):
        raise UsageError(f"--dtype {requested}: maps are stored as float16, float32 or uint8")
    if requested == "uint8" and signed:
        raise UsageError("--dtype uint8: these maps are signed", "use float16 or float32")
    return requested  # type: ignore[return-value]


def quantise(maps: np.ndarray, dtype: DType) -> tuple[np.ndarray, np.ndarray]:
    """Divide each map by its largest absolute value and store it in `dtype`.

    Args:
        maps: (K,h,w) float32, raw.
        dtype: float16 or float32 (value x scale = raw), or uint8 (value / 255 x scale = raw; unsigned maps only).

    Returns:
        values (K,h,w) of `dtype`, in [-1,1] or 0..255, and scale (K,) float32, 0 for an all-zero map.

    Raises:
        BadInput: a map that is not finite.
        UsageError: uint8 for a map with negative values.
    """
    maps = np.asarray(maps, np.float32)
    if not np.isfinite(maps).all():
        raise BadInput("a heatmap has values that are not finite", "run without --amp, or with another --method")
    if dtype == "uint8" and (maps < 0).any():
        raise UsageError("--dtype uint8: these maps are signed", "use float16 or float32")
    scale = np.abs(maps).max(axis=(1, 2), initial=0).astype(np.float32)
    values = maps / np.where(scale > 0, scale, 1)[:, None, None]
    return (np.rint(values * 255) if dtype == "uint8" else values).astype(dtype), scale


def joint_scale(maps: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Maps of one image divided by their common maximum, so that they stay comparable.

    Args:
        maps: (K, H, W) float32, non-negative.
        dtype: float16, float32 or uint8.

    Returns:
        values (K, H, W) of `dtype` and scale (K,) float32, equal for all K.
    """
    top = np.float32(maps.max(initial=0))
    values = maps / (top if top > 0 else np.float32(1))
    return (np.rint(values * 255) if dtype == "uint8" else values).astype(dtype), np.full(len(maps), top, np.float32)


def dequantise(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Raw maps (K,h,w) float32 from what `quantise` returned."""
    unit = 255 if values.dtype == np.uint8 else 1
    return values.astype(np.float32) / np.float32(unit) * np.asarray(scale, np.float32)[:, None, None]
