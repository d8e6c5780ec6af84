"""What the relevance methods share: questions as a grid of classes by images, one forward pass, ways back."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.heatmaps.layers import evaluating, image_leaf, probe_images, single
from xseg.heatmaps.registry import Method, Query, instead, methods, use
from xseg.heatmaps.relevance.replay import replayed
from xseg.heatmaps.relevance.tape import Tape, record
from xseg.heatmaps.relevance.walk import Walker

#: Classes of an image that go back together; more take more turns, so that memory stays bounded.
ROWS = 8
#: The relevance methods for networks that the others refuse for their attention.
OF_TRANSFORMERS = ("transformer-attribution", "vit-lrp")
# Largest difference between recorded or replayed and plain logits, as a fraction of the largest logit.
_AGREEMENT = 1e-3


class RelevanceMethod(Method):
    """A method that records one forward pass and walks back from the logits, once for all classes of an image."""

    class_specific: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    models: ClassVar[str] = "convolutional networks whose every layer has a rule"

    @property
    def needs_gradients(self) -> bool:
        """Whether the values of the forward pass keep their graph, for methods that look at gradients too."""
        return False

    @abstractmethod
    def walker(self, classifier: Classifier, tape: Tape) -> Walker:
        """What takes relevance back through this tape."""

    @abstractmethod
    def explain(self, walker: Walker, logits: Tensor, target: Tensor) -> Tensor:
        """Maps (K,N,H,W) for the classes `target` (K,N) of N images with `logits` (N,C)."""

    def serves(self, classifier: Classifier, layer: str | None = None) -> str | None:
        """Record a noise image, look for a rule for every step on the way back, and for ways that leave no step."""
        reason = self._refusal(classifier)
        return None if reason is None else f"{reason}; {self._advice(classifier)}"

    def _advice(self, classifier: Classifier) -> str:
        able = [name for name in OF_TRANSFORMERS if methods.create(name).serves(classifier) is None]
        return use(able) if able else instead(classifier)

    def _refusal(self, classifier: Classifier) -> str | None:
        images = probe_images(classifier)
        others = 0.7 * images.flip(2) + 0.1  # with another mean, size and largest value
        with evaluating(classifier), torch.no_grad():
            plain, expected = classifier(images.clone()), classifier(others.clone())
        tape = record(classifier, images)
        if _differ(tape.logits, plain):
            return "the network relies on working in place, which relevance cannot be recorded through"
        refusal = self.walker(classifier, tape).refusal()
        if refusal is not None:
            return refusal
        with torch.no_grad():
            if _differ(replayed(tape, others), expected):
                return "the logits depend on the image in a way that leaves no step of torch to record"
        return None

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,H,W) at the resolution of the images.

        Raises:
            UsageError: a layer without a rule.
        """
        tape = self.record(classifier, query)
        with torch.set_grad_enabled(query.create_graph), torch.autocast(query.images.device.type, enabled=False):
            walker = self.walker(classifier, tape)
            target, row = grid(query)
            logits = single(tape.logits)
            maps = [self.explain(walker, logits, rows) for rows in target.split(ROWS)]
        return torch.cat(maps)[row, query.image].to(single(query.images).dtype)

    def record(self, classifier: Classifier, query: Query) -> Tape:
        """The forward pass, with its graph where that is needed."""
        images = image_leaf(query) if self.needs_gradients else query.images
        return record(classifier, images, graph=self.needs_gradients, create_graph=query.create_graph)


def _differ(logits: Tensor, expected: Tensor) -> bool:
    return bool((logits - expected).abs().amax() > _AGREEMENT * expected.abs().amax())


def grid(query: Query) -> tuple[Tensor, Tensor]:
    """The questions as a table of K classes by N images.

    Returns:
        (K,N) long, the class of an image's k-th question, its last one again where it has fewer (0 where it has none);
        and (P,) long, the row of each question.
    """
    rounds = query.rounds()
    table = torch.zeros(len(rounds), len(query.images), dtype=torch.long, device=query.images.device)
    row = torch.zeros_like(query.target)
    for number, chosen in enumerate(rounds):
        table[number:, query.image[chosen]] = query.target[chosen]
        row[chosen] = number
    return table, row


def one_hot(target: Tensor, classes: int, like: Tensor) -> Tensor:
    """(K,N,C) with 1 at the class of `target` (K,N)."""
    return torch.nn.functional.one_hot(target, classes).to(like)


def own_logits(logits: Tensor, target: Tensor) -> Tensor:
    """The logits (K,N) of the classes `target` (K,N), of logits (N,C)."""
    return logits[torch.arange(len(logits), device=logits.device), target]
