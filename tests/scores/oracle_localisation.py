"""Localisation scores in plain loops over pixels; nothing from xseg."""

import math


def share(values, inside, known=None):
    """Sum of positive values inside over the sum of all; None without any."""
    part = total = 0.0
    for at, value in enumerate(values.ravel().tolist()):
        if known is not None and not known.ravel()[at]:
            continue
        total += max(value, 0.0)
        part += max(value, 0.0) * bool(inside.ravel()[at])
    return part / total if total else None


def hit(values, inside, known, tolerance=0):
    """Fraction of the maximal known pixels with a pixel of `inside` within the tolerance."""
    height, width = values.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    counted = [pixel for pixel in pixels if known[pixel]]
    best = max(values[pixel] for pixel in counted)
    if best <= 0:
        return None
    targets = [pixel for pixel in pixels if inside[pixel]]
    maximal = [pixel for pixel in counted if values[pixel] == best]
    found = [any(math.dist(pixel, target) <= tolerance for target in targets) for pixel in maximal]
    return sum(found) / len(found)


def mean(values):
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else None
