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
        backward = torch.ops.aten.convolution_backward
        zeros, which = [0] * sides, (True, False, False)
        options = (stride, _each(padding, sides), dilation, False, zeros, groups, which)
        return backward(rows.contiguous(memory_format=layout), like, weight, None, *options)[0]

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
