"""`xseg merge`."""

from typing import Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.options import OUTPUT
from xseg.errors import Status

ArtifactsIn = Annotated[
    list[str], typer.Argument(metavar="INPUT...", help="Artifacts, directories of parts, or '-' for standard input.")
]


@command("merge", *OUTPUT, "resume", "allow_missing")
def merge(context: Context, inputs: ArtifactsIn) -> Status:
    """Join parts, shards or streams of one run into one artifact.

    Example: xseg merge cam-0.h5 cam-1.h5 cam-2.h5 -o cam.h5
    """
    from xseg.cli.data import report
    from xseg.runs.merge import merge as run

    return report(context, run(inputs, context.runtime))
