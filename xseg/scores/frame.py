"""The frame a protocol scores in: maps and masks squashed to one size, as published, or left at the image's own."""

import numpy as np
import torch
from torch.nn import functional

from xseg.artifacts.record import Record
from xseg.runs.photographs import heatmaps_of, values_of
from xseg.scores.confusion import Ints
from xseg.scores.sweep import Maps

Frame = tuple[int, int] | None
"""Height and width in pixels; None for the size of each image."""

PUBLISHED: tuple[int, int] = (224, 224)


def maps_in_frame(record: Record, frame: Frame) -> tuple[Maps, Ints]:
    """Maps of a record in a frame: bilinear (align_corners=False), averaged over what a pixel covers where they shrink.

    Maps go from the grid they are stored on to the frame in one step.

    Returns:
        values (K,H,W) float32 as stored, in [-1,1], and class ids (K,) int64.
    """
    if frame is None:
        maps, class_id = heatmaps_of(record)
        return maps.numpy(), class_id.numpy()
    values = values_of(record)
    if not len(values):
        values = torch.zeros(0, *frame)
    elif tuple(values.shape[1:]) != frame:
        values = functional.interpolate(values[None], size=frame, mode="bilinear", align_corners=False, antialias=True)[
            0
        ]
    return values.numpy(), record.arrays["maps/class_id"].astype(np.int64)


def truth_in_frame(truth: Ints, frame: Frame) -> Ints:
    """A mask (H,W) in a frame: the value at the nearest pixel's centre, as Pillow resizes with NEAREST."""
    if frame is None or truth.shape == frame:
        return truth
    rows, columns = (_nearest(old, new) for old, new in zip(truth.shape, frame, strict=True))
    return truth[rows[:, None], columns]


def _nearest(old: int, new: int) -> Ints:
    return ((2 * np.arange(new) + 1) * old) // (2 * new)  # floor((i + 0.5) * old / new) in whole numbers
