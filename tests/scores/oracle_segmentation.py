"""Segmentation scores pixel by pixel and threshold by threshold; imports nothing from xseg."""

import numpy as np


def predict(maps, class_id, threshold):
    """Argmax over [constant background, maps in order of class id], float32, first of equals."""
    order = sorted(range(len(class_id)), key=lambda k: class_id[k])
    out = np.zeros(maps.shape[1:], np.int64)
    for y in range(maps.shape[1]):
        for x in range(maps.shape[2]):
            stack = [np.float32(threshold), *(np.float32(maps[k, y, x]) for k in order)]
            winner = int(np.argmax(stack))
            out[y, x] = 0 if winner == 0 else class_id[order[winner - 1]]
    return out


def counts(prediction, truth, labels, ignore):
    """(labels, 3): true positives, predicted, truth."""
    known = truth != ignore
    return np.array(
        [
            [
                np.sum((prediction == c) & (truth == c)),
                np.sum((prediction == c) & known),
                np.sum(truth == c),
            ]
            for c in range(labels)
        ],
        dtype=np.int64,
    )


def ious(count):
    """List of IoU per class, None where the class is absent from truth and prediction."""
    out = []
    for true_positive, predicted, truth in count.tolist():
        union = truth + predicted - true_positive
        out.append(true_positive / union if union else None)
    return out


def mean_iou(count):
    values = [value for value in ious(count) if value is not None]
    return sum(values) / len(values) if values else None


def mean_iou_psa(count):
    return float(np.mean([tp / (t + p - tp + 1e-10) for tp, p, t in count.tolist()]))
