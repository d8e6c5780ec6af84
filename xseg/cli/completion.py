"""What the shell offers after Tab: methods, lists of a data set, class names.

Without torch, for half a second is long enough. Whatever goes wrong offers nothing: the command itself says what is
wrong with a data set.
"""

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path

import typer

from xseg.errors import XsegError

_REGISTERED = re.compile(r'^@methods\.register\("([^"]+)"\)', re.MULTILINE)


def method_names(incomplete: str) -> list[str]:
    """Explanation methods: xseg's own from its sources, for importing takes seconds, and plug-ins by entry point."""
    sources = (Path(__file__).parents[1] / "heatmaps").rglob("*.py")
    own = (name for source in sources for name in _REGISTERED.findall(source.read_text()))
    others = (entry.name for entry in entry_points(group="xseg.methods"))
    return _starting(incomplete, {*own, *others})


def split_names(context: typer.Context, incomplete: str) -> list[str]:
    """The lists of the data set on the command line."""
    return _of_dataset(context, incomplete, _splits)


def target_names(context: typer.Context, incomplete: str) -> list[str]:
    """Words and class names that `--targets` takes; names follow one another after commas."""
    *before, last = incomplete.split(",")
    prefix = "".join(f"{name}," for name in before)
    words = _starting(last, ("labels", "predicted", "top1", "all", "ssl"))
    names = _of_dataset(context, last, _classes)
    return [prefix + name for name in (*words, *names)]


def _of_dataset(context: typer.Context, incomplete: str, read: Callable[[str, str | None], Iterable[str]]) -> list[str]:
    # While the last option has no value yet, arguments are not told apart: the data set comes last of them.
    given = context.params.get("dataset") or next(reversed(context.args), None)
    with suppress(XsegError, OSError, ValueError):
        return _starting(incomplete, read(str(given), context.params.get("format_"))) if given else []
    return []


def _splits(location: str, format_: str | None) -> list[str]:
    from xseg.datasets.opening import splits_of

    return splits_of(location, format=format_)


def _classes(location: str, format_: str | None) -> tuple[str, ...]:
    from xseg.datasets.opening import open_dataset

    return open_dataset(location, format=format_).classes


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(incomplete)})
