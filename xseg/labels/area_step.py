"""Thresholds by area prior from the heatmaps of an artifact, in a pass of their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from xseg.errors import BadInput, UsageError
from xseg.labels.area import ForegroundShares, exponent, foreground_scores, weight
from xseg.runs.photographs import heatmaps_of
from xseg.runs.runtime import Runtime
from xseg.runs.source import RecordSource


@dataclass(frozen=True)
class AreaPrior:
    """Thresholds that were found.

    Attributes:
        thresholds: one for each share, in (0,1).
        own_background: whether the maps bring a background, which the thresholds then weigh.
    """

    thresholds: tuple[float, ...]
    own_background: bool


def find_thresholds(
    inputs: Sequence[str],
    shares: Sequence[float],
    prepared: Callable[[Tensor], Tensor],
    runtime: Runtime,
    *,
    weigh_background: bool = True,
) -> AreaPrior:
    """The thresholds at which the mean foreground share over all images is each of `shares`.

    All images of the work list count, whatever the shard, so that every shard finds the same.

    Args:
        inputs: heatmaps; paths, as they are read twice.
        shares: in (0,1).
        prepared: maps (K,H,W) without a background to scores in [0,1].
        runtime: shared options.
        weigh_background: compare with the background that maps bring; otherwise it is left out.

    Raises:
        UsageError: a stream, or a share outside (0,1).
        BadInput: not heatmaps, no image, maps with and without a background, or a share that no threshold gives.
    """
    if wrong := next((share for share in shares if not 0 < share < 1), None):
        raise UsageError(f"--foreground-share {wrong:g}: needed a number in (0, 1)", "for example 0.3")
    source = RecordSource(inputs, ["heatmaps"], allow_missing=runtime.allow_missing, inherit_shard=False)
    if "-" in inputs or not source.again:
        raise UsageError("--foreground-share reads its input twice, which a stream does not allow", "save it to a file")
    counted, kinds = ForegroundShares(), set()
    for record in runtime.stop.between(source):
        maps, class_id = heatmaps_of(record)
        if not weigh_background:
            maps, class_id = maps[class_id > 0], class_id[class_id > 0]
        own = bool((class_id == 0).any())
        if len(maps):
            kinds.add(own)
        counted.add(foreground_scores(maps.clamp(min=0) if own else prepared(maps), class_id))
    if len(kinds) > 1:
        raise BadInput(f"{inputs[0]}: some maps bring a background and some do not", "give maps of one kind")
    try:
        found = tuple(counted.threshold(share) for share in shares)
    except ValueError as error:
        raise BadInput(f"--foreground-share: {error}", "give a share between, or other maps") from error
    own = kinds == {True}
    for threshold in found:
        meaning = f"background weight {weight(threshold):.4g}" if own else f"exponent {exponent(threshold):.4g}"
        share = f"a mean foreground share of {counted.at(threshold):.4f} over {counted.images} images"
        runtime.reporter.note(f"threshold {threshold:.5f} ({meaning}): {share}")
    return AreaPrior(found, own)
