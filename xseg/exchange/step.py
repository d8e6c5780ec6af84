"""The step `export`: masks as palette PNG files."""

from collections.abc import Sequence
from pathlib import Path

from xseg.errors import CannotCreate, UsageError
from xseg.exchange.label_map import label_map_of
from xseg.exchange.names import output_path
from xseg.exchange.png import encode_mask, write_whole
from xseg.runs.runtime import Runtime
from xseg.runs.source import RecordSource

KINDS = ("masks", "pseudolabels", "heatmaps")


def export(inputs: Sequence[str], threshold: float | None, runtime: Runtime) -> int:
    """Write one PNG per image below the output directory; ids with slashes make subfolders.

    Args:
        inputs: masks, pseudolabels, or heatmaps.
        threshold: background score for heatmaps without background; those with one are decided by argmax.
        runtime: shared options; files that are there already stay if they are equal.

    Returns:
        How many images have a PNG now.

    Raises:
        UsageError: heatmaps without background and no threshold.
        BadInput: the wrong kind, missing images, an id that cannot name a file.
        CannotCreate: another file is in the way, or the directory cannot be made.
        OutputFailed: writing failed.
    """
    directory = runtime.path
    source = RecordSource(inputs, KINDS, allow_missing=runtime.allow_missing, notice=runtime.reporter.note)
    runtime.reporter.start("export", len(source.expected))
    count = 0
    for record in runtime.stop.between(source):
        mask = label_map_of(record, len(source.header.classes), threshold)
        if mask is None:
            raise UsageError(
                f"{inputs[0]} holds heatmaps without a background, so its pixels have no class yet",
                "give --threshold 0.2, or make masks with: xseg crf HEATMAPS --masks",
            )
        _write(output_path(directory, record.id, ".png"), encode_mask(mask), runtime.overwrite)
        count += 1
        runtime.reporter.advance(1)
    if source.failures:
        runtime.reporter.note(f"{len(source.failures)} images failed in an earlier step and have no PNG")
    return count


def _write(path: Path, data: bytes, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        if path.is_file() and path.read_bytes() == data:
            return
        raise CannotCreate(f"{path} exists and is not this mask", "choose another -o, or use --overwrite")
    write_whole(path, data)
