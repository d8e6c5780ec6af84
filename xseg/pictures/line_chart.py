"""Curves as a picture: panels side by side, a line per run, and a legend."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from xseg.pictures.sheet import FRAME, GAP, INK, LINE, PAPER, Font, fit_text

# Colours that remain apart for most colour-blind readers (Okabe and Ito 2008), darkest first.
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0), (32, 32, 32))
GRID = (228, 228, 228)
_SIDE, _LEFT, _COLUMNS = 300, 44, 2
_RUN = "xseg run"
_DASHES = (0, 4, 2, 9)  # in widths of the line; 0 is solid
_SCALE = 3  # lines are drawn this much larger and then shrunk, which smooths them


@dataclass(frozen=True)
class Line:
    """A curve: `x` in [0, 1] and `y` in [0, 1], None where there is no point."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True)
class Panel:
    """Curves over one pair of axes."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]


def line_charts(panels: Sequence[Panel]) -> Image.Image:
    """Panels in rows of two, all axes from 0 to 1; below them the names of the first panel's lines in their colours.

    Beyond seven lines the colours come again, in dashes of three lengths: 28 lines can be told apart.

    Returns:
        RGB picture.

    Raises:
        ValueError: no panel.
    """
    if not panels:
        raise ValueError("no panel to draw")
    font = ImageFont.load_default(13)
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    cell = (_LEFT + _SIDE + 2 * GAP, 2 * LINE + _SIDE + 2 * LINE + GAP)
    names = [line.name for line in panels[0].lines]
    chart = Image.new("RGB", (columns * cell[0] + GAP, rows * cell[1] + len(names) * LINE + 2 * GAP), PAPER)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        _draw_panel(chart, panel, (column * cell[0] + GAP, row * cell[1] + GAP), font)
    draw = ImageDraw.Draw(chart)
    for number, name in enumerate(names):
        top = rows * cell[1] + GAP + number * LINE
        _stroke(draw, [(GAP, top + LINE / 2), (GAP + 28, top + LINE / 2)], number, 2)
        draw.text((GAP + 36, top), fit_text(name, font, chart.width - 44 - GAP), fill=INK, font=font)
    return chart


def png(picture: Image.Image, run: str) -> bytes:
    """The picture as the bytes of a PNG that knows which run it is of."""
    known = PngImagePlugin.PngInfo()
    known.add_text(_RUN, run)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=known)
    return buffer.getvalue()


def run_of(path: Path) -> str | None:
    """The run that a picture is of; None if `png` did not make it, or it cannot be read."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.info.get(_RUN)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _draw_panel(chart: Image.Image, panel: Panel, corner: tuple[int, int], font: Font) -> None:
    left, top = corner[0] + _LEFT, corner[1] + 2 * LINE
    draw = ImageDraw.Draw(chart)
    draw.text((left, corner[1]), fit_text(panel.title, font, _SIDE), fill=INK, font=font)
    draw.text((left, corner[1] + LINE), fit_text(panel.y_label, font, _SIDE), fill=FRAME, font=font)
    plot = Image.new("RGB", (_SIDE * _SCALE, _SIDE * _SCALE), PAPER)
    canvas = ImageDraw.Draw(plot)
    size = _SIDE * _SCALE - 1
    for tenth in range(11):
        at = round(tenth / 10 * size)
        canvas.line([(at, 0), (at, size)], fill=GRID, width=_SCALE)
        canvas.line([(0, at), (size, at)], fill=GRID, width=_SCALE)
    for number, line in enumerate(panel.lines):
        points = [(x * size, (1 - y) * size) for x, y in zip(line.x, line.y, strict=True) if y is not None]
        if points:
            _stroke(canvas, points, number, 2 * _SCALE)
    chart.paste(plot.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (left, top))
    draw.rectangle((left, top, left + _SIDE - 1, top + _SIDE - 1), outline=FRAME)
    for tenth in range(0, 11, 2):
        text = f"{tenth / 10:g}"
        width = font.getlength(text)
        place = round(tenth / 10 * (_SIDE - 1))
        draw.text((left - width - 6, top + _SIDE - 1 - place - 8), text, fill=INK, font=font)
        draw.text((left + place - width / 2, top + _SIDE + 3), text, fill=INK, font=font)
    draw.text((left, top + _SIDE + LINE), fit_text(panel.x_label, font, _SIDE), fill=FRAME, font=font)


def stroke_of(number: int) -> tuple[tuple[int, int, int], int]:
    """Colour of the line with this number, and the length of its dashes in widths of the line; 0 is solid."""
    return COLOURS[number % len(COLOURS)], _DASHES[number // len(COLOURS) % len(_DASHES)]


def _stroke(draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], number: int, width: int) -> None:
    colour, dash = stroke_of(number)
    if not dash:
        draw.line(list(points), fill=colour, width=width, joint="curve")
        return
    for (x0, y0), (x1, y1) in pairwise(points):
        pieces = max(1, round(max(abs(x1 - x0), abs(y1 - y0)) / (dash * width)))
        for k in range(0, pieces, 2):
            ends = [(x0 + (x1 - x0) * t / pieces, y0 + (y1 - y0) * t / pieces) for t in (k, k + 1)]
            draw.line(ends, fill=colour, width=width)
