"""Images given to other programs: as an array, as single files, or as one picture; the ending of the name says which.

| ending | holds |
|---|---|
| `.npy` | uint8 (N, H, W, C) |
| `.npz` | the same, as `arr_0`, the form in which samples are passed on |
| `.png` | one picture of all images in a grid |
| a folder, or a name without an ending | `000000.png`, `000001.png`, ... |
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from thermograd.errors import InputError
from thermograd.files import make_readable, written_whole
from thermograd.metrics.features import to_bytes
from thermograd.runs.pictures import image_grid, save_png

_FOLDER = "folder"
_ENDINGS = (".npy", ".npz", ".png")


def export_form(out: str | Path) -> str:
    """Return ".npy", ".npz", ".png" or "folder", as the name says; to be asked before any work.

    Raises:
        InputError: another ending, a folder that is not empty, or a file where a folder is meant.
    """
    path, ending = Path(out), Path(out).suffix.lower()
    above = next(each for each in path.absolute().parents if each.exists())
    if not above.is_dir():
        raise InputError(f"`out` {path}: {above} is a file, not a folder.")
    if path.is_dir():
        if any(path.iterdir()):
            raise InputError(
                f"`out` {path} is a folder that is not empty: single images need one of their own."
            )
        return _FOLDER
    if str(out).endswith("/") or not ending:
        if path.exists():
            raise InputError(f"`out` {path} is a file, not a folder.")
        return _FOLDER
    if ending not in _ENDINGS:
        raise InputError(f"`out` must end in {', '.join(_ENDINGS)} or be a folder, got {out}.")
    return ending


def export_images(images: Tensor, out: str | Path) -> Path:
    """Write images in the form that the name says, whole or not at all.

    Args:
        images: (N, C, H, W) in [-1, 1]; x becomes the byte round((x + 1) 127.5).
        out: file or folder; folders above it are made.

    Returns:
        The file or folder.

    Raises:
        InputError: as `export_form`.
    """
    form, path = export_form(out), Path(out)
    if form == ".png":
        save_png(image_grid(images), path)
        return path
    pixels = to_bytes(images.detach().clamp(-1, 1)).permute(0, 2, 3, 1).cpu().numpy()
    if form == _FOLDER:
        _write_folder(pixels, path)
        return path
    with written_whole(path) as aside, aside.open("wb") as file:
        np.save(file, pixels) if form == ".npy" else np.savez(file, pixels)
    return path


def _write_folder(pixels: np.ndarray, folder: Path) -> None:
    from PIL import Image

    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".writing_", dir=folder.parent))
    try:
        for i, image in enumerate(pixels):
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(aside / f"{i:06d}.png")
        make_readable(aside)  # mkdtemp makes it private
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
