"""Draw heatmap artifacts side by side: a row per image and class, a column per artifact.

    python docs/recipes/contact_sheet.py FIGURE DATASET HEATMAPS...

Each map is divided by the 99th percentile of its absolute values and drawn over the photograph in grey: violet to
yellow from 0 upwards, or blue, white, red where it has both signs. Of the artifacts' images it takes, for each pair of
classes, the first that shows just these two.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xseg.datasets import open_dataset
from xseg.pictures.overlay import overlay_heatmap, overlay_mask
from xseg.runs.photographs import heatmaps_of
from xseg.runs.source import RecordSource

COLUMNS, ROWS = 11, 6  # of maps; artifacts beyond the columns begin another block of rows
CELL, GAP, LINE = 104, 6, 14
QUALITY = 84


def main(figure: str, dataset: str, *paths: str) -> None:
    """Write the figure."""
    data = open_dataset(dataset)
    maps, names = {}, []
    for path in paths:
        source = RecordSource([path], ["heatmaps"])
        names.append(Path(path).stem)
        for record in source:
            values, class_id = heatmaps_of(record)
            if len(class_id) == 2:
                maps.setdefault(record.id, []).append(dict(zip(class_id.tolist(), values.numpy(), strict=True)))
    shown = {tuple(sorted(found[0])): name for name, found in reversed(maps.items())}  # the first image of each pair
    rows = [(name, class_id) for pair, name in sorted(shown.items(), key=lambda item: item[1]) for class_id in pair]
    pictures = []
    for name, class_id in rows[:ROWS]:
        item = data.by_id[name]
        image, mask = data.read_image(item), data.read_mask(item)
        cells = [overlay_mask(image, np.where(mask == class_id, class_id, 0), alpha=0.02)]
        cells += [heatmap(image, found[class_id]) for found in maps[name]]
        pictures.append((data.classes[class_id - 1], cells))
    sheet(pictures, names).save(figure, quality=QUALITY, optimize=True)


def heatmap(image: np.ndarray, values: np.ndarray) -> Image.Image:
    """One map over its photograph."""
    limit = float(np.percentile(np.abs(values), 99)) or float(np.abs(values).max()) or 1.0
    grey = 110 + 0.5 * image.mean(2, keepdims=True)  # colours are the map's alone
    return overlay_heatmap(grey.repeat(3, axis=2).astype(np.uint8), values, alpha=0.75, limit=limit)


def sheet(rows: list[tuple[str, list[Image.Image]]], names: list[str]) -> Image.Image:
    """Blocks of rows, each with the photograph first and the names of its columns above."""
    blocks = [range(start, min(start + COLUMNS, len(names))) for start in range(0, len(names), COLUMNS)]
    step, head = CELL + GAP, 2 * LINE + GAP
    block_height = head + len(rows) * step + GAP
    canvas = Image.new("RGB", (GAP + (COLUMNS + 1) * step, len(blocks) * block_height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for number, block in enumerate(blocks):
        top = number * block_height + GAP
        for column, index in enumerate(block, 1):
            words = names[index].replace("-", "-\n", 1) if len(names[index]) > 12 else f"\n{names[index]}"
            draw.multiline_text((GAP + column * step, top), words, fill=(32, 32, 32), font=font, spacing=1)
        for row, (label, cells) in enumerate(rows):
            upper = top + head + row * step
            for column, picture in enumerate([cells[0], *(cells[1 + index] for index in block)]):
                picture.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
                canvas.paste(picture, (GAP + column * step, upper))
            box = draw.textbbox((GAP + 2, upper + 1), label, font=font)
            draw.rectangle((box[0] - 2, box[1] - 1, box[2] + 2, box[3] + 1), fill="white")
            draw.text((GAP + 2, upper + 1), label, fill=(32, 32, 32), font=font)
    return canvas


if __name__ == "__main__":
    main(*sys.argv[1:])
