"""The way back: relevance from the logits to the image, one recorded step at a time."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from xseg.errors import UsageError
from xseg.heatmaps.registry import FALLBACKS, use
from xseg.heatmaps.relevance.affine import Affine
from xseg.heatmaps.relevance.operations import AFFINE, tensors_in
from xseg.heatmaps.relevance.rules import Division, sum_of
from xseg.heatmaps.relevance.tape import Step, Tape, gated

#: What explains a network that a relevance rule cannot pass.
INSTEAD = use(FALLBACKS)


class Walker(ABC):
    """How relevance passes each kind of step; one instance serves one tape.

    Relevance is (K,N,...) for K classes of N images, values are (N,...). What methods share is here; what they differ
    in is `affine` and the division, and at times `activation`. Norms that were not folded pass relevance on.

    Args:
        tape: the forward pass.
        divide: of the proportional rules (sums, means).
        wanted: numbers of the values whose relevance is asked for; below the first of them no step is passed.
    """

    # What passes a kind of step, by name: bound methods would refer back to the walker, and tape and graph would then
    # stay in memory until Python looks for circles.
    one_source: ClassVar[dict[str, str]] = {
        **dict.fromkeys(AFFINE, "_affine"),
        **dict.fromkeys(("batch-norm", "normalisation"), "_unchanged"),
        "activation": "activation",
        "average": "_average",
        "maximum": "_maximum",
        "reshape": "_reshape",
        "arrange": "_arrange",
        "constant": "_constant",
    }
    several_sources: ClassVar[dict[str, str]] = {"concatenation": "_concatenation", "sum": "_sum", "gate": "_gate"}

    def __init__(self, tape: Tape, divide: Division, wanted: Sequence[int] = (0,)) -> None:
        self.tape, self.divide, self.wanted = tape, divide, wanted

    @abstractmethod
    def affine(self, step: Step, layer: Affine, r: Tensor) -> Tensor:
        """Relevance at the input of a layer with weights."""

    def activation(self, step: Step, r: Tensor) -> Tensor:
        """Relevance at the input of an elementwise function: unchanged."""
        return r

    def join(self, number: int, parts: list[Tensor]) -> Tensor:
        """Relevance of a value that several steps read: their sum."""
        return parts[0] if len(parts) == 1 else self.divide.kept(sum_of(parts), self.tape.value(number))

    def walk(self, start: Tensor, number: int | None = None) -> Tensor:
        """Take relevance from the logits to the image.

        Args:
            start: (K,N,C) at the logits, or at another value.
            number: of that value.

        Returns:
            (K,N,3,H,W).

        Raises:
            UsageError: a step without a rule lies on the way.
        """
        return self.reach(start, number)[0]

    def reach(self, start: Tensor, number: int | None = None) -> dict[int, Tensor]:
        """Take relevance from the logits to the values that are wanted.

        Args:
            start: as in `walk`.
            number: as in `walk`.

        Returns:
            (K,N,...) for each of their numbers.

        Raises:
            UsageError: a step without a rule lies on the way.
        """
        last = self.tape.steps[-1].target if self.tape.steps else 0
        waiting: dict[int, list[Tensor]] = {last if number is None else number: [start]}
        found: dict[int, Tensor] = {}
        for step in self._way():
            arrived = waiting.pop(step.target, None)
            if arrived is None:
                continue  # the factor of a gate: no relevance comes this way
            relevance = self.join(step.target, arrived)
            if step.target in self.wanted:
                found[step.target] = relevance
            for source, r in zip(step.sources, self._through(step, relevance), strict=True):
                if r is not None:
                    waiting.setdefault(source, []).append(r)
        end = min(self.wanted)
        if self.tape.steps and end in waiting:
            found[end] = self.join(end, waiting[end])
        if not found.keys() >= set(self.wanted):
            raise UsageError("the logits do not depend on the image through any recorded step", INSTEAD)
        return found

    def _way(self) -> Iterator[Step]:
        """The steps from the logits down to the first value that is wanted."""
        end = min(self.wanted)
        return (step for step in reversed(self.tape.steps) if step.target > end)

    def refusal(self) -> str | None:
        """Which step on the way has no rule, or None if each has."""
        reached = {self.tape.steps[-1].target} if self.tape.steps else set()
        for step in self._way():
            if step.target not in reached:
                continue
            if not self._passes(step):
                return f"no relevance rule for {step.name}"
            chosen = gated(self.tape, step.sources) if step.kind == "gate" else None
            reached.update(step.sources if chosen is None else [step.sources[chosen]])
        return None if reached.issuperset(self.wanted) else "no recorded step leads from the image to the logits"

    def _passes(self, step: Step) -> bool:
        return step.kind in self.one_source or step.kind in self.several_sources

    def _through(self, step: Step, r: Tensor) -> list[Tensor | None]:
        """Relevance at each source of the step; None at the factor of a gate."""
        if not self._passes(step):
            raise UsageError(f"no relevance rule for {step.name}", INSTEAD)
        if name := self.one_source.get(step.kind):
            return [getattr(self, name)(step, r)]
        passed: list[Tensor | None] = getattr(self, self.several_sources[step.kind])(step, r)
        return passed

    def value(self, step: Step) -> Tensor:
        """(N,...) what the step made."""
        return self.tape.value(step.target)

    def source(self, step: Step) -> Tensor:
        """(N,...) what the step read."""
        return self.tape.value(step.sources[0])

    def pull(self, step: Step, r: Tensor) -> Tensor:
        """The transposed Jacobian of the step applied to each (N,...) of `r`."""
        backward = torch.func.vjp(lambda x: self._again(step, x), self.source(step))[1]
        # torch.vmap would take as long, and seconds more the first time it is used
        return torch.stack([backward(row)[0] for row in r])

    def _again(self, step: Step, x: Tensor) -> Tensor:
        wanted = self.tape.values[step.sources[0]]

        def put(value: object) -> object:
            return x if value is wanted else value

        result = step.function(*map(put, step.args), **{name: put(value) for name, value in step.kwargs.items()})
        return result if step.part is None else result[step.part]

    def _unchanged(self, _: Step, r: Tensor) -> Tensor:
        return r

    def _reshape(self, step: Step, r: Tensor) -> Tensor:
        return r.reshape(len(r), *self.source(step).shape)

    def _arrange(self, step: Step, r: Tensor) -> Tensor:
        return self.pull(step, r)

    def _constant(self, step: Step, r: Tensor) -> Tensor:
        return summed_to(r, len(r), self.source(step).shape)

    def _affine(self, step: Step, r: Tensor) -> Tensor:
        return self.affine(step, Affine.of(step.kind, step.function, step.args, step.kwargs), r)

    def _average(self, step: Step, r: Tensor) -> Tensor:
        """Means and up-sampling: in proportion to the contributions."""
        return self.source(step) * self.pull(step, self.divide(r, self.value(step)))

    def _maximum(self, step: Step, r: Tensor) -> Tensor:
        """The winner takes all."""
        return self.pull(step, self.divide.kept(r, self.value(step)))

    def _concatenation(self, step: Step, r: Tensor) -> list[Tensor | None]:
        given = dict(zip(("tensors", "dim"), step.args, strict=False)) | step.kwargs
        dim = given.get("dim", given.get("axis", 0))
        dim = dim if dim < 0 else dim + 1  # past the axis of the classes
        if step.function is torch.stack:
            parts = r.unbind(dim)
        else:
            parts = r.split([part.shape[dim if dim < 0 else dim - 1] for part in given["tensors"]], dim)
        known = {id(self.tape.values[source]) for source in step.sources}
        return [part for part, operand in zip(parts, given["tensors"], strict=True) if id(operand) in known]

    def _sum(self, step: Step, r: Tensor) -> list[Tensor | None]:
        share = self.divide(r, self.value(step))
        parts = [self.tape.value(source) for source in step.sources]
        return [summed_to(part * share, len(r), part.shape) for part in parts]

    def _gate(self, step: Step, r: Tensor) -> list[Tensor | None]:
        chosen = gated(self.tape, step.sources)
        return [r if position == chosen else None for position in range(2)]


def summed_to(r: Tensor, rows: int, shape: torch.Size) -> Tensor:
    """`r` (K,N,...) summed over what was broadcast, to (K, *shape)."""
    return r if r.shape[1:] == shape else r.sum_to_size(rows, *shape)


_RECTIFIERS = {"relu", "relu6", "softplus", "sigmoid", "hardsigmoid"}
_KEEPERS = ("average", "maximum", "reshape", "arrange", "concatenation", "sum", "gate")


def nonnegative(tape: Tape) -> frozenset[int]:
    """Numbers of the values that cannot be negative, by what made them."""
    known: set[int] = set()
    for step in tape.steps:
        name = getattr(step.function, "__name__", "")
        rectified = step.kind == "activation" and name in _RECTIFIERS
        keeps = step.kind in _KEEPERS or "dropout" in name
        if rectified or (keeps and _keeps_signs(tape, step, known)):
            known.add(step.target)
    return frozenset(known)


def _keeps_signs(tape: Tape, step: Step, known: set[int]) -> bool:
    read = {id(tape.values[source]) for source in step.sources}
    constants = [value for value in tensors_in([*step.args, *step.kwargs.values()]) if id(value) not in read]
    # what is padded with may be negative, and so may what bicubic interpolation makes of positive values
    literal = (*step.args, *step.kwargs.values())
    doubtful = any(value == "bicubic" if isinstance(value, str) else _negative(value) for value in literal)
    return not constants and not (doubtful and step.kind in ("average", "arrange")) and known.issuperset(step.sources)


def _negative(value: object) -> bool:
    return isinstance(value, int | float) and value < 0
