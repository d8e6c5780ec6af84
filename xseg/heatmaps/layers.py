"""Running a classifier from one layer on, and asking for many gradients of one forward pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from xseg.classifier.capture import capture, module_at
from xseg.classifier.model import Classifier
from xseg.classifier.probe import token_blocks, trace
from xseg.errors import UsageError
from xseg.heatmaps.registry import Method, Query
from xseg.seeding import generator

# Gradients of float16 logits are scaled by this power of two on their way down, or they vanish below 6e-8.
HALF_GRADIENT_SCALE = 1024.0


@contextmanager
def evaluating(classifier: Classifier, create_graph: bool = False) -> Iterator[None]:
    """Evaluation mode inside the block, with frozen parameters unless gradients are to reach them (`create_graph`).

    Every module and parameter is put back after it.
    """
    modes = [(module, module.training) for module in classifier.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in classifier.parameters()]
    try:
        classifier.eval()
        for parameter, _ in () if create_graph else wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
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
    rounds = query.rounds()
    seeds, scale = gradient_seeds(query, rounds, logits)
    values = leaf if query.create_graph else leaf.detach()
    maps: list[Tensor] = []
    for start in range(0, len(rounds), together):
        more = query.create_graph or start + together < len(rounds)
        gradients = _gradients(logits, leaf, seeds[start : start + together], more, query.create_graph)
        for gradient, chosen in zip(gradients, rounds[start : start + together], strict=True):
            image = query.image[chosen]
            with torch.autocast(leaf.device.type, enabled=False):
                maps.append(reduce(single(gradient[image]) / scale, single(values[image])))
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


def _gradients(logits: Tensor, leaf: Tensor, seeds: Tensor, retain_graph: bool, create_graph: bool) -> Tensor:
    """(R,N,...) for seeds (R,N,C)."""
    options = {"retain_graph": retain_graph, "create_graph": create_graph}
    if len(seeds) == 1:
        return torch.autograd.grad(logits, leaf, seeds[0], **options)[0][None]
    return torch.autograd.grad(logits, leaf, seeds, is_grads_batched=True, **options)[0]


def single(values: Tensor) -> Tensor:
    """`values` in at least single precision: float16 and bfloat16 as float32, the rest as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def probe_images(classifier: Classifier) -> Tensor:
    """One normalised image (1,3,H,W) of noise, always the same, in the classifier's input size, type and device."""
    # Noise, so that no accidental symmetry makes a network look as if it pooled and projected.
    height, width = classifier.config.input_size
    noise = generator(0, "probe").standard_normal((1, 3, height, width), dtype="float32")
    return torch.from_numpy(noise).to(next(classifier.parameters()))


def not_a_map(classifier: Classifier, layer: str | None, found: Tensor) -> str | None:
    """Why `found`, the output of the target layer, is no stack of feature maps (N,C,h,w); None if it is."""
    path, module = target_layer(classifier, layer)
    where = f"the output of {path} ({type(module).__name__})"
    if getattr(classifier.net, "output_fmt", "NCHW") != "NCHW":
        return f"{where} has its channels last, needed (N,C,h,w); use input-x-gradient"
    if found.ndim != 4:
        return f"{where} has shape {tuple(found.shape)}, needed (N,C,h,w); use input-x-gradient"
    return None


def _before_tokens(classifier: Classifier) -> str | None:
    """Why the classifier's own layer says little: a transformer's blocks of tokens follow it; None if none do."""
    calls, _ = trace(classifier.net, classifier.config.input_size)
    path = classifier.config.layer
    place = next((place for place, call in enumerate(calls) if call.path == path), len(calls))
    if blocks := token_blocks(classifier.net, calls[place + 1 :]):
        return (
            f"{len(blocks)} blocks of tokens come between {path}, the last feature map, and the logits;"
            " use input-x-gradient, or --layer to look at it all the same"
        )
    return None


class LayerMaps(Method):
    """What methods share that read the feature maps (N,C,h,w) of one layer, the classifier's own or `Query.layer`."""

    at_layer: ClassVar[bool] = True
    models: ClassVar[str] = "any with feature maps (N,C,h,w)"

    def serves(self, classifier: Classifier, layer: str | None = None) -> str | None:
        """Run a noise image and look at the shape of the layer's output, and at what comes after the own layer."""
        with evaluating(classifier):
            leaf, _ = forward_from(classifier, probe_images(classifier), layer)
        return not_a_map(classifier, layer, leaf) or (_before_tokens(classifier) if layer is None else None)

    def features(self, classifier: Classifier, query: Query) -> tuple[Tensor, Tensor]:
        """The feature maps (N,C,h,w), and the logits (N,C) as a function of them; inside `evaluating`.

        Raises:
            UsageError: the layer's output is not (N,C,h,w), or the logits do not depend on it.
        """
        leaf, logits = forward_from(classifier, query.images, query.layer, query.create_graph)
        problem = not_a_map(classifier, query.layer, leaf)
        if problem:
            raise UsageError(f"--method: {problem}")
        return leaf, logits
