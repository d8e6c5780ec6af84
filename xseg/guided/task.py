"""What the training loop needs to know of model guidance."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from xseg.classifier.losses import label_loss, loss_weight
from xseg.classifier.model import Classifier
from xseg.guided.maps import guided_maps
from xseg.guided.terms import Term, logit_of
from xseg.heatmaps.registry import Method, Query
from xseg.training.loop import Batch, Terms


class GuidedTask:
    """A `Task`: image-level labels by the logits, masks and regions by the heatmaps of the same network.

    Args:
        classifier: what is trained, on its device.
        method: makes the heatmaps.
        batches: iterator over the batches of a range of steps, as `GuidedBatches` yields them.
        terms: on the heatmaps.
        classification_weight: of the labels.
        at_once: see `guided_maps`; it changes memory and time, and rounding.
    """

    def __init__(
        self,
        classifier: Classifier,
        method: Method,
        batches: Callable[[range], Iterator[Batch]],
        terms: Sequence[Term],
        *,
        classification_weight: float = 1.0,
        at_once: int = 0,
    ) -> None:
        self._classifier, self._method, self.batches, self._terms = classifier, method, batches, terms
        self._classification_weight, self._at_once = classification_weight, at_once

    @property
    def module(self) -> nn.Module:
        """The network itself, so that checkpoints have its own keys; decoding has no weights of its own."""
        return self._classifier.net

    def loss(self, batch: Batch, step: int, total: Terms | None = None) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Weighted sum of all terms; see `GuidedBatches` for the batch."""
        images = self._classifier.prepared(batch["images"], batch["valid"])
        counts = self.terms(batch)
        share = {name: 1.0 if total is None else count / max(total[name], 1.0) for name, count in counts.items()}
        loss, values = images.new_zeros(()), {}
        # Maps before logits: their backward pass then comes last, when the graph of the logits is gone.
        for term in self._terms:
            value = images.new_zeros(())
            if counts[term.name]:
                value = self._guide(term, images, batch) * share[term.name]
            loss = loss + term.weight * value
            values[term.name] = value.detach()
        labels = label_loss(self._classifier(images), batch["labels"], "soft-margin") * share["labels"]
        return loss + self._classification_weight * labels, {**values, "labels": labels.detach()}

    def _guide(self, term: Term, images: Tensor, batch: Batch) -> Tensor:
        # In single precision: quotients of relevance overflow the halves that pay off elsewhere.
        with torch.autocast(images.device.type, enabled=False):
            asked, full = term.asked(batch), self._classifier.full
            ids = tuple(map(str, batch["draw"].tolist()))
            query = Query(images, asked.image, logit_of(asked, self._classifier), ids)
            size = (images.shape[2], images.shape[3])
            maps = guided_maps(full, self._method, query, at_once=self._at_once, size=size)
            return term.loss(maps, asked, batch, query)

    def terms(self, batch: Batch) -> Terms:
        """What each mean in the loss is over."""
        counts = {term.name: term.count(batch) for term in self._terms}
        return {**counts, "labels": loss_weight(batch["labels"], "soft-margin")}
