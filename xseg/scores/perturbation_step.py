"""The step `evaluate --protocol perturbation`: heatmaps say in which order pixels go, a classifier what is lost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xseg.artifacts.header import Header, Parent
from xseg.artifacts.record import Record
from xseg.classifier.model import Classifier
from xseg.classifier.sides import nearest, refused_steps
from xseg.classifier.step import load_classifier
from xseg.datasets.index import Dataset
from xseg.device import resolve
from xseg.errors import BadInput, InputMissing, NothingScored, UsageError
from xseg.heatmaps.step import Labels
from xseg.heatmaps.views import fixed_size
from xseg.runs.failed_images import FailedImages
from xseg.runs.runtime import Runtime
from xseg.scores.journal import Journal, journal_of
from xseg.scores.perturb_image import Perturbation, Subject
from xseg.scores.perturbation import Against, Fill, PerturbationScore, Readings, can_judge, curve_named
from xseg.scores.perturbation_picture import check_picture, draw
from xseg.scores.runs import Opened, Outcome, open_runs, score_runs, unseen, with_photographs
from xseg.training.output import dataset_parent

_BATCH_SIZE = 32  # copies of one image, on an accelerator
_MUCH_TIED = 0.1
_FEWEST = 10  # pixels of a frame, of which a tenth is removed at a time


@dataclass(frozen=True)
class PerturbationOptions:
    """What is measured, and how.

    Attributes:
        classifier: path of the classifier that is asked.
        curves: names, see `xseg.scores.perturbation.CURVES`.
        fill: what removed pixels become on the curves `positive` and `negative`; None: black, as published.
        score_against: `labels`, or the classes `predicted` on the intact image; None: labels, as published.
        maps_of: which maps are scored, each choice by itself: those of the labelled classes, or of the classes
            predicted on the intact image; empty: all maps together.
        frame: (height, width) at which images are looked at; None: the classifier's input size.
        steps: of insertion and deletion; None: 224, as published.
        picture: where the curves are drawn as a PNG; None: nowhere.
        replicates: bootstrap resamples for the 95 % intervals.
    """

    classifier: str
    curves: tuple[str, ...] = ("positive", "negative")
    fill: Fill | None = None
    score_against: Against | None = None
    maps_of: tuple[Against, ...] = ()
    frame: tuple[int, int] | None = None
    steps: int | None = None
    picture: Path | None = None
    replicates: int = 1000

    def resolved(self, classifier: Classifier) -> "PerturbationOptions":
        """The same with every default filled in; what plays no part stays None.

        Raises:
            UsageError: an option that nothing measured makes use of, or a frame that the network does not take.
        """
        chosen = set(self.curves)
        judged = bool(chosen - {"insertion", "deletion"})
        for option, given, used in (
            ("fill", self.fill, bool(chosen & {"positive", "negative"})),
            ("score-against", self.score_against, judged),
            ("steps", self.steps, bool(chosen & {"insertion", "deletion"})),
        ):
            if given is not None and not used:
                raise UsageError(f"--{option}: not used by --measure {','.join(self.curves)}", "leave it out")
        return replace(
            self,
            fill=self.fill or "black" if chosen & {"positive", "negative"} else None,
            score_against=self.score_against or "labels" if judged else None,
            frame=_frame(classifier, self.frame),
            steps=self.steps or 224 if chosen & {"insertion", "deletion"} else None,
        )


def evaluate_perturbation(
    inputs: Sequence[str], dataset: Dataset | None, options: PerturbationOptions, runtime: Runtime
) -> Outcome:
    """Take the images of every run apart in the order of its heatmaps, and compare the runs image by image.

    Args:
        inputs: heatmaps of any origin; the files of one run are scored together, several runs side by side.
        dataset: the images to use, and their labels where it has some; None: those of the run, at most `--limit`.
        options: what is measured.
        runtime: shared options; `batch_size` counts copies.

    Returns:
        The JSON object, (heading, run) pairs for a table, and the exit status.

    Raises:
        BadInput: other classes than the classifier's, images of the split that the input lacks, or no image scored.
        UsageError: a frame that the network does not take.
        CannotCreate: the output or the picture is there already, or cannot be created.
    """
    if options.classifier == "-" and "-" in inputs:
        raise UsageError("both the heatmaps and the classifier are '-'", "save one of them to a file first")
    _, content, classifier = load_classifier(options.classifier, resolve(runtime.device))
    parent = Parent("classifier", content)
    options = options.resolved(classifier)
    runs = open_runs(inputs, ("heatmaps",), runtime)
    for opened in runs:
        opened.source.require_classes(classifier.config.classes, options.classifier)
        if parent not in opened.source.header.parents:
            runtime.reporter.note(
                f"{opened.heading} was not made directly by {options.classifier}; the curves are about this classifier"
            )
    header = _header(runs, parent, classifier, dataset, options, runtime)
    check_picture(options.picture, header.run, [*inputs, options.classifier], runtime)
    chosen = [_Chosen(opened, maps_of) for opened in runs for maps_of in options.maps_of or (None,)]
    with journal_of(header, runtime) as journal:
        protocol = _Protocol(classifier, dataset, options, journal, runtime)
        outcome = score_runs(chosen, header, protocol.score, runtime)
    if options.picture is not None:
        draw(outcome[1], options.picture, header.run)
    return outcome


def _frame(classifier: Classifier, asked: tuple[int, int] | None) -> tuple[int, int]:
    fixed = fixed_size(classifier)
    if asked is not None and fixed is not None and asked != fixed:
        height, width = fixed
        raise UsageError(f"--frame {asked[0]}x{asked[1]}: this model takes images of {height}x{width} only")
    steps = refused_steps(classifier.net)
    if asked is not None and any(side % step for side, step in zip(asked, steps, strict=True)):
        height, width = (nearest(side, step) for side, step in zip(asked, steps, strict=True))
        raise UsageError(
            f"--frame {asked[0]}x{asked[1]}: this model takes sides divisible by {steps[0]} and {steps[1]}",
            f"--frame {height}x{width}",
        )
    height, width = asked or classifier.config.input_size
    if height * width < _FEWEST:
        raise UsageError(f"--frame {height}x{width}: a tenth of it is no pixel", "for example --frame 224x224")
    return height, width


def _header(
    runs: Sequence[Opened],
    parent: Parent,
    classifier: Classifier,
    dataset: Dataset | None,
    options: PerturbationOptions,
    runtime: Runtime,
) -> Header:
    decided = {
        **asdict(options),
        "protocol": "perturbation",
        "split": dataset.split if dataset else None,
        "limit": runtime.limit,
        "seed": runtime.seed,
    }
    del decided["classifier"], decided["picture"]  # the parents know the one by content, the other changes nothing
    parents = [*(opened.source.parent for opened in runs), parent]
    if dataset is not None:
        parents.append(dataset_parent(dataset))
    return Header("scores", classifier.config.classes, "evaluate", decided, parents=tuple(parents), argv=runtime.argv)


def _labels(dataset: Dataset, classifier: Classifier) -> Labels | None:
    """The data set's labels in the classifier's order; None if it has none, and those in the heatmaps count.

    Raises:
        BadInput: a class that the classifier does not know.
    """
    if not dataset.has_labels:
        return None
    labels = Labels(dataset, classifier.config.classes)
    if labels.unknown:
        raise BadInput(
            f"{dataset.location}: class {labels.unknown[0]!r} is unknown to the classifier"
            f" ({len(labels.unknown)} of {len(dataset.classes)} are)",
            "use the data that it was trained for, or --score-against predicted",
        )
    return labels


@dataclass(frozen=True)
class _Chosen:
    """A run, and which of its maps are scored; None: all."""

    opened: Opened
    maps_of: Against | None

    @property
    def heading(self) -> str:
        return f"{self.opened.heading} ({self.maps_of})" if self.maps_of else self.opened.heading


@dataclass
class _Tally:
    """What the chosen maps of a run scored, and how many images have none of them."""

    score: PerturbationScore
    bare: int = 0


_NO_LABELS = (
    "its labels are not known",
    "give a --dataset that has them, or use --score-against predicted and no --maps-of labels",
)


class _Protocol:
    """What is shared by all runs: the classifier, what it said about intact images, and the scores to compare with."""

    def __init__(
        self,
        classifier: Classifier,
        dataset: Dataset | None,
        options: PerturbationOptions,
        journal: Journal,
        runtime: Runtime,
    ) -> None:
        self._journal = journal
        self._classifier, self._dataset, self._options, self._runtime = classifier, dataset, options, runtime
        self._curves = [curve_named(name, options.fill or "black", options.steps or 224) for name in options.curves]
        self._against: Against = options.score_against or "predicted"  # labels need not be known if none are used
        assert options.frame is not None  # resolved by the caller
        on_cpu = next(classifier.parameters()).device.type == "cpu"
        batch_size = runtime.batch_size or (1 if on_cpu else _BATCH_SIZE)
        self._perturbation = Perturbation(classifier, self._curves, options.frame, batch_size, runtime.seed)
        uses_labels = self._against == "labels" or "labels" in options.maps_of
        self._labels = _labels(dataset, classifier) if dataset is not None and uses_labels else None
        self._tallies: dict[Against | None, _Tally] = {}
        self._missed = self._failed = 0
        self._done: dict[Against | None, list[tuple[str, PerturbationScore]]] = {}

    def score(self, chosen: _Chosen) -> tuple[dict[str, Any], int]:
        """The JSON object of the chosen maps of a run, and how many images failed; those of one run are told once."""
        failed = 0
        if chosen.maps_of not in self._tallies:
            self._read(chosen.opened)
            failed = self._failed
        tally = self._tallies.pop(chosen.maps_of)
        if not len(tally.score):
            raise NothingScored(
                f"no image could be scored: {self._failed} failed, {tally.bare} have no map",
                "the reasons of those that failed stand above" if self._failed else self._hint(chosen.maps_of),
            )
        return self._result(chosen, tally), failed

    def _read(self, opened: Opened) -> None:
        """Take the images of a run apart, once for all choices of maps."""
        self._tallies = {choice: _Tally(PerturbationScore(self._curves)) for choice in self._options.maps_of or (None,)}
        seen = set()
        with FailedImages(self._runtime.reporter) as failed:
            for record, found in with_photographs(opened, self._dataset, self._runtime):
                seen.add(record.id)
                try:
                    if isinstance(found, BadInput | InputMissing):
                        raise found
                    self._add(opened.source.header.run, record, found.image)
                except (BadInput, InputMissing) as error:
                    failed.add(record.id, error)
        self._failed = len(failed)
        self._missed = self._missing(opened, seen) + self._failed

    def _add(self, run: str, record: Record, image: np.ndarray) -> None:
        """The readings of an image, asked for or from the journal, to every choice of maps."""
        key = f"{run} {record.id}"
        kept = self._journal.get(key)
        if kept is not None:
            found = [[Readings.from_json(reading) for reading in own] for own in kept]
            self._tally(record.id, dict(zip(self._tallies, found, strict=True)))
            return
        readings = self._ask(record, image)
        self._tally(record.id, readings)
        self._journal.add(key, [[reading.to_json() for reading in own] for own in readings.values()])

    def _ask(self, record: Record, image: np.ndarray) -> dict[Against | None, list[Readings]]:
        subject = self._subject(record, image)
        chosen = {choice: self._chosen(subject, choice) for choice in self._tallies}
        asked = np.flatnonzero(np.any(list(chosen.values()), axis=0))
        subject = replace(subject, maps=subject.maps[asked], class_id=subject.class_id[asked])
        found = self._judged(subject) if asked.size else []
        return {
            choice: [reading for reading, k in zip(found, asked, strict=True) if rows[k]]
            for choice, rows in chosen.items()
        }

    def _tally(self, image: str, readings: Mapping[Against | None, Sequence[Readings]]) -> None:
        for choice, own in readings.items():
            if own:
                self._tallies[choice].score.add(image, own)
            else:
                self._tallies[choice].bare += 1

    def _chosen(self, subject: Subject, choice: Against | None) -> npt.NDArray[np.bool_]:
        """Which maps (K,) are scored; one about no class always is.

        Raises:
            BadInput: labels that are needed and not known.
        """
        anyway = subject.class_id < 1
        if choice is None:
            return np.ones_like(anyway)
        if choice == "predicted":
            wanted = self._perturbation.predicted(subject)
        elif subject.labels is None or (subject.labels > 1).all():
            raise BadInput(*_NO_LABELS)
        else:
            wanted = subject.labels == 1
        return anyway | wanted[subject.class_id - 1]

    def _judged(self, subject: Subject) -> list[Readings]:
        if self._against == "labels" and (
            subject.labels is None
            or not can_judge(subject.labels, self._classifier.config.activation, subject.class_id)
        ):
            raise BadInput(*_NO_LABELS)
        return self._perturbation.readings(subject, self._against)

    def _hint(self, choice: Against | None) -> str:
        if choice == "predicted":
            return "explain what the classifier predicts, too: --targets labels,predicted"
        return "explain classes that the images have"

    def _missing(self, opened: Opened, seen: set[str]) -> int:
        if self._dataset is None:
            return len(opened.source.failures)
        hint = "make them for this split, or score what is there with --allow-missing"
        return len(unseen(opened.source, self._dataset, seen, self._runtime, hint))

    def _subject(self, record: Record, image: np.ndarray) -> Subject:
        """What is taken apart; maps of the background are left out."""
        foreground = record.arrays["maps/class_id"] != 0
        maps, class_id = record.arrays["maps"][foreground], record.arrays["maps/class_id"][foreground]
        labels = record.labels
        if self._labels is not None and self._dataset is not None:
            labels = self._labels.of(self._dataset.by_id[record.id])
        return Subject((record.id, record.source), image, maps, class_id, labels)

    def _result(self, chosen: _Chosen, tally: _Tally) -> dict[str, Any]:
        score, header = tally.score, chosen.opened.source.header
        options, seed = self._options, self._runtime.seed
        found = score.result(options.replicates, seed)
        if found["tie_fraction"] > _MUCH_TIED:
            self._runtime.reporter.note(
                f"{chosen.heading}: {found['tie_fraction']:.0%} of the pixels tie where a cut is made; they go in the"
                " order of reading, which is not the method's"
            )
        done = self._done.setdefault(chosen.maps_of, [])
        against = [{"input": name, **score.compared_with(other, options.replicates, seed)} for name, other in done]
        done.append((chosen.heading, score))
        return {
            "protocol": "perturbation",
            "split": (self._dataset.split or "all") if self._dataset else None,
            "images": len(score),
            "maps": score.maps,
            "missing": self._missed,
            "images_without_map": tally.bare,
            "classes": list(header.classes),
            "method": header.params.get("method", header.command or None),
            "targets": header.params.get("targets"),
            "maps_of": chosen.maps_of,
            "labels_given": header.provenance.get("labels_given"),
            "activation": self._classifier.config.activation,
            "frame": list(options.frame or ()),
            "fill": options.fill,
            "score_against": options.score_against,
            "scores": {curve.name: curve.scores for curve in self._curves},
            "fills": {curve.name: curve.fill for curve in self._curves},
            **found,
            "differences": against,
            "bootstrap": {"replicates": options.replicates, "seed": seed, "level": 0.95, "over": "images"},
        }
