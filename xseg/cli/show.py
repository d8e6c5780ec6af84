"""`xseg show`."""

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.console import plain
from xseg.cli.data import FormatOpt, SplitOpt
from xseg.cli.merge import ArtifactsIn
from xseg.cli.options import INPUT
from xseg.errors import Status, UsageError

if TYPE_CHECKING:
    from xseg.pictures.sheet import Row


@command("show", "output_dir", "overwrite", "images", "limit", *INPUT)
def show(
    context: Context,
    inputs: ArtifactsIn,
    dataset: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Data set whose masks are drawn beside them.")
    ] = None,
    split: SplitOpt = None,
    format_: FormatOpt = None,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Draw on standard output, in half-block characters and 24-bit colours.")
    ] = False,
) -> Status:
    """Draw heatmaps, masks or pseudolabels over their photographs, into the directory -o or on the terminal.

    Example: xseg show cam.h5 --dataset VOC2012 --limit 20 -o pictures

    Example: xseg show masks.h5 --limit 3 --terminal
    """
    from xseg.datasets import open_dataset
    from xseg.pictures.step import show as run
    from xseg.pictures.step import show_rows

    truth = open_dataset(dataset, format=format_, split=split) if dataset else None
    if terminal:
        if context.runtime.target.path is not None or context.json:
            raise UsageError("--terminal draws on standard output", "leave -o and --json out")
        return show_rows(inputs, truth, context.runtime, lambda row, _: _print(row, context))
    status = run(inputs, truth, context.runtime)
    path = str(context.runtime.path)
    context.stdout.line(json.dumps({"path": path}) if context.json else path)
    return status


def _print(row: "Row", context: Context) -> None:
    from xseg.pictures.terminal import row_lines

    safe = replace(row, title=plain(row.title), captions=[plain(caption) for caption in row.captions])
    context.stdout.line("\n".join(row_lines(safe, shutil.get_terminal_size().columns)))
