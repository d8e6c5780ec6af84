"""Slow float64 NumPy re-derivations: small networks, their maps, resampling. Imports nothing from xseg."""

import numpy as np
from PIL import Image


def conv(x, weight, bias, stride=1):
    """x (F,H,W), weight (G,F,3,3), padding 1 -> (G,h,w)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    height, width = (x.shape[1] - 1) // stride + 1, (x.shape[2] - 1) // stride + 1
    out = np.zeros((len(weight), height, width))
    for i in range(height):
        for j in range(width):
            patch = padded[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
            out[:, i, j] = (weight * patch).sum((1, 2, 3)) + bias
    return out


def features(state, image):
    """Two stride-2 convolutions with ReLU; image (3,H,W) normalised -> (F,h,w)."""
    hidden = np.maximum(conv(image, state["features.0.weight"], state["features.0.bias"], 2), 0)
    return np.maximum(conv(hidden, state["features.2.weight"], state["features.2.bias"], 2), 0)


def cam(state, image, target):
    """sum_c W_kc f_c without bias or ReLU."""
    return np.tensordot(state["fc.weight"][target].reshape(-1), features(state, image), 1)


def pooled_logit(state, image, target):
    """Logit of the mean-pooled network."""
    return cam(state, image, target).mean() + state["fc.bias"][target]


def deep_gradient(state, image, target):
    """Feature maps and the logit's gradient in them for: features -> 2x2 cell means -> linear -> ReLU -> linear."""
    maps = features(state, image)
    count, height, width = maps.shape
    rows, columns = cells(height), cells(width)
    pooled = np.array([[[maps[c, a:b, e:f].mean() for e, f in columns] for a, b in rows] for c in range(count)])
    hidden = state["fc1.weight"] @ pooled.reshape(-1) + state["fc1.bias"]
    back = ((state["fc.weight"][target] * (hidden > 0)) @ state["fc1.weight"]).reshape(count, 2, 2)
    gradient = np.zeros_like(maps)
    for r, (a, b) in enumerate(rows):
        for s, (e, f) in enumerate(columns):
            gradient[:, a:b, e:f] += back[:, r, s, None, None] / ((b - a) * (f - e))
    return maps, gradient


def cells(length):
    """Bounds of an adaptive pool's two cells: floor(i n / 2), ceil((i + 1) n / 2)."""
    return [(0, -(-length // 2)), (length // 2, length)]


def bilinear(array, shape):
    """(h,w) -> shape, pixel centres aligned, edges repeated."""
    grids = []
    for old, new in zip(array.shape, shape, strict=True):
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, None)
        low = np.minimum(at.astype(int), old - 1)
        high = np.minimum(low + 1, old - 1)
        weight = np.zeros((new, old))
        np.add.at(weight, (np.arange(new), low), 1 - (at - low))
        np.add.at(weight, (np.arange(new), high), at - low)
        grids.append(weight)
    return grids[0] @ array @ grids[1].T


def bicubic(image, shape):
    """(H,W,3) uint8 -> (h,w,3) float64 in [0,1] by Pillow's antialiased float resampling."""
    channels = [Image.fromarray(image[..., c].astype(np.float32), mode="F") for c in range(3)]
    small = [np.asarray(c.resize(shape[::-1], Image.Resampling.BICUBIC), np.float64) for c in channels]
    return np.clip(np.stack(small, -1), 0, 255) / 255
