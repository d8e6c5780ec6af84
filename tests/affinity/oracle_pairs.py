"""Pairs, loss and walk written out node by node or densely in NumPy float64; slow, and imports nothing from xseg."""

import numpy as np


def all_pairs(height, width, radius, margin=0):
    """Every pair ((y, x), (y, x)') within `radius`, once, found by comparing all nodes with all nodes.

    With a margin, only those whose upper (or left) node is that far from the left, right and lower border.
    """
    nodes = [(y, x) for y in range(height) for x in range(width)]
    for y, x in nodes:
        if y >= height - margin or not margin <= x < width - margin:
            continue
        for other_y, other_x in nodes:
            dy, dx = other_y - y, other_x - x
            if (dy, dx) > (0, 0) and dy * dy + dx * dx < radius * radius:
                yield (y, x), (other_y, other_x)


def dense_affinity(features, radius, margin=0):
    """(D, h, w) -> (N, N) symmetric with unit diagonal."""
    _, height, width = features.shape
    matrix = np.eye(height * width)
    for (y, x), (v, u) in all_pairs(height, width, radius, margin):
        value = np.exp(-np.mean(np.abs(features[:, y, x] - features[:, v, u])))
        matrix[y * width + x, v * width + u] = matrix[v * width + u, y * width + x] = value
    return matrix


def dense_transition(matrix, beta):
    """Column-normalised power of the affinities."""
    powered = matrix**beta
    return powered / powered.sum(axis=0)


def walked(maps, matrix, beta, steps):
    """(K, N) maps moved one step at a time."""
    chain = dense_transition(matrix, beta)
    for _ in range(steps):
        maps = maps @ chain
    return maps


def pooled(maps, stride):
    """(K, H, W) -> means over stride x stride cells of the zero-padded canvas."""
    count, height, width = maps.shape
    rows, columns = -(-height // stride), -(-width // stride)
    canvas = np.zeros((count, rows * stride, columns * stride))
    canvas[:, :height, :width] = maps
    return canvas.reshape(count, rows, stride, columns, stride).mean(axis=(2, 4))


def enlarged(grid, stride):
    """(K, h, w) -> bilinear, align_corners false, edge values repeated."""
    height, width = grid.shape[1:]

    def weights(size):
        matrix = np.zeros((size * stride, size))
        for pixel in range(size * stride):
            position = min(max((pixel + 0.5) / stride - 0.5, 0), size - 1)
            low = min(int(position), size - 1)
            matrix[pixel, low] += 1 - (position - low)
            matrix[pixel, min(low + 1, size - 1)] += position - low
        return matrix

    return np.einsum("yh,khw,xw->kyx", weights(height), grid, weights(width))


def loss(features, labels, radius, epsilon=1e-5):
    """psa's three-part loss, pair by pair: (B, C, h, w), (B, h, w) -> background, foreground, negative, total."""
    sums, counts = np.zeros(3), np.zeros(3)
    for image, label in zip(features, labels, strict=True):
        for (y, x), (v, u) in all_pairs(*label.shape, radius):
            here, there = label[y, x], label[v, u]
            if 255 in (here, there):
                continue
            affinity = np.exp(-np.abs(image[:, y, x] - image[:, v, u]).mean())
            kind = 2 if here != there else int(here != 0)
            sums[kind] -= np.log(1 + epsilon - affinity) if kind == 2 else np.log(affinity + epsilon)
            counts[kind] += 1
    background, foreground, negative = sums / (counts + 1e-5)
    return background, foreground, negative, background / 4 + foreground / 4 + negative / 2
