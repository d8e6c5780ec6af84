"""Nearest neighbours by the book: one pair at a time, in Python's own double precision."""

import math


def nearest(query, vectors, left_out):
    """Index of the nearest of `vectors` that is not `left_out`, the lowest of equal ones; None if none is left."""
    best, at = math.inf, None
    for index, vector in enumerate(vectors):
        away = math.fsum((float(a) - float(b)) ** 2 for a, b in zip(query, vector, strict=True))
        if index not in left_out and away < best:
            best, at = away, index
    return at
