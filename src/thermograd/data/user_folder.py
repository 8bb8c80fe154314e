"""Reading the user's PNG and JPEG files."""

import zlib
from pathlib import Path

import numpy as np

from thermograd.errors import InputError

_SUFFIXES = (".png", ".jpg", ".jpeg")
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")


def image_files(folder: Path) -> list[Path]:
    """Return the image files below `folder`, sorted by path; hidden files and folders are left alone.

    Raises:
        InputError: if there are none.
    """
    files = [
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in _SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    if not files:
        raise InputError(f"`data` folder {folder} holds no .png, .jpg or .jpeg files.")
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def read_image_files(files: list[Path]) -> np.ndarray:
    """Read image files of one size and one number of channels.

    Returns:
        (N, H, W, C) uint8.

    Raises:
        InputError: if a file is damaged, of an unsupported kind, transparent, not square, or unlike the
            first.
    """
    first = _read_image(files[0])
    images = np.empty((len(files), *first.shape), dtype=np.uint8)
    images[0] = first
    for i, file in enumerate(files[1:], start=1):
        image = _read_image(file)
        if image.shape != first.shape:
            raise InputError(
                f"`data` images must be of one size: {files[0]} is {_describe(first)}, "
                f"but {file} is {_describe(image)}."
            )
        images[i] = image
    return images


def _describe(image: np.ndarray) -> str:
    height, width, channels = image.shape
    return f"{width} x {height} ({'grey' if channels == 1 else 'colour'})"


def _read_image(file: Path) -> np.ndarray:
    """Return one image as (H, W, C) uint8."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file, formats=["PNG", "JPEG"]) as checked:
            checked.verify()  # checks every PNG checksum; loading alone does not
        with Image.open(file, formats=["PNG", "JPEG"]) as opened:
            opened.load()
            image = _plain(ImageOps.exif_transpose(opened), file)
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, Image.DecompressionBombError) as error:
        raise InputError(f"`data` file {file} is damaged or no PNG or JPEG image: {error}.") from error
    pixels = np.asarray(image)
    if pixels.shape[0] != pixels.shape[1]:
        raise InputError(f"`data` images must be square, but {file} is {image.width} x {image.height}.")
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _plain(image, file: Path):
    """Return a Pillow image as mode L or RGB, by the rules of `load_user_images`."""
    if image.mode not in _GREY_MODES + _COLOUR_MODES:
        raise InputError(f"`data` images must have 8 bits a channel, but {file} has mode {image.mode}.")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        lowest_alpha = image.convert("RGBA").getchannel("A").getextrema()[0]
        if lowest_alpha < 255:
            raise InputError(f"`data` images must be opaque, but {file} has alpha {lowest_alpha} of 255.")
    return image.convert("L" if image.mode in _GREY_MODES else "RGB")
