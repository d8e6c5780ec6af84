"""Sums of gradients over many altered copies of each image, and the random draws that alter them."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.layers import answer_by_gradient, evaluating, single
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
    total: Tensor | None = None
    for start in range(0, count, chunk):
        with evaluating(classifier, query.create_graph), torch.set_grad_enabled(query.create_graph):
            points, factors = zip(*(alter(i) for i in range(start, min(start + chunk, count))), strict=True)
            leaf = torch.cat(points)
            leaf = leaf if leaf.requires_grad else leaf.detach().requires_grad_()
            with torch.enable_grad():
                logits = classifier(leaf.clone())  # a copy, so that the network may work in place
            gradients = answer_by_gradient(
                repeated(query, leaf), leaf, logits, lambda gradient, _: gradient.square() if squared else gradient
            )
            weights = torch.stack([factor.expand_as(points[0]) for factor in factors])
            gradients = gradients.view(len(points), len(query.target), *gradients.shape[1:])
            part = (gradients * single(weights)[:, query.image]).sum(0)
            total = part if total is None else total + part
    assert total is not None  # count is at least 1
    return total


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
