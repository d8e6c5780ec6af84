"""Intermediate outputs of one forward pass, by module path; the hooks never outlive the `with` block."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from xseg.errors import UsageError


def module_at(net: nn.Module, path: str) -> nn.Module:
    """The module of `net` at `path` ("layer4.1").

    Raises:
        UsageError: there is none; near misses are listed.
    """
    modules = dict(net.named_modules())
    if path and path in modules:
        return modules[path]
    known = [name for name in modules if name]
    near = difflib.get_close_matches(path, known, 5, 0.5) or [name for name, _ in net.named_children()]
    raise UsageError(f"--layer {path}: the model has no such module", f"did you mean {', '.join(near)}?")


@contextmanager
def capture(classifier: nn.Module, paths: Sequence[str], grad: bool = False) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of the modules at `paths` while the block runs forward passes.

    A later in-place operation (ReLU) cannot change what was captured. With `grad=False` the captured tensor is a
    detached copy. With `grad=True` it is the module's own output and the rest of the network continues on a copy of
    it, so `torch.autograd.grad(logits, features[path])` works; where nothing below requires a gradient, the graph
    starts at the captured tensor, and nothing below it is kept in memory.

    Args:
        classifier: a `Classifier` (paths are those of its `net`) or any module.
        paths: module paths; each appears in the result once its module has run.
        grad: keep the graph from the captured tensors to the logits.

    Yields:
        A dict from path to tensor; a further forward pass overwrites it, and of a module that runs several times in
        one pass the last output counts.

    Raises:
        UsageError: no module at a path, or its output is not a tensor.
    """
    net = getattr(classifier, "net", classifier)
    features: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for path in dict.fromkeys(paths):
            handle = module_at(net, path).register_forward_hook(_keeper(features, path, grad))
            hooks.callback(handle.remove)
        yield features


def _keeper(features: dict[str, Tensor], path: str, grad: bool) -> Callable[..., Tensor | None]:
    def keep(module: nn.Module, inputs: tuple[object, ...], output: object) -> Tensor | None:
        if not isinstance(output, Tensor):
            kind = type(output).__name__
            raise UsageError(f"--layer {path}: its output is a {kind}, needed a tensor", "choose another layer")
        if not grad:
            features[path] = output.detach().clone()
            return None
        if not torch.is_grad_enabled():
            raise ValueError("capture(grad=True) inside torch.no_grad(): no graph can be kept")
        features[path] = output if output.requires_grad else output.detach().requires_grad_()
        return features[path].clone()

    return keep
