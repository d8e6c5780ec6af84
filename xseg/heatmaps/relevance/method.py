"""What the relevance methods share: questions as a grid of classes by images, one forward pass, ways back."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.layers import evaluating, image_leaf, probe_images, single
from xseg.heatmaps.registry import Method, Query
from xseg.heatmaps.relevance.tape import Tape, record
from xseg.heatmaps.relevance.walk import INSTEAD, Walker

#: Classes of an image that go back together; more take more turns, so that memory stays bounded.
ROWS = 8
# Largest difference between recorded and plain logits, as a fraction of the largest logit.
_AGREEMENT = 1e-3


class RelevanceMethod(Method):
    """A method that records one forward pass and walks back from the logits, once for all classes of an image."""

    class_specific: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    models: ClassVar[str] = "convolutional networks whose every layer has a rule"

    #: The values of the forward pass keep their graph, for methods that look at gradients too.
    needs_gradients: ClassVar[bool] = False

    @abstractmethod
    def walker(self, classifier: Classifier, tape: Tape) -> Walker:
        """What takes relevance back through this tape."""

    @abstractmethod
    def explain(self, walker: Walker, logits: Tensor, target: Tensor) -> Tensor:
        """Maps (K,N,H,W) for the classes `target` (K,N) of N images with `logits` (N,C)."""

    def serves(self, classifier: Classifier, layer: str | None = None) -> str | None:
        """Record a noise image and look for a rule for every step on the way back."""
        images = probe_images(classifier)
        with evaluating(classifier), torch.no_grad():
            plain = classifier(images.clone())
        tape = record(classifier, images)
        if (plain - tape.logits).abs().amax() > _AGREEMENT * plain.abs().amax():
            return f"the network relies on working in place, which relevance cannot be recorded through; {INSTEAD}"
        return self.walker(classifier, tape).refusal()

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,H,W) at the resolution of the images.

        Raises:
            UsageError: a layer without a rule.
        """
        if query.layer is not None:
            raise UsageError("--layer: relevance goes back to the image", "leave it out, or use grad-cam")
        images = image_leaf(query) if self.needs_gradients else query.images
        tape = record(classifier, images, graph=self.needs_gradients, create_graph=query.create_graph)
        with torch.set_grad_enabled(query.create_graph), torch.autocast(images.device.type, enabled=False):
            walker = self.walker(classifier, tape)
            target, row = grid(query)
            logits = single(tape.logits)
            maps = [self.explain(walker, logits, rows) for rows in target.split(ROWS)]
        return torch.cat(maps)[row, query.image]


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
