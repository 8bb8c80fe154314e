"""Reading the user's image files: PNG, JPEG, WebP, BMP, TIFF, GIF and PNM of 8 bits per channel."""

import zlib
from pathlib import Path

import numpy as np

from thermograd.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
)
MAX_PIXELS = 2**22
"""Of an image: 2048 x 2048, before it is unpacked."""
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")
_PNG_DEPTH_AT = 24
_TIFF_BITS_PER_SAMPLE = 258


def is_image(file: Path) -> bool:
    """Return whether a file is an image by its name or, whatever its name, by its content."""
    if file.suffix.lower() in _SUFFIXES:
        return True
    from PIL import Image

    try:
        with Image.open(file, formats=FORMATS):
            return True
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return True  # and refused when it is read
    except (OSError, SyntaxError, ValueError):
        return False


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
        with Image.open(file, formats=FORMATS) as checked:
            _check_pixels(checked.size, file)
            checked.verify()  # checks every PNG checksum; loading alone does not
        with Image.open(file, formats=FORMATS) as opened:
            _check_kind(opened, file)
            opened.load()
            image = _plain(ImageOps.exif_transpose(opened), file)
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"`data` images must have at most {MAX_PIXELS:,} pixels, but {file} has more."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error) as error:
        raise InputError(
            f"`data` file {file} is damaged or no image of a kind that is read: {error}."
        ) from error
    pixels = np.asarray(image)
    if pixels.shape[0] != pixels.shape[1]:
        raise InputError(f"`data` images must be square, but {file} is {image.width} x {image.height}.")
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _check_pixels(size: tuple[int, int], file: Path) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise InputError(
            f"`data` images must have at most {MAX_PIXELS:,} pixels, but {file} is {width} x {height}."
        )


def _check_kind(image, file: Path) -> None:
    """Refuse what Pillow would cut down without a word: more than 8 bits per channel, more than one frame."""
    bits = 8
    if image.format == "PNG":
        with file.open("rb") as stream:
            bits = stream.read(_PNG_DEPTH_AT + 1)[-1]
    elif image.format == "TIFF":
        bits = max(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (1,)))
    if bits > 8:
        raise InputError(f"`data` images must have 8 bits per channel, but {file} has {bits}.")
    # The second picture of a camera's JPEG (MPO) is a copy of the first.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise InputError(f"`data` images must be single, but {file} holds {frames}.")


def _plain(image, file: Path):
    """Return a Pillow image as mode L or RGB, by the rules of `load_user_images`."""
    if image.mode not in _GREY_MODES + _COLOUR_MODES:
        raise InputError(f"`data` images must have 8 bits per channel, but {file} has mode {image.mode}.")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        lowest_alpha = image.convert("RGBA").getchannel("A").getextrema()[0]
        if lowest_alpha < 255:
            raise InputError(f"`data` images must be opaque, but {file} has alpha {lowest_alpha} of 255.")
    return image.convert("L" if image.mode in _GREY_MODES else "RGB")
