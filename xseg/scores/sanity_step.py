"""The step `evaluate --protocol sanity`: heatmaps made again by a classifier whose weights, or labels, are random."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from xseg.artifacts.header import Header, Parent
from xseg.artifacts.record import Record
from xseg.classifier.model import Classifier
from xseg.classifier.step import load_classifier
from xseg.datasets.index import Dataset
from xseg.device import resolve, uses_amp
from xseg.errors import BadInput, InputMissing, NothingScored, UsageError
from xseg.heatmaps.batches import BATCH_SIZE
from xseg.heatmaps.quantise import dequantise
from xseg.heatmaps.registry import require_served
from xseg.runs.failed_images import FailedImages
from xseg.runs.runtime import Runtime
from xseg.scores.journal import Journal, journal_of
from xseg.scores.map_comparison import SeenMap
from xseg.scores.randomise import Order, RandomWeights
from xseg.scores.recipe import Recipe, recipe_of
from xseg.scores.runs import Opened, Outcome, open_runs, score_runs, unseen, with_photographs
from xseg.scores.sanity import Compared, StageScore, compare_all, stored_difference
from xseg.training.output import dataset_parent

# Stored maps are rounded (uint8: to 2e-3 of their maximum) and may come from another device.
_AGREES, _AGREES_AMP = 5e-3, 5e-2


@dataclass(frozen=True)
class SanityOptions:
    """What is randomised.

    Attributes:
        classifier: path of the classifier that made the heatmaps.
        randomise: its weights stage by stage, `cascading` from the head down or each stage `independent`.
        stages: how many stages are looked at, spread evenly from the head to the input; None: every one.
        random_labels: path of a classifier trained on permuted labels; compared instead of random weights.
        replicates: bootstrap resamples for the 95 % intervals.
    """

    classifier: str
    randomise: Order = "cascading"
    stages: int | None = None
    random_labels: str | None = None
    replicates: int = 1000


def evaluate_sanity(
    inputs: Sequence[str], dataset: Dataset | None, options: SanityOptions, runtime: Runtime
) -> Outcome:
    """Make the heatmaps of every run again, as they were and with random weights or labels, and compare.

    Args:
        inputs: heatmaps of one classifier, made by `explain`; several runs side by side.
        dataset: the images to use; None: those of the run, at most `--limit`.
        options: what is randomised.
        runtime: shared options.

    Returns:
        The JSON object, (heading, run) pairs for a table, and the exit status.

    Raises:
        BadInput: heatmaps of another classifier or not made by `explain`, a second classifier of another architecture,
            or no image with a map.
        UsageError: the method cannot serve the classifier.
        CannotCreate: the output holds something else, or cannot be created.
    """
    if "-" in (options.classifier, options.random_labels):
        raise UsageError("a classifier '-': it is read more than once", "save it to a file first")
    runs = open_runs(inputs, ("heatmaps",), runtime)
    loader = _Classifiers(options, runtime)
    made_by = loader.load(options.classifier).parent
    recipes = {}
    for opened in runs:
        _require_parent(opened, made_by, options.classifier)
        recipes[opened.heading] = recipe_of(opened.source.header, opened.heading)
    parents = [*(opened.source.parent for opened in runs), made_by]
    if options.random_labels:
        parents.append(loader.load(options.random_labels).parent)
    decided = {
        **asdict(options),
        "protocol": "sanity",
        "randomise": "labels" if options.random_labels else options.randomise,
        "split": dataset.split if dataset else None,
        "limit": runtime.limit,
        "seed": runtime.seed,
    }
    del decided["classifier"], decided["random_labels"]  # the parents know them by content
    if dataset is not None:
        parents.append(dataset_parent(dataset))
    classes = runs[0].source.header.classes
    header = Header("scores", classes, "evaluate", decided, parents=tuple(parents), argv=runtime.argv)
    with journal_of(header, runtime) as journal:

        def score(opened: Opened) -> tuple[dict[str, Any], int]:
            return _Run(opened, recipes[opened.heading], loader, dataset, journal, runtime).score()

        return score_runs(runs, header, score, runtime)


def _require_parent(opened: Opened, parent: Parent, classifier: str) -> None:
    if parent not in opened.source.header.parents:
        raise BadInput(
            f"--classifier {classifier}: {opened.heading} was made by another classifier",
            "give the one it was explained with; compare them with: xseg info FILE",
        )


@dataclass(frozen=True)
class _Loaded:
    parent: Parent
    header: Header
    network: Classifier


class _Classifiers:
    """Classifiers by path and output stride, each read once."""

    def __init__(self, options: SanityOptions, runtime: Runtime) -> None:
        self.options, self._runtime = options, runtime
        self.device = resolve(runtime.device)
        self._loaded: dict[tuple[str, int | None], _Loaded] = {}

    def load(self, path: str, output_stride: int | None = None) -> _Loaded:
        """The classifier at a path."""
        key = (path, output_stride)
        if key not in self._loaded:
            header, content, network = load_classifier(path, self.device, output_stride)
            self._loaded[key] = _Loaded(Parent("classifier", content), header, network)
        return self._loaded[key]

    def with_random_labels(self, path: str, output_stride: int | None) -> Classifier:
        """The classifier that learned from random labels.

        Raises:
            BadInput: the classifier itself, or one of another architecture.
        """
        first, second = self.load(self.options.classifier, output_stride), self.load(path, output_stride)
        if second.parent == first.parent:
            raise BadInput(f"--random-labels {path}: the very classifier that made the heatmaps", "train another one")
        ours, theirs = asdict(first.network.config), asdict(second.network.config)
        if differing := [name for name in ours if ours[name] != theirs[name]]:
            raise BadInput(
                f"--random-labels {path}: other {', '.join(differing)} than {self.options.classifier}",
                "train it with the same command and --permute-labels",
            )
        if not second.header.params.get("permute_labels"):
            self._runtime.reporter.note(f"{path} was not trained with --permute-labels")
        return second.network


class _Run:
    """The protocol on one run."""

    def __init__(
        self,
        opened: Opened,
        recipe: Recipe,
        loader: _Classifiers,
        dataset: Dataset | None,
        journal: Journal,
        runtime: Runtime,
    ) -> None:
        options = loader.options
        self._journal = journal
        self._opened, self._dataset, self._runtime = opened, dataset, runtime
        self._options = options
        self._recipe = replace(recipe, amp=uses_amp(loader.device, recipe.amp))
        self._classifier = loader.load(options.classifier, recipe.output_stride).network
        require_served(recipe.method, self._classifier.full, recipe.views["layer"])
        self._batch_size = runtime.batch_size or (1 if loader.device.type == "cpu" else BATCH_SIZE)
        self._variants: Iterable[Classifier]
        if options.random_labels is None:
            weights = RandomWeights(self._classifier, options.randomise, runtime.seed, options.stages)
            self._variants = weights
            self._stages = [StageScore(name, weights.redrawn(k)) for k, name in enumerate(weights.stages)]
        else:
            self._variants = [loader.with_random_labels(options.random_labels, recipe.output_stride)]
            self._stages = [StageScore("labels", None)]
        self._images, self._maps, self._difference = 0, 0, 0.0
        self._failed = FailedImages(runtime.reporter)

    def score(self) -> tuple[dict[str, Any], int]:
        """The run's JSON object, and how many images failed."""
        seen: set[str] = set()
        window: list[tuple[Record, np.ndarray]] = []
        for record, found in with_photographs(self._opened, self._dataset, self._runtime):
            seen.add(record.id)
            if isinstance(found, BadInput | InputMissing):
                self._failed.add(record.id, found)
            elif kept := self._journal.get(self._key(record)):
                self._keep(record.id, **kept)
            elif len(record.arrays["maps/class_id"]):
                window.append((record, found.image))
            if len(window) == self._batch_size:
                self._add(window)
                window = []
        if window:
            self._add(window)
        self._failed.tell_repeated()
        missing = self._missing(seen)
        if not self._images:
            raise NothingScored("no image with a map could be explained again")
        self._tell_difference()
        return self._result(missing), len(self._failed)

    def _missing(self, seen: set[str]) -> int:
        if self._dataset is None:
            return len(self._opened.source.failures) + len(self._failed)
        hint = "make them for this split, or compare what is there with --allow-missing"
        return len(unseen(self._opened.source, self._dataset, seen, self._runtime, hint)) + len(self._failed)

    def _add(self, window: Sequence[tuple[Record, np.ndarray]]) -> None:
        """Explain a window of images with every set of weights, and keep the comparisons."""
        images = [image for _, image in window]
        ids = [record.id for record, _ in window]
        targets = [tuple(record.arrays["maps/class_id"].tolist()) for record, _ in window]
        if min(min(classes) for classes in targets) < 1:
            raise BadInput(f"{self._opened.heading}: maps without a class cannot be made again")
        originals = self._recipe.maps(self._classifier, images, targets, ids, self._batch_size)
        seen = [[SeenMap.of(one) for one in maps] for maps in originals]
        stages: list[list[Compared]] = []
        for variant in self._runtime.stop.between(self._variants):
            others = self._recipe.maps(variant, images, targets, ids, self._batch_size)
            stages.append([compare_all(first, second) for first, second in zip(seen, others, strict=True)])
        for (record, _), maps, *compared in zip(window, originals, *stages, strict=True):
            stored = dequantise(record.arrays["maps"], record.arrays["maps/scale"])
            found = {"difference": stored_difference(stored, maps), "stages": compared}
            self._keep(record.id, **found)
            self._journal.add(self._key(record), found)

    def _key(self, record: Record) -> str:
        return f"{self._opened.source.header.run} {record.id}"

    def _keep(self, image: str, difference: float, stages: Sequence[Compared]) -> None:
        """What one image's maps came to, at each stage."""
        self._difference = max(self._difference, difference)
        for score, compared in zip(self._stages, stages, strict=True):
            score.add(image, compared)
        self._images += 1
        self._maps += len(stages[0])

    def _tell_difference(self) -> None:
        if self._difference > (_AGREES_AMP if self._recipe.amp else _AGREES):
            self._runtime.reporter.note(
                f"{self._opened.heading}: made again with unchanged weights, the maps differ from the stored ones by up"
                f" to {self._difference:.2g} of their maximum; what follows is about the new ones"
            )

    def _result(self, missing: int) -> dict[str, Any]:
        options, seed, recipe = self._options, self._runtime.seed, self._recipe
        return {
            "protocol": "sanity",
            "split": (self._dataset.split or "all") if self._dataset else None,
            "images": self._images,
            "maps": self._maps,
            "missing": missing,
            "classes": list(self._opened.source.header.classes),
            "method": recipe.name,
            "settings": recipe.settings,
            "needs_model": recipe.method.needs_model,
            "randomised": "labels" if options.random_labels else options.randomise,
            "stored_difference": self._difference if np.isfinite(self._difference) else None,
            "stages": [stage.result(options.replicates, seed) for stage in self._stages],
            "bootstrap": {"replicates": options.replicates, "seed": seed, "level": 0.95, "over": "images"},
        }
