"""Axis checks: letters name axes, and the same letter must have the same size in every argument."""

from typing import Protocol


class HasShape(Protocol):
    """Anything with a `shape`: a tensor or an array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Axis sizes."""


def check_shapes(**arguments: tuple[HasShape, str]) -> dict[str, int]:
    """Check each `name=(array, "N C H W")`; a number in place of a letter is a required size.

    Returns:
        The size bound to each letter.

    Raises:
        ValueError: wrong number of axes, or one letter with two sizes; names the argument, found and needed.
    """
    sizes: dict[str, int] = {}
    for name, (array, axes) in arguments.items():
        letters, shape = axes.split(), tuple(array.shape)
        needed = [letter if letter.isdigit() else str(sizes.get(letter, letter)) for letter in letters]
        problem = f"{name} has shape {shape}, needed ({', '.join(needed)}) = {axes}"
        if len(letters) != len(shape):
            raise ValueError(problem)
        for letter, size in zip(letters, shape, strict=True):
            if size != (int(letter) if letter.isdigit() else sizes.setdefault(letter, size)):
                raise ValueError(problem)
    return sizes
