"""Mean field and confident labels written out in float64 numpy, pixel by pixel; imports nothing from xseg."""

import numpy as np


def softmax(energy):
    """Over axis 0."""
    shifted = np.exp(energy - energy.max(0))
    return shifted / shifted.sum(0)


def dense_mean_field(probabilities, kernels, iterations):
    """`kernels`: pairs (weight, (N,N) matrix). `probabilities` (L,N)."""
    unary = -np.log(np.clip(probabilities.astype(np.float64), 1e-5, 1))
    posterior = softmax(-unary)
    for _ in range(iterations):
        energy = -unary
        for weight, matrix in kernels:
            root = 1 / np.sqrt(matrix.sum(1) + 1e-20)
            energy = energy + weight * root * (posterior * root @ matrix.T)
        posterior = softmax(energy)
    return posterior


def gaussian_matrix(features):
    """The exact kernel exp(-|f_i - f_j|^2 / 2) of `features` (N,d)."""
    squares = ((features[:, None].astype(np.float64) - features[None]) ** 2).sum(2)
    return np.exp(-squares / 2)


def psa_labels(low, high, class_id):
    """Label by label, in the order of the published lines."""
    labels = np.empty(low.shape[1:], np.int64)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            first, second = low[:, y, x], high[:, y, x]
            label = 0 if first.argmax() == 0 else int(class_id[first.argmax() - 1])
            if label == 0:
                label = 255
            if second.argmax() == 0:
                label = 0
            if max(first.max(), second.max()) < 1e-5:
                label = 255
            labels[y, x] = label
    return labels


def block_means(scores, block):
    """(C,H,W) -> (C,H//block,W//block) by loops."""
    channels, height, width = scores.shape
    pooled = np.zeros((channels, height // block, width // block))
    for y in range(height // block):
        for x in range(width // block):
            cut = scores[:, y * block : (y + 1) * block, x * block : (x + 1) * block]
            pooled[:, y, x] = cut.astype(np.float64).mean((1, 2))
    return pooled
