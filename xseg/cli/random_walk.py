"""`xseg random-walk`."""

from typing import Annotated

import typer

from xseg.cli.command import Context, command
from xseg.cli.options import INPUT, OUTPUT, Blur, ClipPercentile, Root, Sign
from xseg.errors import Status, UsageError, require_at_most_one, require_one_of


@command("random-walk", *OUTPUT, "images", "device", "workers", "shard", "resume", *INPUT)
def random_walk(
    context: Context,
    heatmaps: Annotated[str, typer.Argument(metavar="HEATMAPS", help="Artifact made by explain, or '-'.")],
    affinity: Annotated[str, typer.Argument(metavar="AFFINITY", help="Artifact made by affinity-train.")],
    preset: Annotated[str, typer.Option(help="Published parameters: psa, irn or paper-003.")] = "psa",
    beta: Annotated[float | None, typer.Option(help="Power of the affinities; psa 8.")] = None,
    log_steps: Annotated[int | None, typer.Option(min=0, help="2^N steps; psa 8.")] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Steps, instead of --log-steps.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Exponent of the background that walks along; psa 16.")] = None,
    background: Annotated[
        float | None, typer.Option(help="Constant background instead, joined after the walk.")
    ] = None,
    foreground_share: Annotated[
        float | None,
        typer.Option(help="Choose --alpha so that this share of an image is foreground, the mean over images."),
    ] = None,
    radius: Annotated[float | None, typer.Option(help="Pairs closer than this, in nodes; default: as trained.")] = None,
    colour: Annotated[float, typer.Option(min=0, help="Weight of the colour distance; 0: none, as published.")] = 0.0,
    shares: Annotated[bool, typer.Option("--shares", help="Start from each class's share at a pixel.")] = False,
    flip: Annotated[bool, typer.Option("--flip", help="Also look at the mirrored image.")] = False,
    sign: Sign = "positive",
    clip_percentile: ClipPercentile = 100.0,
    root: Root = 1.0,
    blur: Blur = 0.0,
    dtype: Annotated[str | None, typer.Option(help="float16, float32 or uint8.")] = None,
) -> Status:
    """Spread heatmaps along the learned affinity; the background becomes class 0.

    Heatmaps that bring a background, such as those of crf --heatmaps, walk with theirs; the rest get --alpha's.
    --sign, --clip-percentile, --root and --blur shape the rest before, as heavy-tailed or signed ones need.

    Example: xseg random-walk cam.h5 affinity.h5 -o walk.h5

    Example: xseg random-walk cam.h5 affinity.h5 --foreground-share 0.3 -o walk.h5

    Example: xseg random-walk lrp.h5 affinity.h5 --root 4.5 --alpha 3 --shares -o walk.h5

    Example: xseg crf cam.h5 --heatmaps --alpha 3 | xseg random-walk - affinity.h5 --colour 50 --steps 96 -o walk.h5
    """
    from xseg.affinity.step import WalkOptions, walk
    from xseg.affinity.walk import PRESETS
    from xseg.cli.data import meaningful, report
    from xseg.labels.shaping import Shaping

    require_one_of("--preset", preset, *PRESETS)
    if radius is not None and radius <= 1:
        raise UsageError(f"--radius {radius}: needed a number above 1")
    require_at_most_one(steps=steps, log_steps=log_steps)
    require_at_most_one(alpha=alpha, background=background, foreground_share=foreground_share)
    base = PRESETS[preset]
    count = steps if steps is not None else 2**log_steps if log_steps is not None else base.steps
    exponent = alpha if alpha is not None else None if background is not None else base.alpha
    constant = background if background is not None else base.background
    with meaningful():
        options = WalkOptions(
            beta=base.beta if beta is None else beta,
            steps=count,
            alpha=exponent,
            background=0.25 if constant is None else constant,
            foreground_share=foreground_share,
            radius=radius,
            colour=colour,
            shares=shares,
            flip=flip,
            shaping=Shaping(sign, clip_percentile, root, blur),  # type: ignore[arg-type]
            dtype=dtype,
        )
    return report(context, walk([heatmaps], affinity, options, context.runtime))
