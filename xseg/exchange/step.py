"""The step `export`: artifacts as the files of other programs, a segmenter as an ONNX file."""

from collections.abc import Sequence
from pathlib import Path

import torch

from xseg.artifacts.stream import first_part
from xseg.errors import CannotCreate, UsageError
from xseg.exchange.formats import FORMATS
from xseg.exchange.names import output_path
from xseg.exchange.onnx import encode_onnx, require_packages
from xseg.exchange.png import write_whole
from xseg.runs.runtime import Runtime
from xseg.runs.source import RecordSource
from xseg.segmenter.step import load_segmenter

KINDS = ("masks", "pseudolabels", "heatmaps")
ONNX = ".onnx"


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
    _refuse_segmenter(inputs[0])
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


def export_segmenter(inputs: Sequence[str], size: tuple[int, int] | None, runtime: Runtime) -> Path:
    """Write a segmenter as one ONNX file, whose probabilities have been compared with xseg's.

    Args:
        inputs: one segmenter.
        size: height and width of the images that the file takes; None: what its backbone was made for.
        runtime: shared options; a file that is there already stays if it is equal.

    Returns:
        The file's path.

    Raises:
        UsageError: several inputs, or a size that the backbone does not take.
        BadInput: not a segmenter.
        Unavailable: a package is missing, or the comparison failed.
        CannotCreate: another file is in the way.
        OutputFailed: writing failed.
    """
    if len(inputs) > 1:
        raise UsageError(f"{len(inputs)} inputs for one {ONNX} file", "export one segmenter at a time")
    require_packages()
    header, content, segmenter = load_segmenter(inputs[0], torch.device("cpu"))
    _write(runtime.path, encode_onnx(segmenter, header, content, size), runtime.overwrite)
    return runtime.path


def _refuse_segmenter(name: str) -> None:
    if name == "-" or not Path(name).is_file():
        return
    with first_part(name) as part:
        if part.header.kind == "segmenter":
            raise UsageError(f"{name} is a segmenter, which becomes one file", f"give its name: -o FILE{ONNX}")


def _write(path: Path, data: bytes, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        if path.is_file() and path.read_bytes() == data:
            return
        raise CannotCreate(f"{path} exists and holds something else", "choose another -o, or use --overwrite")
    write_whole(path, data)
