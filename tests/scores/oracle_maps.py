"""Comparisons of maps in plain float64 loops; nothing from xseg."""

import numpy as np


def ssim(first, second, data_range, size=11, sigma=1.5):
    first, second = np.asarray(first, float), np.asarray(second, float)
    offsets = np.arange(size) - size // 2
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * sigma**2))
    window /= window.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    found = []
    for y in range(first.shape[0] - size + 1):
        for x in range(first.shape[1] - size + 1):
            a, b = first[y : y + size, x : x + size], second[y : y + size, x : x + size]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            both = (window * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
            found.append(luminance * (2 * both + c2) / (var_a + var_b + c2))
    return np.mean(found)


def hog(image, cell=16, block=3, bins=9):
    height, width = image.shape
    rows, columns = height // cell, width // cell
    cells = np.zeros((rows, columns, bins))
    for y in range(rows * cell):
        for x in range(columns * cell):
            dy = image[y + 1, x] - image[y - 1, x] if 0 < y < height - 1 else 0.0
            dx = image[y, x + 1] - image[y, x - 1] if 0 < x < width - 1 else 0.0
            angle = np.degrees(np.arctan2(dy, dx)) % 180
            for k in range(bins):
                if 180 / bins * k <= angle < 180 / bins * (k + 1):
                    cells[y // cell, x // cell, k] += np.sqrt(dx * dx + dy * dy) / cell**2
    out = []
    for y in range(rows - block + 1):
        for x in range(columns - block + 1):
            part = cells[y : y + block, x : x + block].ravel()
            part = np.minimum(part / np.sqrt((part**2).sum() + 1e-10), 0.2)
            out.append(part / np.sqrt((part**2).sum() + 1e-10))
    return np.concatenate(out)


def specificity(maps, ids, truth, ignore=255):
    """(own share, other share) of each ordered pair of classes that the truth holds, pixel by pixel."""
    present = [k for k, name in enumerate(ids) if name in truth]
    found = {}
    for own in present:
        inside, total = dict.fromkeys(present, 0.0), 0.0
        for value, label in zip(maps[own].ravel().astype(float), truth.ravel(), strict=True):
            if label == ignore or value <= 0:
                continue
            total += value
            for k in present:
                inside[k] += value * (ids[k] == label)
        for other in present:
            if other != own:
                found[int(ids[own]), int(ids[other])] = (
                    (inside[own] / total, inside[other] / total) if total else (None, None)
                )
    return found
