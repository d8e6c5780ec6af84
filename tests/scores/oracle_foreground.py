"""The published scripts for ImageNet-Segmentation and VOC multi-label, slow and plain; imports nothing from xseg."""

import warnings

import numpy as np
from sklearn.metrics import average_precision_score, f1_score, jaccard_score


def _quiet(measure, truth, scores):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(np.nan_to_num(measure(truth, scores)))


def _two_channels(background, foreground, truth):
    """AP over [background, foreground] against the one-hot truth, -1 left out."""
    scores = np.stack([background, foreground]).astype(np.float32)
    one_hot = np.stack([truth == 0, truth == 1]).astype(int)
    kept = np.broadcast_to(truth != -1, scores.shape)
    return _quiet(average_precision_score, one_hot[kept], scores[kept])


def agf(result, truth, positive_only):
    """(correct, labelled, AP) of `imagenet_seg_eval.py` of AGF."""
    if positive_only:
        result = result - result.mean()
    hard = [result <= 0, result > 0]
    decided = np.argmax(np.stack(hard), axis=0)
    known = truth >= 0
    return int((decided == truth)[known].sum()), int(known.sum()), _two_channels(*hard, truth)


def chefer(result, truth):
    """(prediction, AP, F1) of Chefer's `imagenet_seg_eval.py`."""
    result = result.astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        result = (result - result.min()) / (result.max() - result.min())
    hard = [result <= result.mean(), result > result.mean()]
    soft = [np.where(np.isnan(one), 0, one) for one in (1 - result, result)]
    decided = np.argmax(np.stack(hard).astype(np.float32), axis=0)
    known = truth >= 0
    f1 = _quiet(f1_score, truth[known], decided[known])
    return decided, _two_channels(*soft, truth), f1


def pooled_miou(predictions, truths):
    """Mean of the IoU of background and foreground over all pixels."""
    known = [truth >= 0 for truth in truths]
    flat = [
        np.concatenate([one[keep] for one, keep in zip(some, known, strict=True)]) for some in (truths, predictions)
    ]
    return float(jaccard_score(*flat, labels=[0, 1], average="macro"))


def multilabel(maps, class_id, truth, classes, positive_only):
    """(prediction, AP) of AGF's VOC test as intended: a dense (C+1) x H x W softmax, 255 left out."""
    scores = np.full((classes + 1, *truth.shape), -0.1)
    scores[0] = 0
    for one, number in zip(maps.astype(np.float64), class_id, strict=True):
        if positive_only:
            one = one - one.mean()
        scores[number] = np.maximum(one / one.max(), 0) if one.max() > 0 else 0
    soft = np.exp(scores - scores.max(axis=0))
    soft /= soft.sum(axis=0)
    one_hot = np.arange(classes + 1)[:, None, None] == truth
    kept = np.broadcast_to(truth != 255, soft.shape)
    ap = _quiet(average_precision_score, one_hot[kept], soft.astype(np.float32)[kept])
    return scores.argmax(axis=0), ap
