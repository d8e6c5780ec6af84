"""The step `evaluate --protocol classification`: what a classifier says about the images of a labelled split."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from xseg.artifacts.header import Header, Parent
from xseg.artifacts.schema import KINDS
from xseg.artifacts.stream import first_part
from xseg.classifier.config import ClassifierConfig
from xseg.classifier.step import load_classifier
from xseg.classifier.validation import answers_of
from xseg.datasets.index import Dataset
from xseg.device import cores, resolve
from xseg.errors import BadInput, InputMissing, UsageError
from xseg.heatmaps.batches import BATCH_SIZE
from xseg.heatmaps.step import Labels
from xseg.heatmaps.views import fixed_size
from xseg.runs.failed_images import FailedImages
from xseg.runs.runtime import Runtime
from xseg.scores.classification import ClassificationScore
from xseg.scores.runs import Outcome, score_runs
from xseg.training.output import dataset_parent

THRESHOLD = 0.5


@dataclass(frozen=True)
class ClassificationOptions:
    """How a classifier is asked.

    Attributes:
        threshold: probability above which a class counts as predicted, for sigmoid heads; None: 0.5.
        size: long side of the images in pixels, 0 keeps it; None: as at the end of its training, or, if it was not
            trained here, what its weights expect.
        replicates: bootstrap resamples for the 95 % intervals.
    """

    threshold: float | None = None
    size: int | None = None
    replicates: int = 1000


@dataclass(frozen=True)
class Stated:
    """What a classifier artifact says without its weights being read.

    Attributes:
        heading: its path, as given.
        header: identity.
        parent: the artifact as an input of this step.
        config: of the network.
    """

    heading: str
    header: Header
    parent: Parent
    config: ClassifierConfig


def evaluate_classification(
    inputs: Sequence[str], dataset: Dataset, options: ClassificationOptions, runtime: Runtime
) -> Outcome:
    """Score every classifier among the inputs.

    Args:
        inputs: classifiers, scored side by side.
        dataset: the split to score on, with image-level labels; images without are left out and counted.
        options: how they are asked.
        runtime: shared options.

    Returns:
        The JSON object, (heading, run) pairs for a table, and the exit status.

    Raises:
        UsageError: a classifier from standard input, or an option that it has no use for.
        BadInput: another kind of artifact, classes that a classifier does not know, or no image that can be scored.
        CannotCreate: the output holds something else, or cannot be created.
    """
    if "-" in inputs:
        raise UsageError("a classifier '-': it is read more than once", "save it to a file first")
    if options.threshold is not None and not 0 <= options.threshold < 1:
        raise UsageError(f"--threshold {options.threshold:g}: needs a probability from 0 to below 1")
    if not dataset.has_labels:
        dataset.require_labels()
    stated = [_stated(name) for name in inputs]
    for one in stated:
        _require_known(dataset, one)
    if options.threshold is not None and all(one.config.activation == "softmax" for one in stated):
        raise UsageError("--threshold with a softmax classifier, which names one class", "leave --threshold out")
    decided = {
        **asdict(options),
        "protocol": "classification",
        "threshold": THRESHOLD if options.threshold is None else options.threshold,
        "split": dataset.split,
        "seed": runtime.seed,
    }
    parents = (*(one.parent for one in stated), dataset_parent(dataset))
    header = Header("scores", dataset.classes, "evaluate", decided, parents=parents, argv=runtime.argv)
    return score_runs(stated, header, lambda one: _score(one, dataset, options, runtime), runtime)


def _stated(name: str) -> Stated:
    with first_part(name) as part:
        if part.header.kind != "classifier":
            raise BadInput(
                f"{part.where} holds {part.header.kind}, this step needs classifier",
                f"make it with: {KINDS['classifier'].made_by}",
            )
        parent = Parent("classifier", part.stored_content())
        return Stated(name, part.header, parent, ClassifierConfig.from_json(part.config()))


def _require_known(dataset: Dataset, classifier: Stated) -> None:
    unknown = Labels(dataset, classifier.config.classes).unknown
    if unknown:
        raise BadInput(
            f"{dataset.location}: class {unknown[0]!r} is unknown to the classifier {classifier.heading}"
            f" ({len(unknown)} of {len(dataset.classes)} are)",
            "use a classifier trained on these classes; compare with: xseg info FILE",
        )


def _score(
    one: Stated, dataset: Dataset, options: ClassificationOptions, runtime: Runtime
) -> tuple[dict[str, Any], int]:
    """The classifier's scores, and how many images could not be read."""
    device = resolve(runtime.device)
    _, _, classifier = load_classifier(one.heading, device)
    fixed = fixed_size(classifier)
    if fixed is not None and options.size is not None:
        raise UsageError(f"--size: {one.heading} takes images of {fixed[0]}x{fixed[1]} only", "leave --size out")
    long_side = _long_side(one, options)
    known = [index for index, item in enumerate(dataset.items) if item.labels is not None]
    labels = Labels(dataset, classifier.config.classes)
    threshold = THRESHOLD if options.threshold is None else options.threshold
    score = ClassificationScore(classifier.config.classes, classifier.config.activation, threshold)
    failed = FailedImages(runtime.reporter)

    def tell(index: int, error: BadInput | InputMissing) -> None:
        failed.add(dataset.items[index].id, error)
        runtime.reporter.advance(1)

    runtime.reporter.start("evaluate", len(known))
    seen = answers_of(
        dataset,
        classifier,
        classifier,
        device=device,
        long_side=long_side,
        # as in `explain`: several images at once are no faster on a CPU, and change the last bits
        batch_size=runtime.batch_size or (1 if device.type == "cpu" else BATCH_SIZE),
        workers=cores() if runtime.workers is None else runtime.workers,
        chosen=known,
        fixed=fixed,
        failed=tell,
    )
    with closing(seen) as batches:
        for indices, logits in runtime.stop.between(batches):
            for index, row in zip(indices, logits, strict=True):
                score.add(dataset.items[index].id, row, labels.of(dataset.items[index]))
            runtime.reporter.advance(len(indices))
    failed.tell_repeated()
    drawn = {"replicates": options.replicates, "seed": runtime.seed}
    run = {
        "protocol": "classification",
        "split": dataset.split or "all",
        "missing": len(failed),
        "images_without_labels": len(dataset) - len(known),
        "classes": list(classifier.config.classes),
        "size": long_side if fixed is None else list(fixed),
        **score.result(**drawn),
        "bootstrap": {**drawn, "level": 0.95, "over": "images"},
    }
    return run, len(failed)


def _long_side(one: Stated, options: ClassificationOptions) -> int | None:
    """Pixels; None keeps the images' sizes."""
    if options.size is not None:
        return options.size or None
    training = one.header.params.get("training")
    if training is not None:
        return training["validation_size"] or None
    return max(one.config.input_size)
