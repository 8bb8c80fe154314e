"""`sample --out`: what the ending says is what is written, readable by others and by thermograd."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from thermograd.data import load_user_images
from thermograd.errors import InputError
from thermograd.runs.exports import export_form, export_images

BYTES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["s.npz", "s.NPY", "new/s.npy", "folder", "folder/", "new/deep/folder"])
def test_every_byte_comes_back(name: str, channels: int, tmp_path: Path):
    pixels = BYTES[..., :channels]
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    found = export_images(images, f"{tmp_path}/{name}")
    read = load_user_images(found, "all")
    assert read.images.shape == pixels.shape
    assert np.array_equal(read.images, pixels)
    assert [path for path in found.parent.iterdir() if path.name.startswith(".")] == []


def test_the_forms_of_other_programs(tmp_path: Path):
    images = torch.from_numpy(BYTES).permute(0, 3, 1, 2) / 127.5 - 1
    export_images(images, tmp_path / "s.npy")
    array = np.load(tmp_path / "s.npy")
    assert (array.dtype, array.shape) == (np.uint8, (12, 8, 8, 3))
    export_images(images, tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as archive:
        assert archive.files == ["arr_0"]
    export_images(images, tmp_path / "s")
    assert sorted(path.name for path in (tmp_path / "s").iterdir())[-1] == "000011.png"
    export_images(images, tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (4 * 9 * 8 - 8, 3 * 9 * 8 - 8)


def test_an_empty_folder_is_taken_whatever_its_name(tmp_path: Path):
    (tmp_path / "s.npy").mkdir()
    assert export_form(tmp_path / "s.npy") == "folder"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("s.jpg", r"must end in \.npy, \.npz, \.png or be a folder, got .*s\.jpg"),
        ("s.npy.gz", "must end in"),
        ("full", "is a folder that is not empty"),
        ("file", "is a file, not a folder"),
        ("file/", "is a file, not a folder"),
    ],
)
def test_others_are_refused_before_any_work(name: str, problem: str, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "000000.png").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=f"`out` .*{problem}"):
        export_images(torch.zeros(2, 1, 8, 8), f"{tmp_path}/{name}")
    assert sorted(tmp_path.rglob("*")) == before
