"""Pixel-adaptive averages written out in float64 numpy, pixel by pixel; imports nothing from xseg."""

import math

import numpy as np


def neighbours(y, x, height, width, dilations):
    """Positions and distances of a pixel's neighbours, rows first; beyond the image its edge is repeated."""
    for step in dilations:
        for dy, dx in [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]:
            there = (min(max(y + dy * step, 0), height - 1), min(max(x + dx * step, 0), width - 1))
            yield there, step * math.sqrt(abs(dy) + abs(dx))


def softmax(energy):
    shifted = np.exp(energy - energy.max())
    return shifted / shifted.sum()


def par_weights(image, dilations, w1, w2, w3):
    """(A,H,W) of PAR: squares, deviations over the neighbours alone, a term of position; sums to 1 + w3."""
    height, width, _ = image.shape
    weights = np.zeros((8 * len(dilations), height, width))
    for y in range(height):
        for x in range(width):
            found = list(neighbours(y, x, height, width, dilations))
            colours = np.array([image[there] for there, _ in found], np.float64)
            distance = np.array([far for _, far in found])
            apart = np.abs(colours - image[y, x])
            energy = -(((apart / (colours.std(0, ddof=1) + 1e-8) / w1) ** 2).mean(1))
            place = -((distance / (distance.std(ddof=1) + 1e-8) / w2) ** 2)
            weights[:, y, x] = softmax(energy) + w3 * softmax(place)
    return weights


def pamr_weights(image, dilations, width_of_colour):
    """(A,H,W) of PAMR: no squares, the pixel counts once a window in the deviation, colour alone."""
    height, width, _ = image.shape
    weights = np.zeros((8 * len(dilations), height, width))
    for y in range(height):
        for x in range(width):
            colours = np.array([image[there] for there, _ in neighbours(y, x, height, width, dilations)], np.float64)
            with_own = np.concatenate([colours, np.repeat(image[y, x][None].astype(float), len(dilations), 0)])
            apart = np.abs(colours - image[y, x])
            weights[:, y, x] = softmax(-(apart / (1e-8 + width_of_colour * with_own.std(0, ddof=1))).mean(1))
    return weights


def averaged(maps, weights, dilations, iterations):
    """`maps` (K,H,W) after so many weighted means."""
    maps = maps.astype(np.float64)
    _, height, width = maps.shape
    for _ in range(iterations):
        blended = np.zeros_like(maps)
        for y in range(height):
            for x in range(width):
                for place, (there, _) in enumerate(neighbours(y, x, height, width, dilations)):
                    blended[:, y, x] += weights[place, y, x] * maps[(slice(None), *there)]
        maps = blended
    return maps
