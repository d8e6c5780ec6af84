"""Contact sheets: rows of titled pictures with a legend of class names, text cut to the room it has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from xseg.pictures.palette import colours

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
INK, PAPER, FRAME = (32, 32, 32), (255, 255, 255), (160, 160, 160)
GAP, LINE, SWATCH = 8, 20, 12


@dataclass(frozen=True)
class Row:
    """Pictures shown side by side under a title; `captions` is empty or has one text per picture."""

    title: str
    pictures: Sequence[Image.Image]
    captions: Sequence[str] = ()


def fit_text(text: str, font: Font, width: float) -> str:
    """`text` on one line, cut with dots so that it is at most `width` pixels wide; empty if nothing fits."""
    text = " ".join(text.split())
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow's bitmap font knows Latin letters only
        text = text.encode("latin-1", "replace").decode("latin-1")
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)  # longest prefix that fits together with its dots
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle] + "...") <= width else (low, middle - 1)
    cut = text[:low].rstrip() + "..."
    return cut if font.getlength(cut) <= width else ""


def contact_sheet(
    rows: Sequence[Row], *, legend: Mapping[str, int] | None = None, cell: tuple[int, int] = (240, 180)
) -> Image.Image:
    """Pictures in rows, each in a cell of equal size, its title above and the class colours below all.

    Args:
        rows: titled rows; they may differ in length.
        legend: class name to class id, drawn in palette colours and wrapped to the sheet's width.
        cell: width and height that pictures are shrunk to, never enlarged; aspect kept.

    Returns:
        RGB picture.

    Raises:
        ValueError: no row, or captions that do not match the pictures.
    """
    if not rows:
        raise ValueError("no row to draw")
    for row in rows:
        if row.captions and len(row.captions) != len(row.pictures):
            raise ValueError(f"{row.title}: {len(row.captions)} captions, needed {len(row.pictures)}")
    font = ImageFont.load_default(13)
    columns = max(1, *(len(row.pictures) for row in rows))
    width = GAP + columns * (cell[0] + GAP)
    entries = _legend_lines(legend or {}, font, width)
    heights = [_row_height(row, cell) for row in rows]
    height = GAP + sum(heights) + len(entries) * LINE + (GAP if entries else 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    top = GAP
    for row, used in zip(rows, heights, strict=True):
        _draw_row(sheet, row, top, cell, font)
        top += used
    _draw_legend(sheet, entries, top, font)
    return sheet


def _row_height(row: Row, cell: tuple[int, int]) -> int:
    return LINE + (cell[1] if row.pictures else 0) + (LINE if row.captions else 0) + GAP


def _draw_row(sheet: Image.Image, row: Row, top: int, cell: tuple[int, int], font: Font) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, top), fit_text(row.title, font, sheet.width - 2 * GAP), fill=INK, font=font)
    for column, picture in enumerate(row.pictures):
        left, upper = GAP + column * (cell[0] + GAP), top + LINE
        small = picture.convert("RGB")
        if small.width > cell[0] or small.height > cell[1]:
            small = ImageOps.contain(small, cell, Image.Resampling.LANCZOS)
        place = (left + (cell[0] - small.width) // 2, upper + (cell[1] - small.height) // 2)
        sheet.paste(small, place)
        draw.rectangle((left, upper, left + cell[0] - 1, upper + cell[1] - 1), outline=FRAME)
        if row.captions:
            text = fit_text(row.captions[column], font, cell[0])
            draw.text((left, upper + cell[1] + 2), text, fill=INK, font=font)


def _legend_lines(legend: Mapping[str, int], font: Font, width: int) -> list[list[tuple[int, int, str]]]:
    """Lines of (left, class id, name as it fits)."""
    lines: list[list[tuple[int, int, str]]] = []
    left = width
    for name, class_id in legend.items():
        shown = fit_text(name, font, width - 3 * GAP - SWATCH)
        needed = SWATCH + GAP // 2 + int(font.getlength(shown)) + 2 * GAP
        if left + needed > width or not lines:
            lines.append([])
            left = GAP
        lines[-1].append((left, class_id, shown))
        left += needed
    return lines


def _draw_legend(sheet: Image.Image, lines: list[list[tuple[int, int, str]]], top: int, font: Font) -> None:
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        upper = top + number * LINE
        for left, class_id, name in line:
            red, green, blue = (int(value) for value in colours(np.array(class_id)))
            box = (left, upper + 3, left + SWATCH, upper + 3 + SWATCH)
            draw.rectangle(box, fill=(red, green, blue), outline=FRAME)
            draw.text((left + SWATCH + GAP // 2, upper), name, fill=INK, font=font)
