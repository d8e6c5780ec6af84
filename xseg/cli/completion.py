"""What the shell offers after Tab: methods and their parameters, lists of a data set, class names.

Without torch, for half a second is long enough. Whatever goes wrong offers nothing: the command itself says what is
wrong with a data set.
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager, redirect_stdout, suppress
from importlib.metadata import entry_points

import typer

from xseg.cli.settings import Parameters, method_parameters, model_parameters, own_methods
from xseg.errors import XsegError


def method_names(incomplete: str) -> list[str]:
    """Explanation methods: xseg's own from its sources, for importing takes seconds, and plug-ins by entry point."""
    others = (entry.name for entry in entry_points(group="xseg.methods"))
    return _starting(incomplete, {*own_methods(), *others})


def method_settings(context: typer.Context, incomplete: str) -> list[str]:
    """`--set KEY=VALUE` of the explanation method on the command line, or of the default one."""
    return _settings(method_parameters(_given(context, "method", "heatmap")), incomplete)


def model_settings(context: typer.Context, incomplete: str) -> list[str]:
    """`--set KEY=VALUE` of the model on the command line."""
    return _settings(model_parameters(_given(context, "model")), incomplete)


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


@contextmanager
def whole_words() -> Iterator[None]:
    """What bash has broken at `=` is one word while offers are made, and they are cut to what goes after the `=`."""
    before = _rejoined(os.environ) if os.environ.get("_XSEG_COMPLETE") == "complete_bash" else ""
    if not before:
        yield
        return
    offered = io.StringIO()
    try:
        with redirect_stdout(offered):
            yield
    finally:
        typer.echo("\n".join(line.removeprefix(before) for line in offered.getvalue().splitlines()))


def _rejoined(environment: MutableMapping[str, str]) -> str:
    """Put the words together; the part of the value under the cursor that bash keeps, up to its last `=`."""
    joined: list[str] = []
    broken = ""
    with suppress(KeyError, ValueError):
        current = int(environment["COMP_CWORD"])
        for place, word in enumerate(environment["COMP_WORDS"].split("\n")):
            after = len(joined) > 1 and (word == "=" or (joined[-1].endswith("=") and word != ""))
            joined[-1:] = [joined[-1] + word] if after else [*joined[-1:], word]
            if place == current:
                environment["COMP_CWORD"] = str(len(joined) - 1)
                broken = joined[-1] if after else ""
        environment["COMP_WORDS"] = "\n".join(joined)
    value = broken.partition("=")[2] if broken.startswith("-") else broken
    return value[: value.rfind("=") + 1]


def _given(context: typer.Context, *options: str) -> str:
    named = {str(one.name): context.params.get(str(one.name)) or one.default for one in context.command.params}
    return next((str(named[option]) for option in options if named.get(option)), "")


def _settings(parameters: Parameters, incomplete: str) -> list[str]:
    key, equals, _ = incomplete.partition("=")
    if equals:
        found = [f"{key}={choice}" for choice in parameters.get(key.replace("-", "_"), ())]
        return _starting(incomplete, found)
    found = _starting(incomplete, (f"{name}=" for name in parameters))
    # a single name goes on to its choices, for after a single offer the shell begins a new word
    choices = [found[0] + choice for choice in parameters[found[0][:-1]]] if len(found) == 1 else []
    return sorted(choices) or found


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
