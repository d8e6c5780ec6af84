"""The affine maps of a network, with weights open to be replaced, and their transposes."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xseg.heatmaps.layers import single
from xseg.heatmaps.relevance.operations import Kind

_NAMES = {
    "convolution": ("bias", "stride", "padding", "dilation", "groups"),
    "transposed": ("bias", "stride", "padding", "output_padding", "groups", "dilation"),
    "dense": ("bias",),
    "scale": ("bias",),
}


@dataclass(frozen=True)
class Affine:
    """y = W x + b of a convolution, a linear layer or a factor a channel.

    Attributes:
        kind: convolution, transposed, dense or scale.
        function: of torch, called as `function(x, weight, bias, **options)`; None for a scale.
        weight: W; (C,1,1) for a scale.
        bias: b (out,), or None.
        options: stride, padding and so on.
    """

    kind: Kind
    function: Any
    weight: Tensor
    bias: Tensor | None
    options: dict[str, Any]

    @classmethod
    def of(cls, kind: Kind, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Affine":  # noqa: ANN401
        """The map of a call `function(x, weight, bias, ...)`."""
        given = dict(zip(("input", "weight", *_NAMES[kind]), args, strict=False)) | kwargs
        given.pop("input")
        weight, bias = given.pop("weight"), given.pop("bias", None)
        return cls(kind, function, single(weight), None if bias is None else single(bias), given)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`weight` x + `bias` for x (N,...)."""
        if self.kind == "scale":
            return x * weight if bias is None else x * weight + bias.view_as(weight)
        if self._pointwise(x):
            return functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
        return self.function(x, weight, bias, **self.options)

    def transpose(self, r: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """The transpose of `weight` applied to (K,N,...) in the shape of y: (K,N,...) in the shape of `x`."""
        if self.kind == "scale":
            return r * weight
        if self.kind == "dense":
            return r @ weight
        if self._pointwise(x):
            return (r.permute(0, 1, 3, 4, 2) @ weight.flatten(1)).permute(0, 1, 4, 2, 3)
        rows = r.flatten(0, 1)
        if self.kind == "transposed":
            forward = getattr(torch, f"conv{rows.ndim - 2}d")
            kept = {name: value for name, value in self.options.items() if name != "output_padding"}
            return forward(rows, weight, None, **kept).unflatten(0, r.shape[:2])
        return self._convolution_transpose(rows, weight, x).unflatten(0, r.shape[:2])

    def _pointwise(self, x: Tensor) -> bool:
        """Whether this is a matrix product over channels that lie together in memory, which is faster by a third."""
        if self.kind != "convolution" or x.ndim != 4 or self.options.get("groups", 1) != 1:
            return False
        sides = [_each(self.options.get(name, other), 2) for name, other in (("stride", 1), ("padding", 0))]
        moves = self.weight.shape[2:] != (1, 1) or sides != [[1, 1], [0, 0]]
        return not moves and x.is_contiguous(memory_format=torch.channels_last)

    def _convolution_transpose(self, rows: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        padding, shape = self.options.get("padding", 0), (len(rows), *x.shape[1:])
        if isinstance(padding, str):
            # "same" may pad one side more than the other, which the transposed call cannot express
            return torch.func.vjp(lambda x: self(x, weight), rows.new_zeros(shape))[1](rows)[0]
        sides = rows.ndim - 2
        stride, dilation = (_each(self.options.get(name, 1), sides) for name in ("stride", "dilation"))
        groups = self.options.get("groups", 1)
        last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        # of the input the call reads shape and layout only; channels last is the faster by a third
        like = torch.empty(shape, dtype=rows.dtype, device=rows.device, memory_format=layout)
        rows = rows.contiguous(memory_format=layout)
        options = (stride, _each(padding, sides), dilation, False, [0] * sides, groups)
        if torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad):
            transposed: Tensor = _Transposed.apply(rows, weight, like, options)
            return transposed
        return _backward(rows, like, weight, options, 0)

    def scaled(self, factor: Tensor, shift: Tensor) -> "Affine":
        """The map followed by a factor (out,) and a shift (out,) for each of its channels."""
        bias = shift if self.bias is None else self.bias * factor + shift
        if self.kind == "transposed":
            groups = self.options.get("groups", 1)
            # weight (in, out / groups, ...): the channels of group g are its columns g * out / groups onwards
            inputs = self.weight.unflatten(0, (groups, -1))
            each = factor.view(groups, 1, -1, *[1] * (self.weight.ndim - 2))
            return replace(self, weight=(inputs * each).flatten(0, 1), bias=bias)
        return replace(self, weight=self.weight * factor.view(-1, *[1] * (self.weight.ndim - 1)), bias=bias)

    @property
    def per_channel(self) -> int:
        """How many axes follow the channel axis of y."""
        return 0 if self.kind == "dense" else self.weight.ndim - (1 if self.kind == "scale" else 2)


def _backward(slope: Tensor, x: Tensor, weight: Tensor, options: tuple[Any, ...], which: int) -> Tensor:
    """The gradient of a convolution with respect to its input (`which` 0) or its weight (1)."""
    wanted = (which == 0, which == 1, False)
    found: Tensor = torch.ops.aten.convolution_backward(slope, x, weight, None, *options, wanted)[which]
    return found


class _Transposed(torch.autograd.Function):
    """A transposed convolution whose own gradient is a convolution and a convolution's gradient.

    Torch would differentiate its call for the gradient of a convolution by a loop over groups, which makes the second
    derivative of a depthwise convolution cost as much as all the rest of a network's.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, like: Tensor, options: tuple[Any, ...]) -> Tensor:  # noqa: ANN401 - of torch
        ctx.save_for_backward(rows, weight)
        ctx.options = options
        return _backward(rows, like, weight, options, 0)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - of torch
        rows, weight = ctx.saved_tensors
        options = ctx.options
        wants = ctx.needs_input_grad
        forward = torch.convolution(slope, weight, None, *options) if wants[0] else None
        return forward, _backward(rows, slope, weight, options, 1) if wants[1] else None, None, None


def scale_of(
    running_mean: Tensor, running_var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Factor and shift (C,) of a batch norm in evaluation mode."""
    factor = (single(running_var) + eps).rsqrt()
    factor = factor if weight is None else factor * single(weight)
    shift = -single(running_mean) * factor
    return factor, shift if bias is None else shift + single(bias)


def _each(value: Any, count: int) -> list[int]:  # noqa: ANN401 - a number or one a side
    values = list(value) if isinstance(value, tuple | list) else [value]
    return values * count if len(values) == 1 else values
