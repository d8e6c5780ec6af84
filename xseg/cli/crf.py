"""`xseg crf`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from xseg.cli.command import Context, command
from xseg.cli.options import INPUT, OUTPUT, Blur, ClipPercentile, Root, Sign, numbers
from xseg.errors import Status, UsageError, require_at_most_one, require_one_of

KERNELS, LABELS, MASKS, MAPS = "CRF", "Confident labels", "Masks", "Heavy-tailed or signed maps"
ArtifactIn = Annotated[list[str], typer.Argument(metavar="INPUT...", help="Artifact, its parts or shards, or '-'.")]


@command("crf", *OUTPUT, "images", "device", "workers", "shard", "resume", *INPUT)
def crf(
    context: Context,
    inputs: ArtifactIn,
    masks: Annotated[bool, typer.Option("--masks", help="Refine to masks instead of confident labels.")] = False,
    heatmaps: Annotated[bool, typer.Option("--heatmaps", help="Refine to heatmaps with a background.")] = False,
    mode: Annotated[str, typer.Option(help="Confident labels as in psa (two exponents) or irn (two scores).")] = "psa",
    alpha_low: Annotated[float | None, typer.Option(help="psa: exponent of the generous background; 4.")] = None,
    alpha_high: Annotated[float | None, typer.Option(help="psa: exponent of the strict background; 32.")] = None,
    thresholds: Annotated[
        str | None, typer.Option(help="irn: background scores for foreground and background; 0.3,0.05.")
    ] = None,
    posteriors: Annotated[bool, typer.Option("--posteriors", help="psa: also store both posteriors.")] = False,
    background: Annotated[
        float | None, typer.Option(help="--masks, --heatmaps: background score where the maps have none; 0.2.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="--masks, --heatmaps: exponent of (1 - max)^alpha instead.")
    ] = None,
    background_weight: Annotated[
        float, typer.Option(help="--masks, --heatmaps: factor on a background that the maps bring.")
    ] = 1.0,
    foreground_share: Annotated[
        str | None,
        typer.Option(
            metavar="P",
            help="Choose the background so that this share of an image is foreground, the mean over images, before"
            " the CRF; for confident labels two, as 0.15,0.4: surely foreground, and not surely background.",
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Probability of a hard label before it is refined.")] = 0.7,
    refine: Annotated[
        str, typer.Option(help="dense-crf, or pixel-adaptive: averages over neighbours of similar colour.")
    ] = "dense-crf",
    iterations: Annotated[int, typer.Option(min=0, help="Mean-field steps, or averages.")] = 10,
    gaussian_sxy: Annotated[float | None, typer.Option(help="Deviation of the position kernel, pixels; 3.")] = None,
    gaussian_compat: Annotated[float | None, typer.Option(help="Its weight; 3.")] = None,
    bilateral_sxy: Annotated[
        float | None, typer.Option(help="Deviation in position of the colour kernel, pixels; 80.")
    ] = None,
    bilateral_srgb: Annotated[float | None, typer.Option(help="Deviation in colour, levels of 0..255; 13.")] = None,
    bilateral_compat: Annotated[float | None, typer.Option(help="Its weight; 10.")] = None,
    backend: Annotated[str | None, typer.Option(help="auto, lattice, numba or pydensecrf; auto.")] = None,
    neighbour_weights: Annotated[
        str | None, typer.Option(help="pixel-adaptive: published constants, par or pamr; par.")
    ] = None,
    dilations: Annotated[
        str | None, typer.Option(help="pixel-adaptive: distances of the neighbours, pixels; 1,2,4,8,12,24.")
    ] = None,
    colour_width: Annotated[
        float | None, typer.Option(help="pixel-adaptive: in deviations of the neighbourhood; par 0.3, pamr 0.1.")
    ] = None,
    position_width: Annotated[
        float | None, typer.Option(help="pixel-adaptive: in deviations of the distances; 0.3.")
    ] = None,
    position_weight: Annotated[
        float | None, typer.Option(help="pixel-adaptive: of the distances beside colour; par 0.01, pamr 0.")
    ] = None,
    sign: Sign = "positive",
    clip_percentile: ClipPercentile = 100.0,
    root: Root = 1.0,
    blur: Blur = 0.0,
    sharpen: Annotated[float | None, typer.Option(help="Power of each class's share of a pixel; see below.")] = None,
    dtype: Annotated[str | None, typer.Option(help="--heatmaps: float16, float32 or uint8.")] = None,
) -> Status:
    """Refine heatmaps by a dense CRF into confident labels, masks or heatmaps, or masks into masks.

    --refine pixel-adaptive takes averages over neighbours of similar colour instead (PAR, PAMR).

    --sign, --clip-percentile, --root and --blur shape maps that have no background. --sharpen works on all: at each
    pixel the classes, background included, become shares, raised to that power; 1 where maps bring a background.

    Example: xseg crf cam.h5 -o labels.h5

    Example: xseg crf walk.h5 --masks -o masks.h5

    Example: xseg crf cam.h5 --heatmaps --alpha 3 -o refined.h5

    Example: xseg crf cam.h5 --masks --foreground-share 0.3 -o masks.h5

    Example: xseg crf cam.h5 --masks --alpha 3 --refine pixel-adaptive -o masks.h5
    """
    from xseg.cli.data import meaningful, pair_of, report
    from xseg.labels.masks import Preparation
    from xseg.labels.step import CrfOptions
    from xseg.labels.step import crf as run

    require_one_of("--mode", mode, "psa", "irn")
    if masks and heatmaps:
        raise UsageError("--masks and --heatmaps exclude each other")
    of_labels = {"alpha_low": alpha_low, "alpha_high": alpha_high, "thresholds": thresholds}
    require_at_most_one(alpha=alpha, background=background, foreground_share=foreground_share)
    for name, value in of_labels.items():
        require_at_most_one(**{name: value}, foreground_share=foreground_share)
    if (alpha is not None or background is not None) and not (masks or heatmaps):
        raise UsageError("--alpha and --background belong to --masks and --heatmaps", "see --alpha-low, --alpha-high")
    kernels = {
        "gaussian_sxy": gaussian_sxy,
        "gaussian_compat": gaussian_compat,
        "bilateral_sxy": bilateral_sxy,
        "bilateral_srgb": bilateral_srgb,
        "bilateral_compat": bilateral_compat,
    }
    averages = {
        "neighbour_weights": neighbour_weights,
        "dilations": dilations,
        "colour_width": colour_width,
        "position_width": position_width,
        "position_weight": position_weight,
    }
    _refuse_of_the_other(refine, kernels | {"backend": backend}, averages)
    with meaningful():
        options = CrfOptions(
            writes="masks" if masks else "heatmaps" if heatmaps else "pseudolabels",
            mode=mode,  # type: ignore[arg-type]
            **_given({"alpha_low": alpha_low, "alpha_high": alpha_high}),
            thresholds=pair_of(thresholds or "0.3,0.05", "--thresholds"),
            background_weight=background_weight,
            foreground_share=numbers(foreground_share, "--foreground-share") if foreground_share else (),
            confidence=confidence,
            background=0.2 if background is None else background,
            alpha=alpha,
            **_constants(refine, kernels, averages, iterations),
            preparation=Preparation(sign, clip_percentile, root, blur, sharpen),  # type: ignore[arg-type]
            posteriors=posteriors,
            dtype=dtype,
        )
    return report(context, run(inputs, options, backend or "auto", context.runtime))


def _refuse_of_the_other(refine: str, of_crf: Mapping[str, object], of_averages: Mapping[str, object]) -> None:
    """Refuse options that the chosen refinement does not look at."""
    require_one_of("--refine", refine, "dense-crf", "pixel-adaptive")
    owner, strange = ("pixel-adaptive", of_averages) if refine == "dense-crf" else ("dense-crf", of_crf)
    for name, value in strange.items():
        if value is not None:
            raise UsageError(f"--{name.replace('_', '-')} belongs to --refine {owner}", f"found --refine {refine}")


def _constants(
    refine: str, kernels: Mapping[str, float | None], averages: dict[str, Any], iterations: int
) -> dict[str, Any]:
    """The field of `CrfOptions` that holds the refinement's constants; None keeps the published one."""
    from xseg.labels.meanfield import Kernels
    from xseg.labels.pixel_adaptive import PRESETS

    if refine == "dense-crf":
        return {"kernels": Kernels(iterations=iterations, **_given(kernels))}
    given = _given(averages)
    preset = given.pop("neighbour_weights", "par")
    require_one_of("--neighbour-weights", preset, *PRESETS)
    if "dilations" in given:
        given["dilations"] = tuple(
            int(step) if step.is_integer() else step for step in numbers(given["dilations"], "--dilations")
        )
    return {"averages": replace(PRESETS[preset], iterations=iterations, **given)}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
