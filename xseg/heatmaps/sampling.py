"""Sums of gradients over many altered copies of each image, and the random draws that alter them."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.layers import evaluating, gradient_seeds, in_order, single
from xseg.heatmaps.registry import Query
from xseg.seeding import generator


def require_positive(**settings: float | None) -> None:
    """Refuse parameters that are not above zero and finite; None is let through.

    Raises:
        UsageError: naming the first such parameter.
    """
    for name, value in settings.items():
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--set {name}={value}: needs a positive number")


def require_within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a parameter outside its bounds.

    Raises:
        UsageError: naming it and both bounds.
    """
    if not low <= value <= high:
        raise UsageError(f"--set {name}={value}: needs a number from {low} to {high}")


def repeated(query: Query, images: Tensor) -> Query:
    """The same questions about each of S altered copies of the batch.

    Args:
        query: P questions about N images.
        images: (S*N,3,H,W), copy after copy.

    Returns:
        S*P questions, copy after copy.
    """
    count = len(query.images)
    copies = len(images) // count
    first = torch.arange(copies, device=query.image.device)[:, None] * count
    image = (first + query.image).flatten()
    return replace(query, images=images, image=image, target=query.target.repeat(copies), ids=query.ids * copies)


def summed_gradients(
    classifier: Classifier,
    query: Query,
    alter: Callable[[int], tuple[Tensor, Tensor]],
    count: int,
    chunk: int,
    squared: bool = False,
) -> Tensor:
    """sum_i factor_i * dy_k/dx (x = point_i) for each question; all classes share the forward pass of each point.

    Args:
        classifier: any mode, left as it was.
        query: the P questions about N images.
        alter: number i to the points (N,3,H,W) and their factors, broadcastable to them; with `create_graph` it is
            called with gradients on.
        count: number of points per image.
        chunk: points per image in one forward pass; memory grows with it, the result changes by rounding only.
        squared: take the square of each gradient.

    Returns:
        (P,3,H,W) float32, or float64 where the images are.
    """
    rounds = query.rounds()
    totals: list[Tensor] = []
    for start in range(0, count, chunk):
        with evaluating(classifier, query.create_graph), torch.set_grad_enabled(query.create_graph):
            points, factors = zip(*(alter(i) for i in range(start, min(start + chunk, count))), strict=True)
            leaf = torch.cat(points)
            leaf = leaf if leaf.requires_grad else leaf.detach().requires_grad_()
            with torch.enable_grad():
                logits = classifier(leaf.clone())  # a copy, so that the network may work in place
            weights = single(torch.stack([factor.expand_as(points[0]) for factor in factors]))
            parts = _weighted_gradients(repeated(query, leaf), leaf, logits, weights, squared)
            # What is kept is one gradient per question, however many points there are.
            found = [part[query.image[chosen]] for part, chosen in zip(parts, rounds, strict=True)]
            totals = [total + part for total, part in zip(totals, found, strict=True)] if totals else found
    return in_order(totals, rounds)


def _weighted_gradients(asked: Query, leaf: Tensor, logits: Tensor, weights: Tensor, squared: bool) -> Iterator[Tensor]:
    """For each round of questions the sum over S copies of weights (S,N,3,H,W) times gradients: (N,3,H,W)."""
    rounds = asked.rounds()
    seeds, scale = gradient_seeds(asked, rounds, logits)
    for number, seed in enumerate(seeds):
        more = asked.create_graph or number + 1 < len(rounds)
        (gradient,) = torch.autograd.grad(logits, leaf, seed, retain_graph=more, create_graph=asked.create_graph)
        with torch.autocast(leaf.device.type, enabled=False):
            gradient = (single(gradient) / scale).view_as(weights)
            yield (weights * (gradient.square() if squared else gradient)).sum(0)


def class_scores(classifier: Classifier, query: Query, images: Tensor, probability: bool) -> Tensor:
    """What the classifier says of the class of each question in S altered copies of the batch.

    Args:
        classifier: inside `evaluating`.
        query: P questions about N images.
        images: (S*N,3,H,W) copy after copy; the network may write into it.
        probability: probabilities by the recorded activation instead of logits.

    Returns:
        (S,P) float32, or float64 where the images are.
    """
    logits = single(classifier(images))
    values = classifier.probabilities(logits) if probability else logits
    asked = repeated(query, images)
    return values[asked.image, asked.target].view(-1, len(query.target))


def normal(query: Query, purpose: str, number: int) -> Tensor:
    """Standard normal noise (N,3,H,W) for one draw, each image's own: keyed by seed, purpose, image id and number."""
    shape = query.images.shape[1:]
    draws = [generator(query.seed, purpose, name, number).standard_normal(shape, "float32") for name in query.ids]
    return torch.stack([torch.from_numpy(draw) for draw in draws]).to(query.images)
