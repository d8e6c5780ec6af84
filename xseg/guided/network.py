"""The network that guidance starts from: a trained classifier, or a new one, with a logit for the background."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from xseg.classifier.capture import module_at
from xseg.classifier.config import Scalar
from xseg.classifier.linear_probe import probed
from xseg.classifier.model import Classifier, build
from xseg.classifier.multi_task import PART, MultiTaskShape
from xseg.classifier.sources import parse_source, resolved_options
from xseg.errors import UsageError
from xseg.guided.losses import LOCALISATION, SEGMENTATION
from xseg.heatmaps.registry import Method, methods
from xseg.seeding import key_seed


def prepared(classifier: Classifier, background: bool, layer: str | None, seed: int) -> Classifier:
    """A trained classifier made ready: with a logit for the background, if one is wanted and it has none.

    Its other logits stay what they were; the new one starts from N(0, 0.01^2) like a new head.

    Args:
        classifier: with sigmoid outputs.
        background: whether one is wanted.
        layer: module path that heatmaps look at; None: its own.
        seed: of the new weights.

    Raises:
        UsageError: a softmax head, a linear probe, no such layer, or a background where none is wanted.
    """
    config = classifier.config
    if config.activation != "sigmoid":
        raise UsageError(
            "CLASSIFIER has a softmax head, image-level labels need a sigmoid for each class",
            "make one with: xseg train-cls DATASET, or start from --model and --weights",
        )
    if probed(config.model)[1] is not None:
        raise UsageError(
            "CLASSIFIER is a linear probe, whose network does not learn", "give one that learned as a whole"
        )
    if config.background and not background:
        raise UsageError("--no-background: CLASSIFIER has a logit for the background", "leave it out")
    if layer is not None:
        module_at(classifier.net, layer)
        config = replace(config, layer=layer)
    if config.background == background:
        return Classifier(config, classifier.net)
    widened = build(replace(config, background=True))
    state = dict(classifier.net.state_dict())
    for key, wanted in widened.net.state_dict().items():
        if wanted.shape != state[key].shape:  # the head, and what else makes a map or a logit for each class
            state[key] = torch.cat([_first(state[key], seed), state[key]])
    widened.net.load_state_dict(state)
    return widened


def with_decoder(classifier: Classifier, options: Mapping[str, Scalar], seed: int) -> Classifier:
    """A trained classifier with a new decoder that has a head of its own, a multi-task U-Net; its logits stay the same.

    Args:
        classifier: of timm, as timm builds it.
        options: of the decoder, see `xseg.classifier.unet.UNetShape`.
        seed: of its weights.

    Raises:
        UsageError: another network, one that cannot be an encoder, or options that mean nothing.
    """
    config = classifier.config
    model, layer = probed(config.model)
    source = parse_source(model)
    if layer is not None or source.kind != "timm" or config.options or config.output_stride:
        raise UsageError(
            f"a decoder for {config.model}: needed a network of timm, without options and output stride",
            "make CLASSIFIER with: xseg train-cls --model timm:NAME",
        )
    shape = resolved_options(parse_source(MultiTaskShape.kind), {"encoder": source.name, **options})
    config = replace(config, head=f"{PART}.{config.head}", layer=f"{PART}.{config.layer}")
    made = build(replace(config, model=MultiTaskShape.kind, options=shape), seed)
    made.net.get_submodule(PART).load_state_dict(classifier.net.state_dict())
    return made


def _first(rows: Tensor, seed: int) -> Tensor:
    if rows.ndim == 1:
        return rows.new_zeros(1)
    random = torch.Generator().manual_seed(key_seed(seed, "background"))
    return torch.randn((1, *rows.shape[1:]), generator=random).to(rows) * 0.01


def with_heatmap(classifier: Classifier, heatmap: tuple[str, ...]) -> Classifier:
    """The classifier that says which of its heatmaps were trained."""
    return Classifier(replace(classifier.config, heatmap=heatmap), classifier.net)


def guiding_method(heatmap: tuple[str, ...], classifier: Classifier, loss: str) -> Method:
    """The method `heatmap` (its name, then its settings) for this classifier and this loss on its maps.

    Raises:
        UsageError: no such method or setting, one that is not differentiable, cannot serve the classifier, or has
            nothing for the loss to tell apart.
    """
    name, *settings = heatmap
    method = methods.create(name, settings)
    if not method.differentiable:
        able = ", ".join(name for name, cls in methods if cls.differentiable)
        raise UsageError(f"--heatmap {name}: its maps cannot be differentiated", f"one of {able}")
    if (reason := method.serves(classifier.full)) is not None:
        raise UsageError(f"--heatmap {name}: {reason}")
    if loss in SEGMENTATION and not method.class_specific:
        raise UsageError(
            f"--heatmap {name} with --loss {loss}: its maps of all classes are alike",
            f"use a method that tells classes apart, or --loss {', '.join(LOCALISATION)}",
        )
    return method
