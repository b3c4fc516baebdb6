"""A contact sheet: some images of a data set on one picture, a row for each of its classes."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from nml_ray.data.dataset import Dataset
from nml_ray.data.decode import UndecodableImage, open_image
from nml_ray.data.draw import draw
from nml_ray.data.reader import ShardReader

TILE, GAP, MARGIN = 96, 4, 170
_PAPER, _INK, _BAD = (255, 255, 255), (30, 30, 30), (200, 30, 30)


def contact_sheet(dataset: Dataset, rows: int = 12, columns: int = 10) -> Image.Image:
    """Images drawn by key, so the same every time; an undecodable one is a crossed box.

    With labels, a row shows one class, named beside it; of more than `rows` classes some, evenly spread. Without,
    rows just follow one another, with the first caption of each beside it.
    """
    numbers = _rows(dataset, rows, columns)
    images = ShardReader(dataset, whole=False).read_some([int(number) for _, row in numbers for number in row])
    height, width = (TILE + GAP) * len(numbers) + GAP, MARGIN + (TILE + GAP) * columns + GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for r, (text, row) in enumerate(numbers):
        top = GAP + r * (TILE + GAP)
        pen.multiline_text((GAP, top + 4), _wrapped(text, pen, font), fill=_INK, font=font, spacing=2)
        for c in range(len(row)):
            left = MARGIN + c * (TILE + GAP)
            try:
                image = open_image(next(images), 3)
            except UndecodableImage:
                pen.rectangle((left, top, left + TILE - 1, top + TILE - 1), outline=_BAD)
                pen.line((left, top, left + TILE - 1, top + TILE - 1), fill=_BAD)
                pen.line((left, top + TILE - 1, left + TILE - 1, top), fill=_BAD)
                continue
            fitted = ImageOps.contain(image, (TILE, TILE))
            sheet.paste(fitted, (left + (TILE - fitted.width) // 2, top + (TILE - fitted.height) // 2))
    return sheet


def _rows(dataset: Dataset, rows: int, columns: int) -> list[tuple[str, NDArray[np.int64]]]:
    """Text and sample numbers of each row."""
    order = dataset.good[np.argsort(draw("sheet", 0, dataset.key_hash[dataset.good]))]
    labels = dataset.label[order]
    present = np.unique(labels[labels >= 0])
    if len(present):
        chosen = present[np.unique(np.linspace(0, len(present) - 1, min(rows, len(present))).round().astype(int))]
        return [(dataset.classes[label], order[labels == label][:columns]) for label in chosen]
    cut = [order[start : start + columns] for start in range(0, min(len(order), rows * columns), columns)]
    return [(_caption(dataset, int(row[0])), row) for row in cut]


def _caption(dataset: Dataset, number: int) -> str:
    shard = int(dataset.shard_number[number])
    row = number - int(np.searchsorted(dataset.shard_number, shard))
    return dataset.tables[shard]["caption"][row].as_py() or dataset.key(number)


def _wrapped(text: str, pen: ImageDraw.ImageDraw, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    """The text in lines that fit the margin, at most six."""
    lines, line = [], ""
    for letter in " ".join(text.split()):
        if pen.textlength(line + letter, font=font) > MARGIN - 3 * GAP:
            head, space, tail = line.rpartition(" ")
            lines.append(head if space else line)
            line = tail if space else ""
        line += letter
    return "\n".join([*lines, line][:6])
