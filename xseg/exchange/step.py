"""The step `export`: artifacts as the files of other programs."""

from collections.abc import Sequence
from pathlib import Path

from xseg.errors import CannotCreate, UsageError
from xseg.exchange.formats import FORMATS
from xseg.exchange.names import output_path
from xseg.exchange.png import write_whole
from xseg.runs.runtime import Runtime
from xseg.runs.source import RecordSource

KINDS = ("masks", "pseudolabels", "heatmaps")


def export(inputs: Sequence[str], format_: str, threshold: float | None, runtime: Runtime) -> int:
    """Write files named by the images' ids below the output directory; ids with slashes make subfolders.

    Args:
        inputs: masks, pseudolabels, or heatmaps.
        format_: one of `FORMATS`.
        threshold: background score for heatmaps without background; those with one are decided by argmax.
        runtime: shared options; files that are there already stay if they are equal.

    Returns:
        How many images were written.

    Raises:
        UsageError: heatmaps without background and no threshold, or a kind that the format does not have.
        BadInput: the wrong kind, missing images, an id that cannot name a file.
        CannotCreate: another file is in the way, or the directory cannot be made.
        OutputFailed: writing failed.
    """
    directory = runtime.path
    source = RecordSource(inputs, KINDS, allow_missing=runtime.allow_missing, notice=runtime.reporter.note)
    form = FORMATS[format_](source.header.classes, threshold)
    if threshold is not None and not form.needs_labels:
        raise UsageError(f"--threshold: not used by --format {format_}", "leave it out")
    runtime.reporter.start("export", len(source.expected))
    count = 0
    for record in runtime.stop.between(source):
        for ending, data in form.files(record):
            inside, _, suffix = ending.rpartition(".")  # class names are checked as ids are
            _write(output_path(directory, record.id + inside, f".{suffix}"), data, runtime.overwrite)
        count += 1
        runtime.reporter.advance(1)
    for name, data in form.last():
        _write(directory / name, data, runtime.overwrite)
    if source.failures:
        runtime.reporter.note(f"{len(source.failures)} images failed in an earlier step and have no file")
    return count


def _write(path: Path, data: bytes, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        if path.is_file() and path.read_bytes() == data:
            return
        raise CannotCreate(f"{path} exists and is not what would be written", "choose another -o, or use --overwrite")
    write_whole(path, data)
