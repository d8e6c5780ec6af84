"""The functions a network is made of, sorted by how relevance passes them."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

Kind = Literal[
    "convolution",  #: an affine map with weights
    "transposed",
    "dense",
    "scale",  #: an affine map with one factor a channel: a batch norm that no convolution precedes
    "batch-norm",
    "normalisation",  #: layer and group norm
    "activation",  #: elementwise, keeps zero or squashes
    "average",  #: a linear map with fixed weights: means, up-sampling
    "maximum",
    "reshape",  #: the same numbers in the same order
    "arrange",  #: the same numbers in another order, or some of them
    "concatenation",
    "sum",
    "constant",  #: a sum, product or quotient with something that does not depend on the image
    "gate",  #: a feature map times a factor computed from it
    "matmul",  #: of two values that both come from the image, as in attention
    "softmax",
    "product",  #: of two feature maps, number by number
    "unknown",
]

#: Kinds of the layers with weights that relevance is shared out by.
AFFINE: tuple[Kind, ...] = ("convolution", "transposed", "dense", "scale")

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]
_F: Any = functional
_T: Any = torch.Tensor


def _named(owners: tuple[Any, ...], names: str) -> list[Callable[..., Any]]:
    return [getattr(owner, name) for name in names.split() for owner in owners if hasattr(owner, name)]


_EVERYWHERE = (_F, torch, _T)
KINDS: dict[Any, Kind] = {
    **dict.fromkeys(_named((_F, torch), "conv1d conv2d conv3d"), "convolution"),
    **dict.fromkeys(_named((_F, torch), "conv_transpose1d conv_transpose2d conv_transpose3d"), "transposed"),
    **dict.fromkeys(_named((_F,), "linear"), "dense"),
    **dict.fromkeys(_named((_F, torch), "batch_norm"), "batch-norm"),
    **dict.fromkeys(_named((_F, torch), "layer_norm group_norm"), "normalisation"),
    **dict.fromkeys(
        _named(
            _EVERYWHERE,
            "relu relu6 hardtanh leaky_relu prelu elu selu celu silu gelu hardswish mish softplus sigmoid logsigmoid "
            "hardsigmoid tanh clamp clamp_min clamp_max threshold dropout dropout2d alpha_dropout feature_dropout",
        ),
        "activation",
    ),
    **dict.fromkeys(
        _named(
            _EVERYWHERE,
            "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
            "interpolate upsample mean sum",
        ),
        "average",
    ),
    **dict.fromkeys(
        _named(
            _EVERYWHERE,
            "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d amax",
        ),
        "maximum",
    ),
    **dict.fromkeys(
        _named(
            (torch, _T),
            "flatten unflatten reshape reshape_as view view_as squeeze unsqueeze contiguous clone to float double half "
            "type_as detach",
        ),
        "reshape",
    ),
    **dict.fromkeys(
        _named(
            _EVERYWHERE,
            "permute transpose movedim swapaxes flip roll chunk split unbind select narrow pad expand expand_as "
            "pixel_shuffle pixel_unshuffle channel_shuffle",
        ),
        "arrange",
    ),
    _T.__getitem__: "arrange",
    **dict.fromkeys(_named((torch,), "cat concat concatenate stack"), "concatenation"),
    **dict.fromkeys(_named((torch, _T), "matmul __matmul__ bmm"), "matmul"),
    **dict.fromkeys(_named(_EVERYWHERE, "softmax"), "softmax"),
    **dict.fromkeys(_named((torch, _T), "add __add__ __radd__"), "sum"),
    **dict.fromkeys(_named((torch, _T), "mul multiply __mul__ __rmul__"), "gate"),
    **dict.fromkeys(_named((torch, _T), "div true_divide __truediv__ sub __sub__ neg __neg__"), "constant"),
}
#: What makes a factor of a gate, where both operands have the same shape.
SQUASHING = frozenset(_named(_EVERYWHERE, "sigmoid hardsigmoid tanh"))
_IN_PLACE: dict[Any, Any] = {
    _T.__iadd__: torch.add,
    _T.__isub__: torch.sub,
    _T.__imul__: torch.mul,
    _T.__itruediv__: torch.div,
    **{
        getattr(owner, f"{name}_"): getattr(owner, name)
        for owner in (_T, torch, _F)
        for name in dir(owner)
        if not name.endswith("_") and callable(getattr(owner, name)) and callable(getattr(owner, f"{name}_", None))
    },
}


def out_of_place(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:  # noqa: ANN401 - of torch
    """The call that computes the same as `function(*args, **kwargs)` and leaves its operands as they are."""
    function = _IN_PLACE.get(function, function)
    signature = _with_flag(function)
    if signature is None:
        return function, args, kwargs
    bound = signature.bind(*args, **kwargs)
    bound.arguments["inplace"] = False
    return function, bound.args, bound.kwargs


@cache
def _with_flag(function: Any) -> inspect.Signature | None:  # noqa: ANN401 - any function of torch
    """The signature of a function that has an `inplace` argument."""
    try:
        signature = inspect.signature(function) if inspect.isfunction(function) else None
    except ValueError:  # a wrapped builtin, as Tensor.__pow__
        return None
    return signature if signature is not None and "inplace" in signature.parameters else None


def tensors_in(values: Any) -> list[Tensor]:  # noqa: ANN401 - any argument
    """The tensors among arguments, in order, one level of lists deep."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [entry for entry in value if isinstance(entry, Tensor)]
    return found
