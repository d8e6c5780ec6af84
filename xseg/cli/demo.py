"""`xseg demo`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from xseg.cli.command import Context, command


@command("demo", "seed")
def demo(
    context: Context,
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where everything is written.")] = Path("demo"),
    size: Annotated[int | None, typer.Option("--data-size", min=8, help="Images to draw; default 320.")] = None,
) -> None:
    """Run the whole chain on built-in data, each command printed before it runs, and score every stage.

    Takes some two minutes on two cores and downloads nothing. --seed chooses the data set. Run again to continue.

    Example: xseg demo

    Example: xseg demo /tmp/demo --seed 1 --json
    """
    from xseg.demo.step import demo as run
    from xseg.demo.step import table

    result = run(directory, size, context.runtime)
    context.runtime.reporter.note(table(result))
    context.runtime.reporter.note(f"overlays: {result['pictures']}")
    context.stdout.line(json.dumps(result) if context.json else str(directory))
