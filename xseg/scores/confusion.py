"""Confusion matrices of label maps: counted in one pass, 64-bit, the ignored label cut off."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from xseg.errors import BadInput

Ints = npt.NDArray[np.integer]
Counts = npt.NDArray[np.int64]
_LEAST_RUN = 4  # mean length from which runs are counted faster than pixels


def ignore_value(classes: int) -> int:
    """The label that means unknown for `classes` foreground classes: 255, or 65535 above 254 classes."""
    return 255 if classes <= 254 else 65535


def label_codes(values: Ints, labels: int, ignore: int, what: str) -> Ints:
    """Labels with the ignored one moved to `labels`, so that the codes 0..labels have no gap.

    Args:
        values: class ids 0..labels-1 or `ignore`, any integer dtype, any shape.
        labels: number of class ids, background included.
        ignore: the label that means unknown.
        what: what the values are, for the message ("the truth").

    Returns:
        Array of the same shape, every value in 0..labels.

    Raises:
        BadInput: a value that is neither a class id nor `ignore`.
        ValueError: not integers, or an `ignore` that is a class id.
    """
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{what} has dtype {values.dtype}, needed integers")
    if ignore < labels:
        raise ValueError(f"ignore is {ignore}, which is a class id, needed at least {labels}")
    outside = (values >= labels) & (values != ignore)
    if np.issubdtype(values.dtype, np.signedinteger):
        outside |= values < 0
    if outside.any():
        found = int(values[outside][0])
        raise BadInput(
            f"{what} holds the label {found}, needed 0..{labels - 1} or {ignore} (unknown)",
            "check that the masks and the class list belong together",
        )
    return np.minimum(values, labels)


def check_same_size(prediction: tuple[int, ...], truth: tuple[int, ...], what: str) -> None:
    """Refuse a prediction of another size than the truth; nothing is resized in silence.

    Raises:
        BadInput: the two (H, W) differ.
    """
    if prediction != truth:
        found, needed = ("x".join(map(str, size)) for size in (prediction, truth))
        raise BadInput(
            f"{what} of another size: {found} (height x width), the ground truth has {needed}",
            "make the prediction at image size (--map-size image)",
        )


def confusion_matrix(prediction: Ints, truth: Ints, labels: int, ignore: int = 255) -> Counts:
    """Pixels by (true label, predicted label) over every pixel whose truth is known.

    Equal to `sklearn.metrics.confusion_matrix(truth, prediction, labels=range(labels))`, plus one column.

    Args:
        prediction: (H, W) class ids 0..labels-1, or `ignore` where nothing was predicted.
        truth: (H, W) class ids, or `ignore` where the truth is unknown: those pixels are not counted.
        labels: number of class ids, background included.
        ignore: the label that means unknown.

    Returns:
        (labels, labels + 1) int64; rows are true labels, columns predicted ones; the last column counts pixels
        of known truth that were left unknown.

    Raises:
        BadInput: sizes differ, or a label out of range.
    """
    check_same_size(prediction.shape, truth.shape, "a mask")
    if prediction.dtype == truth.dtype == np.uint8 and labels <= ignore == 255:
        return _count_bytes(prediction, truth, labels)
    true_code = label_codes(truth, labels, ignore, "the ground truth").astype(np.intp)
    code = true_code * (labels + 1) + label_codes(prediction, labels, ignore, "the prediction")
    counts = np.bincount(code.ravel(), minlength=(labels + 1) ** 2).reshape(labels + 1, labels + 1)
    return counts[:labels].astype(np.int64, copy=False)


def _count_bytes(prediction: Ints, truth: Ints, labels: int) -> Counts:
    """The same for bytes, counting runs of equal pairs: in label maps neighbours are mostly alike."""
    pair = truth.ravel().astype(np.uint16)
    pair <<= 8
    pair |= prediction.ravel()
    last = np.flatnonzero(pair[1:] != pair[:-1])
    if len(last) * _LEAST_RUN >= len(pair):
        return _count_pairs(pair, prediction, truth, labels)
    last = np.append(last, len(pair) - 1)
    runs, lengths = pair[last], np.diff(last, prepend=-1)
    true_code = label_codes(runs >> 8, labels, 255, "the ground truth").astype(np.intp)
    code = true_code * (labels + 1) + label_codes(runs & 255, labels, 255, "the prediction")
    # weights are float64: exact, as no image has 2^53 pixels
    counts = np.bincount(code, lengths, minlength=(labels + 1) ** 2).reshape(labels + 1, labels + 1)
    return counts[:labels].astype(np.int64)


def _count_pairs(pair: Ints, prediction: Ints, truth: Ints, labels: int) -> Counts:
    """For noise: all 65536 pairs are counted, then what is no label is looked for among the counts."""
    counts = np.bincount(pair, minlength=2**16).reshape(256, 256).astype(np.int64, copy=False)
    if counts[labels:255].any() or counts[:, labels:255].any():
        label_codes(truth, labels, 255, "the ground truth")
        label_codes(prediction, labels, 255, "the prediction")
    return np.concatenate([counts[:labels, :labels], counts[:labels, 255:]], axis=1)


def merge_confusions(matrices: Iterable[Ints]) -> Counts:
    """Sum of confusion matrices of shards or images, in int64 whatever their dtype.

    Raises:
        ValueError: no matrix, or matrices of different shapes.
    """
    total: Counts | None = None
    for matrix in matrices:
        if total is not None and matrix.shape != total.shape:
            raise ValueError(f"a confusion matrix of shape {matrix.shape}, needed {total.shape}")
        total = matrix.astype(np.int64) if total is None else total + matrix
    if total is None:
        raise ValueError("no confusion matrix to merge")
    return total
