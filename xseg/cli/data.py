"""What commands share beyond options: opening a data set, printing where the result is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xseg.cli.command import Context
from xseg.errors import Status, UsageError

if TYPE_CHECKING:
    from xseg.datasets.index import Dataset
    from xseg.heatmaps.views import MapSize

DatasetIn = Annotated[str, typer.Argument(metavar="DATASET", help="A directory, file, .tar or .zip with images.")]
SplitOpt = Annotated[str | None, typer.Option(help="Name of a list of images; default: all.")]
FormatOpt = Annotated[str | None, typer.Option("--format", help="voc, folder, csv, pairs or images; default: recognised.")]


def dataset_of(location: str, format_: str | None, split: str | None, context: Context) -> "Dataset":
    """The data set a command was given, cut to `--limit`."""
    from xseg.datasets import open_dataset

    return open_dataset(location, format=format_, split=split).limited(context.runtime.limit)


def map_size_of(text: str) -> "MapSize":
    """`image`, `model` or `HxW`.

    Raises:
        UsageError: something else.
    """
    if text in {"image", "model"}:
        return text  # type: ignore[return-value]
    height, cross, width = text.partition("x")
    if cross and height.isdigit() and width.isdigit() and int(height) and int(width):
        return int(height), int(width)
    raise UsageError(f"--map-size {text}: needed image, model or HxW", "for example --map-size 56x56")


def report(context: Context, status: Status) -> Status:
    """Print the finished path (or JSON about it); streams have carried the result already."""
    path = context.runtime.target.path
    if path is not None:
        context.stdout.line(json.dumps(_summary(path)) if context.json else str(path))
    if status == Status.SOME_FAILED:
        context.runtime.reporter.note("some images failed; they are named above and in the artifact")
    return status


def _summary(path: Path) -> dict[str, object]:
    from xseg.artifacts.stream import parts

    with next(parts([str(path)])) as part:
        images = {"images": len(part), "failures": len(part.failures)} if part.header.work else {}
        return {"path": str(path), "kind": part.header.kind, "content": part.stored_content(), **images}
