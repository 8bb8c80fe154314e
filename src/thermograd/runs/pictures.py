"""Pictures of a run: grids of images, and curves of what training measured."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermograd.files import written_whole


def image_grid(
    images: Tensor, num_columns: int | None = None, *, scale: int | None = None, gap: int = 1
) -> np.ndarray:
    """Lay images out in a grid.

    Args:
        images: (N, C, H, W) in [-1, 1].
        num_columns: images in a row; None for a square grid.
        scale: screen pixels a pixel; None for one that makes small images easy to see.
        gap: white pixels between images, before scaling.

    Returns:
        uint8 (height, width, C).
    """
    num, channels, height, width = images.shape
    columns = num_columns or math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    pixels = (
        ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    )
    grid = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, dtype=np.uint8
    )
    for i, image in enumerate(pixels):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        grid[top : top + height, left : left + width] = image
    scale = scale or _screen_pixels(height)
    return grid.repeat(scale, 0).repeat(scale, 1)


def _screen_pixels(height: int) -> int:
    """Return the screen pixels per pixel that make small images easy to see."""
    return max(1, round(64 / height))


def read_grid(file: Path, shape: Sequence[int]) -> np.ndarray | None:
    """Return the images of a file that `image_grid` laid out in its own scale, or None where it holds something else.

    Args:
        file: a PNG.
        shape: (C, H, W) of an image.

    Returns:
        uint8 (N, H, W, C), row by row; blank places of the last row are among them.
    """
    from PIL import Image

    channels, height, width = shape
    scale = _screen_pixels(height)
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image)[::scale, ::scale]
    except (OSError, ValueError):
        return None
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if (
        pixels.shape[2] != channels
        or (pixels.shape[0] + 1) % (height + 1)
        or (pixels.shape[1] + 1) % (width + 1)
    ):
        return None
    pixels = np.pad(pixels, ((0, 1), (0, 1), (0, 0)))
    rows, columns = pixels.shape[0] // (height + 1), pixels.shape[1] // (width + 1)
    tiles = pixels.reshape(rows, height + 1, columns, width + 1, channels).swapaxes(1, 2)
    return tiles.reshape(rows * columns, height + 1, width + 1, channels)[:, :-1, :-1]


def save_png(pixels: np.ndarray, file: Path) -> None:
    """Write pixels uint8 (height, width, 1 or 3) as a PNG."""
    from PIL import Image

    with written_whole(file) as aside:
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(aside, format="PNG")


def pairs_grid(originals: Tensor, reconstructions: Tensor, num_columns: int = 16) -> np.ndarray:
    """Lay images out with each reconstruction under its original."""
    rows = []
    for first in range(0, len(originals), num_columns):
        for images in (originals, reconstructions):
            row = images[first : first + num_columns]
            blank = row.new_ones((num_columns - len(row), *row.shape[1:]))
            rows += [row, blank]
    return image_grid(torch.cat(rows), num_columns)


@contextmanager
def own_style(settings: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Draw with matplotlib's defaults and these settings, whatever the user's matplotlibrc says."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        # Names such as a$\frac{$b are text; a label that is a formula says so itself.
        mpl.rcParams.update({"text.parse_math": False, **(settings or {})})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
            yield


@own_style()
def save_curves(records: Sequence[dict[str, Any]], file: Path, title: str) -> None:
    """Draw log-likelihood and energies against training steps, from the records of metrics.jsonl."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = [record for record in records if record["kind"] == "train"]
    steps = [record["step"] for record in records]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    likelihood = [record["log_likelihood"] for record in records]
    left.plot(steps, likelihood, color="#1b6ca8", linewidth=1)
    # The first steps fall from far below: the axis shows where training spends its time.
    later = likelihood[len(likelihood) // 20 :]
    if later and max(later) > min(later):
        margin = 0.05 * (max(later) - min(later))
        left.set_ylim(min(later) - margin, max(later) + margin)
    left.set(xlabel="step", ylabel="nats per image", title="log-likelihood at posterior draws")
    for name, label, colour in (
        ("energy_posterior", "posterior draws", "#1b6ca8"),
        ("energy_prior", "prior draws", "#d1495b"),
    ):
        right.plot(steps, [record[name] for record in records], color=colour, linewidth=1, label=label)
    right.set(xlabel="step", ylabel="energy", title="energy of the prior network")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.suptitle(title, fontsize=11)
    with written_whole(file) as aside:
        figure.savefig(aside, dpi=130)
