"""Losses on heatmaps in float64, pixel by pixel, from their definitions; nothing of xseg is used."""

import math

import numpy as np


def softmax(values):
    powers = [math.exp(v - max(values)) for v in values]
    return [p / sum(powers) for p in powers]


def cross_entropy(logits, target):
    found = []
    for n, y, x in np.ndindex(target.shape):
        if target[n, y, x] >= 0:
            found.append(-math.log(softmax(list(logits[n, :, y, x]))[target[n, y, x]]))
    return sum(found) / max(len(found), 1)


def dice(logits, target):
    images = []
    for n in range(len(target)):
        known = [(y, x) for y, x in np.ndindex(target[n].shape) if target[n, y, x] >= 0]
        shares = {place: softmax(list(logits[n][(slice(None), *place)])) for place in known}
        classes = sorted({int(target[n][place]) for place in known})
        scores = []
        for k in classes:
            both = sum(shares[place][k] for place in known if target[n][place] == k)
            sums = sum(shares[place][k] for place in known) + sum(target[n][place] == k for place in known)
            scores.append(1 - (2 * both + 1) / (sums + 1))
        if classes:
            images.append(sum(scores) / len(classes))
    return sum(images) / max(len(images), 1)


def positive(a, known):
    return np.where(known & (a > 0), a, 0.0)


def energy(a, inside, known):
    within = total = 0.0
    for place in np.ndindex(a.shape):
        value = positive(a, known)[place]
        total += value
        within += value if inside[place] else 0.0
    return 1 - within / total if total >= 1e-7 else 1 - within


def l1(a, inside, known):
    kept = positive(a, known)
    top = kept.max() or 1.0
    parts = [abs(kept[p] / top - inside[p]) for p in np.ndindex(a.shape) if known[p]]
    return sum(parts) / max(len(parts), 1)


def rrr(a, inside, known):
    top = max((abs(a[p]) for p in np.ndindex(a.shape) if known[p]), default=0) or 1.0
    return sum((a[p] / top) ** 2 for p in np.ndindex(a.shape) if known[p] and not inside[p])


def ppce(a, inside, known):
    kept = positive(a, known)
    top = kept.max() or 1.0
    parts = [-math.log(max(kept[p] / top, 1e-7)) for p in np.ndindex(a.shape) if known[p] and inside[p]]
    return sum(parts) / max(len(parts), 1)


def similarity(a, others):
    found = []
    for b in others:
        sizes = (a**2).sum() * (b**2).sum()
        found.append((a * b).sum() ** 2 / sizes if sizes else 0.0)
    return sum(found) / len(found)


def normalised(maps, how, temperature):
    result = np.zeros_like(maps)
    for n in range(len(maps)):
        size = {"none": 1.0, "max": abs(maps[n]).max(), "rms": math.sqrt((maps[n] ** 2).mean())}[how]
        result[n] = maps[n] / (size or 1.0) / temperature
    return result
