"""The images of a report: samples of each arm, and beside them what they are to be held against.

Samples stand once. The nearest training image of each lies in the same place of the grid beside; reconstructions lie
under their test images.
"""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thermograd.reports.collect import Picture, ReportData
from thermograd.runs.pictures import read_grid

COLUMNS, ROWS = 6, 5
"""Of the samples shown; the nearest training images are kept for the first 32."""
PAIRS = 12
"""Test images shown with their reconstructions."""


@dataclass(frozen=True)
class Tile:
    """A grid of images as the page holds it, its size in pixels of the images, and what it shows."""

    source: str
    width: int
    height: int
    words: str


@dataclass(frozen=True)
class Exhibit:
    """What an arm's model makes at its last measured step."""

    arm: str
    samples: Tile
    beside: tuple[Tile, ...]


def exhibits(data: ReportData) -> list[Exhibit]:
    """Return the images of each arm, at the last step of its first seed that has any."""
    shapes = {run.arm: run.config["model"]["image_shape"] for run in data.source.runs}
    last = {picture.arm: picture for picture in data.pictures}
    found = [_exhibit(last[arm], shapes[arm]) for arm in data.arms if arm in last]
    return [each for each in found if each is not None]


def _exhibit(picture: Picture, shape: tuple[int, int, int]) -> Exhibit | None:
    images = read_grid(picture.file, shape)
    if images is None:
        return None
    shown = min(COLUMNS * ROWS, len(images))
    samples = _tile(images[:shown], f"{shown} samples, seed {picture.seed}, step {picture.step:,}")
    folder, name = picture.file.parent, picture.file.stem.removeprefix("samples_")
    beside = []
    if (pairs := _pairs(folder / f"nearest_training_images_{name}.png", shape)) is not None:
        beside.append(_tile(pairs[1][:shown], "the nearest training image of each, in the same place"))
    if (pairs := _pairs(folder / f"reconstructions_test_{name}.png", shape)) is not None:
        rows = [images[first : first + COLUMNS] for first in range(0, PAIRS, COLUMNS) for images in pairs]
        beside.append(_tile(np.concatenate(rows), "test images, and under each its reconstruction"))
    return Exhibit(picture.arm, samples, tuple(beside))


def _pairs(file: Path, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the upper and lower images of a file of `pairs_grid`, or None where there is none."""
    images = read_grid(file, shape) if file.is_file() else None
    if images is None or len(images) % 32:
        return None
    rows = images.reshape(-1, 2, 16, *images.shape[1:])
    upper, lower = (rows[:, i].reshape(-1, *images.shape[1:]) for i in (0, 1))
    return upper, lower


def _tile(images: np.ndarray, words: str) -> Tile:
    """Lay images (N, H, W, C) out in a grid, one pixel apart."""
    from PIL import Image

    num, height, width, channels = images.shape
    rows = -(-num // COLUMNS)
    grid = np.full((rows, COLUMNS, height + 1, width + 1, channels), 255, np.uint8)
    grid.reshape(-1, height + 1, width + 1, channels)[:num, :height, :width] = images
    pixels = grid.swapaxes(1, 2).reshape(rows * (height + 1), COLUMNS * (width + 1), channels)[:-1, :-1]
    buffer, is_grey = io.BytesIO(), channels == 1
    picture = Image.fromarray(pixels[..., 0] if is_grey else pixels)
    picture.save(
        buffer, **({"format": "PNG", "optimize": True} if is_grey else {"format": "WEBP", "quality": 90})
    )
    kind = "png" if is_grey else "webp"
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Tile(source, pixels.shape[1], pixels.shape[0], words)
