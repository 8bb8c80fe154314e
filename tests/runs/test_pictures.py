"""Pictures show the pixels that they were given, in the order of the images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from thermograd.runs.pictures import image_grid, pairs_grid, save_curves, save_png


def test_a_grid_holds_the_images_row_by_row():
    images = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(5, 1, 2, 3)
    grid = image_grid(images, 2, scale=1)
    assert grid.shape == (3 * 3 - 1, 2 * 4 - 1, 1)
    assert grid.dtype == np.uint8
    expected = [0, 64, 128, 191, 255]  # round half to even of 127.5 (x + 1)
    found = [int(grid[3 * row, 4 * column, 0]) for row, column in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))]
    assert found == expected
    assert (grid[2] == 255).all()  # the gap
    assert (grid[:, 3] == 255).all()
    assert (grid[6:, 4:] == 255).all()  # no sixth image


def test_a_grid_is_square_and_small_images_are_enlarged():
    images = torch.zeros(64, 3, 8, 8)
    assert image_grid(images).shape == (8 * 71, 8 * 71, 3)
    assert image_grid(torch.zeros(4, 1, 64, 64)).shape == (129, 129, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_survive_the_round_trip_through_a_png(channels: int, tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (1, channels, 16, 16), dtype=np.uint8)
    images = torch.from_numpy(pixels).float() / 127.5 - 1
    save_png(image_grid(images, scale=1), tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as opened:
        found = np.asarray(opened).reshape(16, 16, channels)
    assert np.array_equal(found, pixels[0].transpose(1, 2, 0))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_reconstructions_stand_under_their_originals():
    originals = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(5, 1, 8, 8)
    grid = pairs_grid(originals, originals / 2, num_columns=2)
    full = image_grid(torch.cat([originals, originals / 2]), 2)
    scale = 8
    cells = grid[:: 9 * scale, :: 9 * scale, 0]
    bytes_of = {
        float(x): int(v) for x, v in zip(torch.cat([originals, originals / 2])[:, 0, 0, 0], _cells(full))
    }
    rows = [[-1.0, -0.5], [-0.5, -0.25], [0.0, 0.5], [0.0, 0.25], [1.0], [0.5]]
    for row, values in enumerate(rows):
        assert [int(v) for v in cells[row][: len(values)]] == [bytes_of[value] for value in values]
    assert cells[4][1] == cells[5][1] == 255


def _cells(grid: np.ndarray) -> list[int]:
    return [int(value) for value in grid[:: 9 * 8, :: 9 * 8, 0].ravel()]


@pytest.mark.parametrize("num", [0, 1, 50])
def test_curves_are_drawn_for_any_number_of_records(num: int, tmp_path: Path):
    """Also where nothing was measured yet; records of other kinds are left out."""
    records = [
        {"kind": "train", "step": i, "log_likelihood": -100.0 + i, "energy_posterior": i, "energy_prior": -i}
        for i in range(num)
    ]
    save_curves([*records, {"kind": "probe", "step": 3}], tmp_path / "curves.png", "title")
    with Image.open(tmp_path / "curves.png") as opened:
        pixels = np.asarray(opened.convert("RGB")).reshape(-1, 3)
    assert (pixels.max(1) < 60).sum() > 500  # titles and labels
    if num == 50:
        blue = np.abs(pixels.astype(int) - [0x1B, 0x6C, 0xA8]).sum(1) < 30
        assert blue.sum() > 200
