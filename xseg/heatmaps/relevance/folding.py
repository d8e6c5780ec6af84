"""Batch norm as what it is in evaluation mode: part of the convolution before it, or a factor a channel."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from xseg.heatmaps.relevance.affine import Affine, scale_of
from xseg.heatmaps.relevance.tape import Step, Tape

_NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


def folded(tape: Tape) -> Tape:
    """The tape with every batch norm folded into the layer before it, where nothing else reads that layer's output.

    Elsewhere (after a sum, a pool or a concatenation, as in DenseNet and ResNetV2) it becomes a layer of its own with
    one weight a channel. The values of the network are the same; what relevance a shift takes is not.
    """
    uses = tape.uses()
    makers: dict[int, Step] = {}
    for step in tape.steps:
        before = makers.get(step.sources[0])
        if step.kind != "batch-norm":
            makers[step.target] = step
        elif before is not None and before.kind in ("convolution", "transposed", "dense") and uses[before.target] == 1:
            del makers[before.target]
            makers[step.target] = _merged(before, step)
        else:
            makers[step.target] = _alone(tape, step)
    return Tape(sorted(makers.values(), key=lambda step: step.target), tape.values, tape.logits)


def _factor_and_shift(step: Step) -> tuple[Tensor, Tensor]:
    given: dict[str, Any] = dict(zip(_NAMES, step.args, strict=False)) | step.kwargs
    wanted = (given.get(name) for name in ("running_mean", "running_var", "weight", "bias"))
    mean, var, weight, bias = wanted
    if mean is None or var is None or given.get("training"):
        raise ValueError(f"{step.name} has no running statistics, needed a batch norm in evaluation mode")
    return scale_of(mean, var, weight, bias, given.get("eps", 1e-5))


def _merged(layer: Step, norm: Step) -> Step:
    affine = Affine.of(layer.kind, layer.function, layer.args, layer.kwargs).scaled(*_factor_and_shift(norm))
    args = (layer.args[0] if layer.args else layer.kwargs["input"], affine.weight, affine.bias)
    return replace(layer, args=args, kwargs=affine.options, target=norm.target)


def _alone(tape: Tape, norm: Step) -> Step:
    factor, shift = _factor_and_shift(norm)
    factor = factor.view(-1, *[1] * (tape.values[norm.sources[0]].ndim - 2))
    return replace(norm, kind="scale", function=None, args=(None, factor, shift), kwargs={})
