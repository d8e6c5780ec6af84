"""The attention matrices of one forward pass, whatever network computes them and however; the network is not touched.

Fused attention (`scaled_dot_product_attention`) never shows its matrix. Inside `watching` it is computed in the three
steps that it stands for, in the order in which timm computes it unfused; no switch of the network is turned, so none
has to be turned back.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

FUSED = functional.scaled_dot_product_attention
SOFTMAX = frozenset((torch.softmax, functional.softmax, Tensor.softmax))


def in_steps(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k^T scale + mask) v, the arguments of `scaled_dot_product_attention`.

    Args:
        query: (...,H,Q,D).
        key: (...,H,T,D).
        value: (...,H,T,D).
        attn_mask: added to the products, or booleans of which True takes part; broadcast to (...,H,Q,T).
        dropout_p: no part in evaluation mode, and must be 0.
        is_causal: a query sees no later token.
        scale: of the products; None: 1 / sqrt(D).
        enable_gqa: several heads of queries share one of keys and values.

    Returns:
        (...,H,Q,D).
    """
    if dropout_p:
        raise ValueError(f"dropout_p is {dropout_p}, needed 0: explanations run in evaluation mode")
    if enable_gqa:
        shared = query.size(-3) // key.size(-3)
        key, value = key.repeat_interleave(shared, -3), value.repeat_interleave(shared, -3)
    products = (query * (1 / math.sqrt(query.size(-1)) if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(products.shape[-2:], dtype=torch.bool, device=products.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        products = products.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        products = products + attn_mask
    return products.softmax(-1) @ value


def is_attention(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:  # noqa: ANN401
    """Whether a call made attention matrices (N,H,Q,T): a softmax over the last of four axes."""
    if function not in SOFTMAX or result.ndim != 4:
        return False
    axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return axis in (-1, 3)


class _Watcher(TorchFunctionMode):
    def __init__(self, graph: bool, first: int, keep: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.matrices: list[Tensor] = []
        self._graph, self._skip, self._keep = graph, first, keep

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func is FUSED and not self._skip:
            with self:
                return in_steps(*args, **kwargs)
        result = func(*args, **kwargs)
        if func is FUSED or is_attention(func, args, kwargs, result):
            if self._skip:
                self._skip -= 1
                return result
            if self._graph and not result.requires_grad:
                result = result.detach().requires_grad_()  # the graph starts at the first matrix
            self.matrices.append(self._keep(result))
        return result


def as_it_is(matrix: Tensor) -> Tensor:
    """The matrix itself."""
    return matrix


@contextmanager
def watching(
    graph: bool = False, first: int = 0, keep: Callable[[Tensor], Tensor] = as_it_is
) -> Iterator[list[Tensor]]:
    """Collect the attention matrices (N,H,Q,T) of a forward pass run inside the block, in the order of execution.

    Args:
        graph: the logits stay functions of the matrices, for `torch.autograd.grad(logits, matrices)`; of frozen
            parameters and images that require no gradient nothing below the first matrix is kept.
        first: number of matrices to pass over, from the start; fused ones among them stay fused.
        keep: what to collect of a matrix.

    Yields:
        The list that fills. Rows sum to 1 but for what the network does after its softmax.
    """
    with torch.set_grad_enabled(graph), _Watcher(graph, first, keep) as watcher:
        yield watcher.matrices
