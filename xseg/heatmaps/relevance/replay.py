"""Whether what was written down is all that the logits depend on."""

from typing import Any

from torch import Tensor

from xseg.heatmaps.relevance.tape import Tape


def replayed(tape: Tape, images: Tensor) -> Tensor:
    """The logits (N,C) of other images, by the recorded steps alone.

    They are the network's own unless it depends on the image in a way that leaves no step: it writes into a tensor,
    takes a number out of one, or leaves torch and comes back.

    Args:
        tape: whose logits a recorded step made.
        images: (N,3,H,W) in the shape that was recorded.
    """
    values = {id(tape.values[0]): images}

    def put(value: Any) -> Any:  # noqa: ANN401 - any argument
        if isinstance(value, list | tuple):
            return (list if isinstance(value, list) else tuple)(map(put, value))
        return values.get(id(value), value)

    for step in tape.steps:
        kwargs = {name: put(value) for name, value in step.kwargs.items()}
        result = step.function(*(put(value) for value in step.args), **kwargs)
        values[id(tape.values[step.target])] = result if step.part is None else result[step.part]
    return values[id(tape.logits)]
