"""Where a pixel of a training crop comes from, one pixel at a time. Imports nothing from xseg."""

from fractions import Fraction


def source_pixel(geometry, row, column):
    """(row, column) in the original of a crop pixel's centre, None in the padding."""
    y, x = row + geometry.offset[0], column + geometry.offset[1]
    height, width = geometry.resized
    if not (0 <= y < height and 0 <= x < width):
        return None
    if geometry.flip:
        x = width - 1 - x
    half = Fraction(1, 2)
    return (
        int((y + half) * Fraction(geometry.source[0], height)),
        int((x + half) * Fraction(geometry.source[1], width)),
    )
