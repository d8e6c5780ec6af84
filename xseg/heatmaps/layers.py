"""Running a classifier from one layer on, and asking for many gradients of one forward pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from xseg.classifier.capture import capture, module_at
from xseg.classifier.model import Classifier
from xseg.classifier.probe import find_head, find_layer, in_evaluation, noise_image, token_blocks, trace
from xseg.errors import UsageError
from xseg.heatmaps.batches import sides_of
from xseg.heatmaps.grids import arrangement
from xseg.heatmaps.registry import Method, Query

# Gradients of float16 logits are scaled by this power of two on their way down, or they vanish below 6e-8.
HALF_GRADIENT_SCALE = 1024.0


@contextmanager
def evaluating(classifier: nn.Module, create_graph: bool = False) -> Iterator[None]:
    """Evaluation mode inside the block, with frozen parameters unless gradients are to reach them (`create_graph`).

    Every module and parameter is put back after it. With `create_graph` fused attention is computed by what can be
    differentiated twice.
    """
    wanted = [(parameter, parameter.requires_grad) for parameter in classifier.parameters()]
    twice = sdpa_kernel(SDPBackend.MATH) if create_graph else nullcontext()
    try:
        for parameter, _ in () if create_graph else wanted:
            parameter.requires_grad_(False)
        with in_evaluation(classifier), twice:
            yield
    finally:
        for parameter, grad in wanted:
            parameter.requires_grad_(grad)


def target_layer(classifier: Classifier, layer: str | None = None) -> tuple[str, nn.Module]:
    """Path and module of `layer`, or of the classifier's own target layer.

    Raises:
        UsageError: the network has no such layer.
    """
    path = classifier.config.layer if layer is None else layer
    return path, module_at(classifier.net, path)


def forward_from(
    classifier: Classifier, images: Tensor, layer: str | None = None, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """One forward pass whose graph starts at the target layer: nothing below it is kept or differentiated.

    Args:
        classifier: inside `evaluating`, so that its frozen parameters start no graph of their own.
        images: (N,3,H,W) normalised float.
        layer: as in `Query`.
        create_graph: as in `Query`: the graph then starts at the images and the parameters.

    Returns:
        The layer's output (N,...), and the logits (N,C) as a function of it.

    Raises:
        UsageError: no such layer, one that is never run, or one whose output is not a tensor.
    """
    path, module = target_layer(classifier, layer)
    with torch.enable_grad(), capture(classifier, [path], grad=True) as features:
        logits = classifier(images if create_graph else images.detach())
    if path not in features or not logits.requires_grad:
        raise UsageError(
            f"--layer {path}: the logits do not depend on the output of this {type(module).__name__}",
            "choose a layer on the way to the logits",
        )
    return features[path], logits


def image_leaf(query: Query) -> Tensor:
    """The images of the query, to differentiate by: their own leaf, or, with `create_graph`, part of the caller's."""
    if query.create_graph and query.images.requires_grad:
        return query.images
    return query.images.detach().requires_grad_()


def answer_by_gradient(
    query: Query, leaf: Tensor, logits: Tensor, reduce: Callable[[Tensor, Tensor], Tensor], together: int = 1
) -> Tensor:
    """Gradients of each asked logit with respect to `leaf`, reduced to maps, in as many passes as there are rounds.

    Args:
        query: the P questions.
        leaf: (N,...) what to differentiate by.
        logits: (N,C) as a function of `leaf`.
        reduce: turns gradients (p,...) and values (p,...) into maps (p,h,w).
        together: rounds that share a pass, which then reads the weights once but holds so many gradients.

    Returns:
        (P,h,w) float32, or float64 where `leaf` is.
    """

    def reduce_one(gradients: list[Tensor], values: list[Tensor]) -> Tensor:
        return reduce(gradients[0], values[0])

    return answer_by_gradients(query, [leaf], logits, reduce_one, together)


def answer_by_gradients(
    query: Query,
    leaves: Sequence[Tensor],
    logits: Tensor,
    reduce: Callable[[list[Tensor], list[Tensor]], Tensor],
    together: int = 1,
) -> Tensor:
    """`answer_by_gradient` with respect to several `leaves` at once; `reduce` gets gradients and values of each."""
    rounds = query.rounds()
    seeds, scale = gradient_seeds(query, rounds, logits)
    values = [leaf if query.create_graph else leaf.detach() for leaf in leaves]
    maps: list[Tensor] = []
    for start in range(0, len(rounds), together):
        more = query.create_graph or start + together < len(rounds)
        gradients = _gradients(logits, leaves, seeds[start : start + together], more, query.create_graph)
        for number, chosen in enumerate(rounds[start : start + together]):
            image = query.image[chosen]
            with torch.autocast(logits.device.type, enabled=False):
                slopes = [single(gradient[number][image]) / scale for gradient in gradients]
                maps.append(reduce(slopes, [single(value[image]) for value in values]))
    return in_order(maps, rounds)


def gradient_seeds(query: Query, rounds: Sequence[Tensor], logits: Tensor) -> tuple[Tensor, float]:
    """What to start backward passes with: (R,N,C), a number at each round's asked logits (N,C), and that number."""
    scale = HALF_GRADIENT_SCALE if logits.dtype == torch.float16 else 1.0
    seeds = logits.new_zeros(len(rounds), *logits.shape)
    for row, chosen in zip(seeds, rounds, strict=True):
        row[query.image[chosen], query.target[chosen]] = scale
    return seeds, scale


def in_order(answers: Sequence[Tensor], rounds: Sequence[Tensor]) -> Tensor:
    """The answers of all rounds, (p,...) each, as (P,...) in the order of the questions."""
    return torch.cat(list(answers))[torch.cat(list(rounds)).argsort()]


def _gradients(
    logits: Tensor, leaves: Sequence[Tensor], seeds: Tensor, retain_graph: bool, create_graph: bool
) -> list[Tensor]:
    """(R,N,...) of each leaf for seeds (R,N,C)."""
    options = {"retain_graph": retain_graph, "create_graph": create_graph}
    if len(seeds) == 1:
        return [gradient[None] for gradient in torch.autograd.grad(logits, leaves, seeds[0], **options)]
    return list(torch.autograd.grad(logits, leaves, seeds, is_grads_batched=True, **options))


def single(values: Tensor) -> Tensor:
    """`values` in at least single precision: float16 and bfloat16 as float32, the rest as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def probe_images(classifier: Classifier) -> Tensor:
    """One normalised image (1,3,H,W) of noise, always the same, in the classifier's input size, type and device."""
    return noise_image(classifier.net, classifier.config.input_size)


def maps_or_reason(classifier: Classifier, layer: str | None, found: Tensor, size: tuple[int, int]) -> Tensor | str:
    """The output of the target layer, or something of its shape, as feature maps: a view; or why it is none.

    Args:
        classifier: the classifier.
        layer: as in `Query`.
        found: (N,C,h,w), (N,h,w,C) of a network with channels last, or tokens (N,T,C).
        size: (height, width) of the images in pixels, where tokens have their places.

    Returns:
        (N,C,h,w), class tokens and the like left out; a reason where it has another shape.
    """
    path, module = target_layer(classifier, layer)
    if found.ndim == 4:
        return found.movedim(-1, 1) if _channels_last(classifier, module) else found
    if found.ndim == 3 and (place := arrangement(classifier, size, found.shape[1])):
        prefix, grid = place
        return found[:, prefix:].mT.unflatten(2, grid)
    return (
        f"the output of {path} ({type(module).__name__}) has shape {tuple(found.shape)}, "
        "needed (N,C,h,w), or tokens (N,T,C) on a grid over the image; use input-x-gradient"
    )


def feature_maps(classifier: Classifier, layer: str | None, found: Tensor, size: tuple[int, int]) -> Tensor:
    """As `maps_or_reason`.

    Raises:
        UsageError: with the reason.
    """
    maps = maps_or_reason(classifier, layer, found, size)
    if isinstance(maps, str):
        raise UsageError(f"--method: {maps}")
    return maps


def _channels_last(classifier: Classifier, module: nn.Module) -> bool:
    # timm says so of whole networks, in which convolutions and batch norms still have channels first, and of patches.
    stated = getattr(module, "output_fmt", getattr(classifier.net, "output_fmt", "NCHW"))
    return stated == "NHWC" and not isinstance(module, nn.Conv2d | nn.BatchNorm2d)


def _says_little(classifier: Classifier, layer: str | None, leaf: Tensor, logits: Tensor) -> str | None:
    """Why maps of this layer would say little of a transformer; None if they would not, or it is none."""
    net, size = classifier.net, classifier.config.input_size
    calls, count = trace(net, size)
    path, _ = target_layer(classifier, layer)
    place = next((place for place, call in enumerate(calls) if call.path == path), len(calls))
    blocks, done = token_blocks(net, calls), {call.path for call in calls[: place + 1]}
    before = layer is None and bool(blocks) and done.isdisjoint(blocks)
    if not before and not _only_other_tokens_count(classifier, leaf, logits):
        return None
    best = find_layer(net, calls, find_head(calls, count), size).path
    if before:
        return f"{len(blocks)} blocks of tokens come between {path} and the logits; use --layer {best}"
    return f"the logits do not depend on the patches of {path}, but on its class token; use --layer {best}"


def _only_other_tokens_count(classifier: Classifier, leaf: Tensor, logits: Tensor) -> bool:
    place = arrangement(classifier, classifier.config.input_size, leaf.shape[1]) if leaf.ndim == 3 else None
    if place is None:
        return False
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), leaf)
    return not gradient[:, place[0] :].any() and bool(gradient.any())


class LayerMaps(Method):
    """What methods share that read the feature maps of one layer, the classifier's own or `Query.layer`."""

    at_layer: ClassVar[bool] = True
    models: ClassVar[str] = "any with feature maps (N,C,h,w) or tokens on a grid over the image"

    def serves(self, classifier: Classifier, layer: str | None = None) -> str | None:
        """Run a noise image and look at the shape of the layer's output, and at what comes after it."""
        images = probe_images(classifier)
        with evaluating(classifier):
            leaf, logits = forward_from(classifier, images, layer)
            found = maps_or_reason(classifier, layer, leaf, sides_of(images))
            return found if isinstance(found, str) else _says_little(classifier, layer, leaf, logits)

    def features(self, classifier: Classifier, query: Query) -> tuple[Tensor, Tensor]:
        """The output of the target layer, and the logits (N,C) as a function of it; inside `evaluating`.

        Raises:
            UsageError: no such layer, or the logits do not depend on it.
        """
        return forward_from(classifier, query.images, query.layer, query.create_graph)

    def maps(self, classifier: Classifier, query: Query, found: Tensor) -> Tensor:
        """What has the shape of the target layer's output, as (N,C,h,w).

        Raises:
            UsageError: it has another shape.
        """
        return feature_maps(classifier, query.layer, found, sides_of(query.images))
