"""Which classes of an image are explained: `--targets labels|predicted|top1|labels,predicted|all|ssl|NAME,...`."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from xseg.classifier.model import BACKGROUND, Classifier
from xseg.errors import BadInput, UsageError

_RULES = ("labels", "predicted", "top1", "all", "ssl")


@dataclass(frozen=True)
class Targets:
    """A resolved `--targets`: a rule applied to each image, or a fixed list of classes.

    Args:
        rule: `labels` (image-level labels), `top1` (the most probable class), `above` (probability above the
            threshold) or `listed`.
        listed: class ids for `listed`: 1..C, and 0 for the background.
        threshold: for `above`.
        with_labels: the image-level labels besides.
    """

    rule: Literal["labels", "top1", "above", "listed"]
    listed: tuple[int, ...] = ()
    threshold: float = 0.5
    with_labels: bool = False

    @property
    def needs_probabilities(self) -> bool:
        """Whether the classifier has to be asked first."""
        return self.rule in ("top1", "above")

    @property
    def needs_labels(self) -> bool:
        """Whether image-level labels have to be known."""
        return self.rule == "labels" or self.with_labels

    def of(self, label_vector: np.ndarray | None, probabilities: np.ndarray | None) -> tuple[int, ...]:
        """Class ids 1..C, ascending (`listed`: as listed), for one image.

        Args:
            label_vector: (C,) uint8, 1 present, 0 absent, 255 unknown, in the classifier's order; for `labels`.
            probabilities: (C,) float in [0,1]; for `top1` and `above`.

        Raises:
            ValueError: what the rule needs was not given.
        """
        if self.rule == "listed":
            return self.listed
        if self.with_labels:
            halves = (Targets("labels"), replace(self, with_labels=False))
            return tuple(sorted({class_id for half in halves for class_id in half.of(label_vector, probabilities)}))
        given = label_vector if self.rule == "labels" else probabilities
        if given is None:
            raise ValueError(f"targets by {self.rule}, but no {'labels' if self.rule == 'labels' else 'probabilities'}")
        if self.rule == "top1":
            return (int(np.argmax(given)) + 1,)
        chosen = given == 1 if self.rule == "labels" else given > self.threshold
        return tuple(int(index) + 1 for index in np.flatnonzero(chosen))


def parse_targets(
    spec: str | None, classifier: Classifier, *, dataset_has_labels: bool, threshold: float = 0.5
) -> Targets:
    """Turn `--targets` into a rule, once per run.

    `predicted` is what the classifier itself says is there: its most probable class if it ends in a softmax, every
    class above the threshold if in sigmoids. `all` has the background among them where the classifier has a logit for
    it. None means the labels if the dataset has them, else `predicted`.

    Raises:
        UsageError: `labels` without labels, an unknown class name, a threshold outside [0,1].
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"--threshold {threshold}: needs a probability between 0 and 1")
    classes = classifier.config.classes
    name = spec if spec is not None else ("labels" if dataset_has_labels else "predicted")
    rules = set(name.split(","))
    if "labels" in rules <= {"labels", "top1", "predicted"} and not dataset_has_labels:
        raise UsageError(f"--targets {name}: the dataset has no image-level labels", "use --targets predicted")
    if rules == {"labels"}:
        return Targets("labels")
    if rules in ({"predicted"}, {"labels", "predicted"}) and classifier.config.activation == "sigmoid":
        return Targets("above", threshold=threshold, with_labels="labels" in rules)
    # Of `ssl` this is what holds without a neighbour; with one, `xseg.heatmaps.neighbour` chooses the class.
    if rules in ({"top1"}, {"ssl"}, {"predicted"}, {"labels", "top1"}, {"labels", "predicted"}):
        return Targets("top1", with_labels="labels" in rules)
    if name == "all":
        return Targets("listed", tuple(range(0 if classifier.config.background else 1, len(classes) + 1)))
    return Targets("listed", _named(name, classes, classifier.config.background))


def _named(spec: str, classes: Sequence[str], background: bool) -> tuple[int, ...]:
    names = [spec] if spec in classes else [part.strip() for part in spec.split(",") if part.strip()]
    if not names:
        raise UsageError("--targets: empty", f"one of {', '.join(_RULES)}, or class names separated by commas")
    ids = {name: class_id for class_id, name in enumerate(classes, 1)}
    if background:
        ids.setdefault(BACKGROUND, 0)
    for name in names:
        if name not in ids:
            near = difflib.get_close_matches(name, [*classes, *_RULES], 3)
            shown = ", ".join(classes[:30]) + (", ..." if len(classes) > 30 else "")
            hint = f"did you mean {' or '.join(near)}?" if near else f"{', '.join(_RULES)}, or among {shown}"
            raise UsageError(f"--targets {spec}: the classifier has no class {name!r}", hint)
    return tuple(dict.fromkeys(ids[name] for name in names))


def resolve_targets(
    spec: str | None,
    classifier: Classifier,
    dataset_has_labels: bool,
    label_vector: np.ndarray | None,
    probabilities: np.ndarray | None,
    threshold: float = 0.5,
) -> tuple[int, ...]:
    """`parse_targets` and `Targets.of` in one call, for a single image.

    Raises:
        UsageError: as `parse_targets`.
        BadInput: the label vector has another length than the classifier has classes.
    """
    count = len(classifier.config.classes)
    if label_vector is not None and len(label_vector) != count:
        raise BadInput(
            f"the labels are about {len(label_vector)} classes, the classifier knows {count}",
            "use a classifier trained on this dataset's classes, or --targets predicted",
        )
    targets = parse_targets(spec, classifier, dataset_has_labels=dataset_has_labels, threshold=threshold)
    return targets.of(label_vector, probabilities)
