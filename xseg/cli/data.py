"""What commands share beyond options: opening a data set, printing where the result is."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xseg.cli.command import Context
from xseg.cli.completion import split_names
from xseg.cli.options import numbers
from xseg.errors import InputMissing, Status, UsageError

if TYPE_CHECKING:
    from xseg.classifier.train import TrainResult
    from xseg.datasets.index import Dataset
    from xseg.heatmaps.views import MapSize

DatasetIn = Annotated[str, typer.Argument(metavar="DATASET", help="A directory, file, .tar, .zip or .mat with images.")]
SplitOpt = Annotated[
    str | None, typer.Option(help="Name of a list of images; default: all.", autocompletion=split_names)
]
TrainSplitOpt = Annotated[
    str | None, typer.Option(help="Name of a list of images; default: train, else all.", autocompletion=split_names)
]
FormatOpt = Annotated[
    str | None, typer.Option("--format", help="voc, folder, csv, pairs, images or imagenet-seg; default: recognised.")
]


def dataset_of(location: str, format_: str | None, split: str | None, context: Context) -> "Dataset":
    """The data set a command was given, cut to `--limit`."""
    from xseg.datasets import open_dataset

    return open_dataset(location, format=format_, split=split, images=context.runtime.images).limited(
        context.runtime.limit
    )


def trainer_data(location: str, format_: str | None, split: str | None, context: Context) -> "Dataset":
    """The data set of a trainer: split `train` where there is one and none was named."""
    from xseg.datasets import open_dataset

    images = context.runtime.images
    dataset = open_dataset(location, format=format_, split=split, default_split="train", images=images)
    return dataset.limited(context.runtime.limit)


def options_of(settings: Sequence[str]) -> dict[str, str | int | float | bool | None]:
    """`KEY=VALUE` arguments for a model's constructor; values are read as JSON where they are JSON.

    Raises:
        UsageError: no `=`.
    """
    options: dict[str, str | int | float | bool | None] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: needed KEY=VALUE")
        try:
            options[key] = json.loads(text)
        except ValueError:
            options[key] = text
    return options


def names_in(path: Path) -> tuple[str, ...]:
    """Class names from a text file, one a line.

    Raises:
        InputMissing: it cannot be read.
    """
    try:
        return tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputMissing(f"{path}: cannot be read ({error})", "give a text file, one class name a line") from error


def map_size_of(text: str) -> "MapSize":
    """`image`, `model` or `HxW`.

    Raises:
        UsageError: something else.
    """
    if text in {"image", "model"}:
        return text  # type: ignore[return-value]
    sides = _sides(text)
    if sides is None:
        raise UsageError(f"--map-size {text}: needed image, model or HxW", "for example --map-size 56x56")
    return sides


def frame_of(text: str) -> "Literal['image'] | tuple[int, int]":
    """`image` or `HxW`.

    Raises:
        UsageError: something else.
    """
    if text == "image":
        return "image"
    sides = _sides(text)
    if sides is None:
        raise UsageError(f"--frame {text}: needed image or HxW", "for example --frame 224x224")
    return sides


def sides_of(text: str, option: str) -> tuple[int, int]:
    """`HxW` as two positive numbers.

    Raises:
        UsageError: something else.
    """
    sides = _sides(text)
    if sides is None:
        raise UsageError(f"{option} {text}: needed HxW", f"for example {option} 512x512")
    return sides


def _sides(text: str) -> tuple[int, int] | None:
    """`HxW` as two positive numbers; None for something else."""
    height, cross, width = text.partition("x")
    if cross and height.isdecimal() and width.isdecimal() and int(height) and int(width):
        return int(height), int(width)
    return None


def report(context: Context, status: Status) -> Status:
    """Print the finished path (or JSON about it); streams have carried the result already."""
    path = context.runtime.target.path
    if path is not None:
        context.stdout.line(json.dumps(artifact_facts(path)) if context.json else str(path))
    if status == Status.SOME_FAILED:
        context.runtime.reporter.note("some images failed; they are named above and in the artifact")
    return status


def report_network(context: Context) -> None:
    """Print the path of a trained network (or JSON about it)."""
    path = context.runtime.path
    if context.runtime.rank.first:
        context.stdout.line(json.dumps(artifact_facts(path)) if context.json else str(path))


def report_training(context: Context, result: "TrainResult | None") -> None:
    """Print the path of a trained classifier and what was measured of it (or JSON); None: it was there already."""
    from xseg.classifier.step import summary

    if not context.runtime.rank.first:
        return
    path = context.runtime.path
    facts: dict[str, Any] = summary(result) if result else {}
    if context.json:
        context.stdout.line(json.dumps({**artifact_facts(path), **facts}))
        return
    for name, value in facts.get("ap", {}).items():
        context.runtime.reporter.note(f"  {name:20} AP {'-' if value is None else format(value, '.3f')}")
    for name, value in facts.get("accuracies", {}).items():
        context.runtime.reporter.note(f"  {name:20} {value:.3f}")
    if "accuracy" in facts:
        context.runtime.reporter.note(f"  accuracy {facts['accuracy']:.3f}")
    if facts.get("map") is not None:
        context.runtime.reporter.note(f"  mAP {facts['map']:.3f}")
    context.stdout.line(str(path))


@contextmanager
def meaningful() -> Iterator[None]:
    """Tell a parameter that has no meaning as the usage error it is."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def pair_of(text: str, option: str) -> tuple[float, float]:
    """Two numbers separated by a comma.

    Raises:
        UsageError: something else.
    """
    values = numbers(text, option)
    if len(values) != 2:
        raise UsageError(f"{option} {text}: needed two numbers separated by a comma")
    return values[0], values[1]


def artifact_facts(path: Path) -> dict[str, object]:
    """What `--json` tells about a finished artifact."""
    from xseg.artifacts.stream import first_part

    with first_part(str(path)) as part:
        images = {"images": len(part), "failures": len(part.failures)} if part.header.work else {}
        return {"path": str(path), "kind": part.header.kind, "content": part.stored_content(), **images}
