"""One forward pass written down, step by step, for relevance to go back through; the network is not touched.

Every function of torch that is called on something computed from the image is recorded, whether a module calls it or
the network's own code: residual sums, concatenations and gates are seen as they happen, and no model has to be edited.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xseg.classifier.model import Classifier
from xseg.heatmaps.attention import FUSED, in_steps
from xseg.heatmaps.layers import HALF_GRADIENT_SCALE, evaluating, single
from xseg.heatmaps.relevance.operations import KINDS, SQUASHING, Kind, out_of_place, tensors_in


@dataclass(frozen=True)
class Step:
    """One call on the way from the image to the logits.

    Attributes:
        kind: how relevance passes it.
        function: of torch; with `args`, `kwargs` it computes the step again.
        sources: numbers of the values among its operands, in order.
        target: number of the value it made.
        part: which of several results that value is; None where there is one.
        path: module path in which it was called ("layer1.0.conv1").
        type: that module's type.
    """

    kind: Kind
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sources: tuple[int, ...]
    target: int
    part: int | None
    path: str
    type: str

    @property
    def name(self) -> str:
        """The step for messages: "features.3 (Conv2d)", with the function where the module does not say it."""
        called = getattr(self.function, "__name__", str(self.function))
        return f"{self.path or 'the network'} ({self.type}: {called})"


@dataclass
class Tape:
    """Steps in order of execution and the values they made; value 0 is the batch of images.

    Attributes:
        steps: what was called.
        values: (N,...) each, in at least single precision when asked for through `value`.
        logits: (N,C), the last value.
    """

    steps: list[Step] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    def value(self, number: int) -> Tensor:
        """A value in at least single precision."""
        return single(self.values[number])

    def gradients(self, totals: Sequence[Tensor], numbers: Sequence[int], create_graph: bool) -> dict[int, Tensor]:
        """Gradients (K,N,...) of the K numbers `totals` with respect to the values of these numbers."""
        values = [self.values[number] for number in numbers]
        scale = HALF_GRADIENT_SCALE if self.logits.dtype == torch.float16 else 1.0
        rows = [
            torch.autograd.grad(
                total, values, total.new_tensor(scale), retain_graph=True, create_graph=create_graph, allow_unused=True
            )
            for total in totals
        ]
        found = {}
        for number, value, gradients in zip(numbers, values, zip(*rows, strict=True), strict=True):
            filled = [torch.zeros_like(value) if gradient is None else gradient for gradient in gradients]
            stacked = single(torch.stack(filled))
            found[number] = stacked if scale == 1 else stacked / scale
        return found

    def uses(self) -> Counter[int]:
        """How many steps read each value."""
        return Counter(source for step in self.steps for source in step.sources)

    def makers(self) -> dict[int, Step]:
        """The step that made each value."""
        return {step.target: step for step in self.steps}


def record(classifier: Classifier, images: Tensor, *, graph: bool = False, create_graph: bool = False) -> Tape:
    """Run a batch and write down what happens to it.

    Calls that work in place are replaced by their counterparts that do not, so every value stays what it was.

    Args:
        classifier: any mode; it is run in evaluation mode and left as it was.
        images: (N,3,H,W) normalised.
        graph: keep the values' graph down to the images, for gradients of the logits.
        create_graph: down to the parameters too, for losses on relevance.
    """
    tape, graph = Tape(), graph or create_graph
    with evaluating(classifier, create_graph), torch.set_grad_enabled(graph), _paths(classifier) as recorder:
        images = images if graph else images.detach()
        recorder.begin(tape, images.clone(memory_format=classifier.layout))  # the layout that is fast
        with recorder:
            tape.logits = classifier(tape.values[0])
    number = recorder.number(tape.logits)
    if number is not None:
        _drop_what_does_not_lead_to(tape, number)
    return tape


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.place: list[tuple[str, nn.Module]] = []
        self.tape = Tape()
        self._numbers: dict[int, int] = {}

    def begin(self, tape: Tape, images: Tensor) -> None:
        self.tape, self._numbers = tape, {}
        self._add(images)

    def number(self, value: Tensor) -> int | None:
        return self._numbers.get(id(value))

    def _add(self, value: Tensor) -> int:
        self.tape.values.append(value)  # which also keeps its id from being used again
        self._numbers[id(value)] = len(self.tape.values) - 1
        return len(self.tape.values) - 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if func is FUSED:
            with self:
                return in_steps(*args, **(kwargs or {}))
        func, args, kwargs = out_of_place(func, args, kwargs or {})
        result = func(*args, **kwargs)
        operands = tensors_in([*args, *kwargs.values()])
        if KINDS.get(func) in ("reshape", "arrange"):
            operands = operands[:1]  # the others say in what shape, type or place
        sources = tuple(number for value in operands if (number := self.number(value)) is not None)
        if sources:
            self._note(func, args, kwargs, sources, result)
        return result

    def _note(self, func: Any, args: Any, kwargs: Any, sources: tuple[int, ...], result: Any) -> None:  # noqa: ANN401
        # DenseNet goes on filling the list that it has concatenated
        args = tuple(map(_as_it_is_now, args))
        kwargs = {name: _as_it_is_now(value) for name, value in kwargs.items()}
        several = isinstance(result, tuple | list)
        for part, value in enumerate(result if several else [result]):
            if isinstance(value, Tensor) and self.number(value) is None:
                path, module = self.place[-1] if self.place else ("", None)
                kind = _kind(self.tape, func, args, kwargs, sources)
                step = (sources, self._add(value), part if several else None, path, type(module).__name__)
                self.tape.steps.append(Step(kind, func, args, kwargs, *step))

    def leave(self, path: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        """Note a module whose result no recorded function made, as code outside torch's functions does."""
        sources = tuple(n for value in tensors_in(inputs) if (n := self.number(value)) is not None)
        for value in tensors_in([output]):
            if sources and self.number(value) is None:
                kind = (sources, self._add(value), None, path, type(module).__name__)
                self.tape.steps.append(Step("unknown", module.forward, inputs, {}, *kind))


def _as_it_is_now(value: Any) -> Any:  # noqa: ANN401 - any argument
    return list(value) if isinstance(value, list) else value


def _kind(tape: Tape, function: Any, args: Any, kwargs: Any, sources: tuple[int, ...]) -> Kind:  # noqa: ANN401
    kind = KINDS.get(function, "unknown")
    if kind in ("sum", "gate") and len(sources) == 1:
        return "constant"
    if kind == "constant" and (len(sources) > 1 or args[0] is not tape.values[sources[0]]):
        return "unknown"
    if kind == "sum" and kwargs.get("alpha", 1) != 1:
        return "unknown"
    if kind == "gate" and gated(tape, sources) is None:
        return "product"
    if kind == "matmul":
        ranks = {tape.values[source].ndim for source in sources}
        return kind if len(sources) == 2 and len(ranks) == 1 and min(ranks) > 2 else "unknown"
    if kind not in ("sum", "gate", "concatenation") and len(sources) > 1:
        return "unknown"  # weights that depend on the image
    return kind


def gated(tape: Tape, sources: tuple[int, ...]) -> int | None:
    """Which of the two factors is the feature map: the larger, or the one that is not squashed; None if unclear."""
    makers = tape.makers()
    factors = [_before_arranging(makers, source) for source in sources]
    sizes = [tape.values[factor].numel() for factor in factors]
    if sizes[0] != sizes[1]:
        return int(sizes[1] > sizes[0])
    squashed = [factor in makers and makers[factor].function in SQUASHING for factor in factors]
    return squashed.index(False) if squashed.count(False) == 1 else None


def _before_arranging(makers: dict[int, Step], number: int) -> int:
    """The value that was expanded or reshaped into this one."""
    while number in makers and makers[number].kind in ("reshape", "arrange"):
        number = makers[number].sources[0]
    return number


@contextmanager
def _paths(classifier: Classifier) -> Iterator[_Recorder]:
    """A recorder that knows which module is running; the hooks are gone after the block."""
    recorder = _Recorder()

    def enter(path: str) -> Callable[..., None]:
        return lambda module, inputs: recorder.place.append((path, module))

    def leave(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
            while recorder.place.pop()[0] != path:
                pass  # what an exception ended, as in a linear probe, has told nobody
            recorder.leave(path, module, inputs, output)

        return hook

    with ExitStack() as hooks:
        for path, module in classifier.net.named_modules():
            hooks.callback(module.register_forward_pre_hook(enter(path)).remove)
            hooks.callback(module.register_forward_hook(leave(path)).remove)
        yield recorder


def _drop_what_does_not_lead_to(tape: Tape, last: int) -> None:
    needed, kept = {last}, []
    for step in reversed(tape.steps):
        if step.target in needed:
            needed.update(step.sources)
            kept.append(step)
    tape.steps = kept[::-1]
