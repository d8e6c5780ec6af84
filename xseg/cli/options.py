"""Every option that more than one command has, declared once."""

from pathlib import Path
from typing import Annotated, Any

import typer

from xseg.errors import UsageError

Shared = dict[str, tuple[Any, Any]]  # name -> (annotated type, default)

SHARED: Shared = {
    "output": (
        Annotated[
            str | None,
            typer.Option("-o", "--output", help="File to write; '-' or nothing: standard output, if that is a pipe."),
        ],
        None,
    ),
    "score_output": (
        Annotated[
            str | None, typer.Option("-o", "--output", metavar="PATH", help="Also keep the scores as an artifact.")
        ],
        None,
    ),
    "overwrite": (Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")], False),
    "images": (
        Annotated[
            Path | None,
            typer.Option(
                help="Where the images are, if not beside their list, or moved: a directory, .tar, .zip [XSEG_IMAGES]."
            ),
        ],
        None,
    ),
    "device": (Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")], "auto"),
    "batch_size": (
        Annotated[
            int | None,
            typer.Option(
                min=1,
                help="Images at once; default: train-cls 16, perturbation 32, else 8; a CPU that does not train: 1.",
            ),
        ],
        None,
    ),
    "workers": (Annotated[int | None, typer.Option(min=0, help="Loading threads; default: one per core.")], None),
    "amp": (Annotated[bool | None, typer.Option("--amp/--no-amp", help="Mixed precision on a GPU.")], None),
    "seed": (Annotated[int, typer.Option(help="Seed of every random draw.")], 0),
    "shard": (
        Annotated[str | None, typer.Option(metavar="I/N", help="Only the I-th of N slices, counted from 0.")],
        None,
    ),
    "resume": (Annotated[bool, typer.Option("--resume/--no-resume", help="Continue a run that was cut off.")], True),
    "limit": (Annotated[int | None, typer.Option(min=1, help="Only the first N images.")], None),
    "allow_missing": (
        Annotated[bool, typer.Option("--allow-missing", help="Accept inputs with missing images.")],
        False,
    ),
    "max_failures": (Annotated[int, typer.Option(min=0, help="Images that may fail before the status becomes 3.")], 0),
    "json": (Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")], False),
    "quiet": (Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")], False),
    "verbose": (
        Annotated[int, typer.Option("-v", "--verbose", count=True, show_default=False, help="A line per image.")],
        0,
    ),
    "output_dir": (
        Annotated[str | None, typer.Option("-o", "--output", metavar="DIR", help="Directory for the PNGs.")],
        None,
    ),
    "progress": (Annotated[str, typer.Option(help="auto, always or never.")], "auto"),
}

TALK = ("json", "quiet", "verbose", "progress")
OUTPUT = ("output", "overwrite")
PER_IMAGE = (*OUTPUT, "images", "device", "batch_size", "workers", "amp", "seed", "shard", "resume", "limit")
INPUT = ("allow_missing", "max_failures")
TRAINING = (*OUTPUT, "device", "batch_size", "workers", "amp", "seed", "resume", "limit")

Sign = Annotated[str, typer.Option(help="What counts as evidence in a map: positive values, or both.")]
ClipPercentile = Annotated[float, typer.Option(help="Values above this percentile of a map count as 1.")]
Root = Annotated[float, typer.Option(help="Scores are raised to 1/root; above 1 it lifts the small ones.")]
Blur = Annotated[float, typer.Option(help="Deviation of a Gaussian laid over the maps, pixels.")]


def numbers(text: str, option: str) -> tuple[float, ...]:
    """`1,0.5,2` as numbers.

    Raises:
        UsageError: something else.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{option} {text}: needed numbers separated by commas", f"for example {option} 1,0.5,2"
        ) from error
    if not all(value > 0 for value in values):
        raise UsageError(f"{option} {text}: every number must be above 0")
    return values
