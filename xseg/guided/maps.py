"""Heatmaps that a loss is taken of, all in one graph, or a few classes at a time so that memory stays bounded."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xseg.classifier.model import Classifier
from xseg.heatmaps.registry import Method, Query
from xseg.heatmaps.views import resize_maps

Answer = Callable[[Query], Tensor]


def guided_maps(classifier: Classifier, method: Method, query: Query, *, at_once: int, size: tuple[int, int]) -> Tensor:
    """Heatmaps as functions of the classifier's weights.

    With `at_once` > 0 the graph of the maps is not kept: it is built again in the backward pass for so many classes of
    each image, differentiated and dropped, before the next. By the chain rule that is the same gradient: what the loss
    says of each map does not need the other maps' graphs. It is what `--iterative_gradients` of the code of Yu et al.
    2024 does, whatever the loss.

    Args:
        classifier: in any mode; looked at in evaluation mode. Its parameters are the encoder's and the decoder's.
        method: a differentiable one.
        query: the P questions.
        at_once: classes of an image that share a graph; 0: all.
        size: height and width of the maps wanted.

    Returns:
        (P,*size).

    Raises:
        UsageError: the method is not differentiable, or cannot serve the classifier.
    """
    query = _of_asked_images(query)

    def answer(asked: Query) -> Tensor:
        return resize_maps(method(classifier, asked), size)

    groups = _groups(query, at_once)
    if len(groups) == 1:
        return answer(replace(query, create_graph=True))
    parameters = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    with torch.no_grad():
        parts = [answer(_part(query, group)) for group in groups]
    maps = torch.cat(parts)[torch.cat(groups).argsort()]
    found: Tensor = _InTurn.apply(maps, answer, query, groups, parameters, *parameters)
    return found


def _groups(query: Query, at_once: int) -> list[Tensor]:
    """Indices into P, with at most `at_once` questions about an image in each."""
    rounds = query.rounds()
    step = at_once or len(rounds)
    return [torch.cat(rounds[start : start + step]) for start in range(0, len(rounds), step)]


def _part(query: Query, chosen: Tensor) -> Query:
    return _of_asked_images(replace(query, image=query.image[chosen], target=query.target[chosen]))


def _of_asked_images(query: Query) -> Query:
    """The same questions without the images that nothing is asked about."""
    used, image = query.image.unique(return_inverse=True)
    if len(used) == len(query.images):
        return query
    return replace(query, images=query.images[used], image=image, ids=tuple(query.ids[i] for i in used.tolist()))


class _InTurn(torch.autograd.Function):
    """Maps whose gradient with respect to parameters is computed from a graph of a few of them at a time."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - of torch
        maps: Tensor,
        answer: Answer,
        query: Query,
        groups: Sequence[Tensor],
        parameters: Sequence[Tensor],
        *_: Tensor,
    ) -> Tensor:
        ctx.asked = answer, query, groups, parameters
        return maps.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - of torch
        answer, query, groups, parameters = ctx.asked
        totals: list[Tensor | None] = [None] * len(parameters)
        for group in groups:
            with torch.enable_grad():
                maps = answer(replace(_part(query, group), create_graph=True))
            found = torch.autograd.grad(maps, parameters, slope[group], allow_unused=True)
            for place, gradient in enumerate(found):
                if gradient is not None:
                    total = totals[place]
                    totals[place] = gradient if total is None else total + gradient
            del maps, found
        return None, None, None, None, None, *totals
