"""Losses of image-level labels spelled out in float64, one entry at a time."""

from math import exp, log, log1p


def logistic(x: float, target: float) -> float:
    softplus = lambda v: max(v, 0.0) + log1p(exp(-abs(v)))  # noqa: E731
    return target * softplus(-x) + (1 - target) * softplus(x)


def loss(logits, labels, kind, smoothing):
    rows = [[(x, y) for x, y in zip(xs, ys, strict=True) if y != 255] for xs, ys in zip(logits, labels, strict=True)]
    if kind == "cross-entropy":
        found = []
        for xs, ys in zip(logits, labels, strict=True):
            if 1 in ys:
                total = log(sum(exp(x) for x in xs))
                target = [smoothing / len(xs) + (1 - smoothing) * (k == ys.index(1)) for k in range(len(xs))]
                found.append(sum(t * (total - x) for t, x in zip(target, xs, strict=True)))
        return sum(found) / max(len(found), 1)
    terms = [[logistic(x, (1 - smoothing) * y + smoothing / 2) for x, y in row] for row in rows]
    if kind == "bce":
        flat = [term for row in terms for term in row]
        return sum(flat) / max(len(flat), 1)
    means = [sum(row) / len(row) for row in terms if row]
    return sum(means) / max(len(means), 1)
