"""Decorators for loops that numba compiles to machine code; the loops release the GIL."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any], inline: bool = False) -> Callable[..., Any]:
    """Compile `function`; keep the result on disk where a directory for it can be written.

    What is kept is made anew when the function's own file changes, not when another file does: what a function calls
    stands beside it.
    """
    # Without Python's error model a division is one instruction; with it, a test for zero and a way out.
    options: dict[str, Any] = {"nogil": True, "forceinline": inline, "error_model": "numpy"}
    try:
        return njit(**options, cache=True)(function)
    except RuntimeError:  # numba finds no place for its cache, as in a read-only container
        return njit(**options)(function)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `compiled`, put into its callers: a call for every pixel that passes arrays would cost more than its work."""
    return compiled(function, inline=True)
