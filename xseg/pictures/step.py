"""The step `show`: heatmaps or masks over their photographs."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from xseg.artifacts.record import Record
from xseg.datasets.index import Dataset
from xseg.errors import BadInput, CannotCreate, InputMissing, Status
from xseg.exchange.label_map import label_map_of
from xseg.exchange.names import output_path
from xseg.exchange.png import write_whole
from xseg.pictures.overlay import overlay_heatmap, overlay_mask
from xseg.pictures.sheet import Row, contact_sheet
from xseg.runs.failed_images import FailedImages
from xseg.runs.images import final_status
from xseg.runs.photographs import Photograph, Photographs, heatmaps_of
from xseg.runs.runtime import Runtime
from xseg.runs.source import RecordSource

KINDS = ("heatmaps", "masks", "pseudolabels")
MAPS = 6  # heatmaps of one image that are drawn, the strongest first
SHEET_ROWS = 24
SMALLEST = 112  # pixels: narrower pictures would leave no room for their captions


@dataclass(frozen=True)
class Panel:
    """One picture of a row and what is written below it."""

    caption: str
    picture: Image.Image


def show(inputs: Sequence[str], truth: Dataset | None, runtime: Runtime) -> Status:
    """Write `overlays/ID.png` for every image and `sheet.png` for the first ones, below the output directory.

    Args:
        inputs: heatmaps, masks or pseudolabels.
        truth: a data set whose masks are drawn beside them.
        runtime: shared options; `limit` counts images.

    Returns:
        0, or 3 when more photographs than allowed could not be read.

    Raises:
        BadInput: the wrong kind, missing images, other classes than the data set's.
        CannotCreate: there are such pictures already, or the directory cannot be made.
        OutputFailed: writing failed.
    """
    directory = runtime.path
    sheet = directory / "sheet.png"
    if sheet.exists() and not runtime.overwrite:
        raise CannotCreate(f"{sheet} exists", "choose another -o, or use --overwrite")
    rows: list[Row] = []
    classes: tuple[str, ...] = ()

    def write(row: Row, names: tuple[str, ...]) -> None:
        nonlocal classes
        classes = names
        write_whole(output_path(directory / "overlays", row.title, ".png"), _png([row], classes))
        rows.extend([row] if len(rows) < SHEET_ROWS else [])

    status = show_rows(inputs, truth, runtime, write)
    if rows:
        write_whole(sheet, _png(rows, classes, cell=(160, 120)))
    return status


def show_rows(
    inputs: Sequence[str], truth: Dataset | None, runtime: Runtime, draw: Callable[[Row, tuple[str, ...]], None]
) -> Status:
    """Hand a row of pictures for every image, titled by its id, and the class names to `draw`.

    Args:
        inputs: heatmaps, masks or pseudolabels.
        truth: a data set whose masks are drawn beside them.
        runtime: shared options; `limit` counts images.
        draw: takes them, in order.

    Returns:
        0, or 3 when more photographs than allowed could not be read.

    Raises:
        BadInput: the wrong kind, missing images, other classes than the data set's.
    """
    source = RecordSource(inputs, KINDS, allow_missing=runtime.allow_missing, notice=runtime.reporter.note)
    classes = source.header.classes
    if truth is not None:
        truth.require_masks()
        source.require_classes(truth.classes, str(truth.location))
    wanted = min(len(source.expected), runtime.limit or len(source.expected))
    runtime.reporter.start("show", wanted)
    photographs, failed = Photographs(source, runtime), FailedImages(runtime.reporter)
    for record in runtime.stop.between(source):
        if record.index not in source.expected[:wanted]:
            continue
        try:
            row = _row(photographs.of(record), classes, truth)
        except (BadInput, InputMissing) as error:
            failed.add(record.id, error)
            continue
        draw(row, classes)
        runtime.reporter.advance(1)
    failed.tell_repeated()
    return final_status(len(failed), runtime.max_failures)


def _row(photograph: Photograph, classes: Sequence[str], truth: Dataset | None) -> Row:
    image, record = photograph.image, photograph.record
    panels = [Panel("photograph", Image.fromarray(image))]
    if "maps" in record.arrays:
        panels += _heatmaps(image, record, classes)
    mask = label_map_of(record, len(classes))
    if mask is not None:
        kind = next((name for name in ("masks", "labels") if name in record.arrays), "strongest")
        panels.append(Panel(kind, overlay_mask(image, mask)))
    if truth is not None and record.id in truth.by_id:
        panels.append(Panel("truth", overlay_mask(image, truth.read_mask(truth.by_id[record.id], record.size))))
    return Row(record.id, [panel.picture for panel in panels], [panel.caption for panel in panels])


def _heatmaps(image: np.ndarray, record: Record, classes: Sequence[str]) -> list[Panel]:
    maps, class_id = heatmaps_of(record)
    names = {0: "background", -1: "any class", **dict(enumerate(classes, 1))}
    strength = np.where(class_id.numpy() == 0, -np.inf, record.arrays["maps/scale"])
    strongest = np.argsort(-strength, kind="stable")[:MAPS]
    return [
        Panel(names[int(class_id[k])], overlay_heatmap(image, maps[k].numpy(), limit=1.0))
        for k in sorted(strongest.tolist(), key=lambda k: int(class_id[k]))
        if class_id[k] != 0
    ]


def _png(rows: Sequence[Row], classes: Sequence[str], cell: tuple[int, int] | None = None) -> bytes:
    largest = tuple(max(picture.size[axis] for row in rows for picture in row.pictures) for axis in (0, 1))
    width, height = cell or (max(largest[0], SMALLEST), largest[1])
    # A legend of a thousand names would hide the pictures; captions name what is shown.
    legend = {name: number for number, name in enumerate(classes, 1)} if len(classes) <= 32 else None
    buffer = io.BytesIO()
    contact_sheet(rows, legend=legend, cell=(width, height)).save(buffer, "PNG")
    return buffer.getvalue()
