"""The user's own images: a folder of image files, or one .npy, .npz, HDF5 or idx file."""

from functools import partial
from pathlib import Path

from thermograd.data.cache import Decoded, cache_key, file_sha256, open_cached, store
from thermograd.data.dataset import SPLITS, ImageDataset, check_split
from thermograd.data.ranges import Range
from thermograd.data.splits import Source, all_images, two_parts
from thermograd.data.user_arrays import read_array_file
from thermograd.data.user_folder import list_folder
from thermograd.errors import InputError


def load_user_images(path: Path, split: str = "train", *, value_range: Range | None = None) -> ImageDataset:
    """Load the user's images.

    Accepted: a folder with PNG, JPEG, WebP, BMP, TIFF, GIF or PNM files at any depth, in the order of their paths;
    .npy; .npz or HDF5 with one array of images, or named ones (images and labels, x and y, x_train and x_test with
    y_train and y_test, train_images, ...); idx, plain or .gz. Arrays are (N, H, W), (N, H, W, C) or (N, C, H, W) with
    C = 1 or 3 and H = W, of numbers in [0, 255], [0, 1] or [-1, 1] (`thermograd.data.ranges`). Pickled objects
    are never read.

    Of folders, links are followed; what is left out (hidden files, other files, broken links) is counted in the
    notes. Folders train, val and test (training, valid, validation, testing; in any case) are a split. Where every
    image lies in one of two or more folders, these are classes: labels, and an order in which classes take turns.

    Without a split, of N images the max(1, N // 10) with the smallest sha256 of their pixels are test, the rest
    train. With val and no test, val is test; with both, val is left out.

    Of image files, grey ones give 1 channel and all others 3. Palettes and CMYK become RGB. An alpha channel
    that is opaque everywhere is dropped; any transparency is an error, since it has no one colour. More than 8 bits
    per channel and more than one frame are errors. The EXIF orientation is applied.

    Damage is found where the format has checksums (PNG, .npz, .gz) or the structure breaks. A changed byte
    elsewhere (JPEG, .npy, HDF5, plain idx) reads as other pixels, and shows in the fingerprint only.

    The result is kept in the cache, keyed by the sha256 of all files read; see `thermograd.data.cache`.

    Args:
        path: file or folder.
        split: "train" or "test"; or "all" for every image there is, val among them.
        value_range: the values that are black and white; None to recognise them.

    Returns:
        The data set, named after `path`, with a line in its notes on all that was recognised or left out.

    Raises:
        InputError: if `path` is missing, empty, unreadable or damaged, holds images of unequal or non-square
            size or of several kinds, or values that fit no range; the message names the file.
    """
    if split != "all":
        check_split(split)
    path = Path(path).expanduser()
    if path.is_dir():
        folder = list_folder(path)
        hashes, read = folder.hashes, folder.read
    elif path.is_file():
        hashes, read = [file_sha256(path)], partial(read_array_file, path)
    else:
        raise InputError(f"`data` must be a file or a folder, got {path}, which does not exist.")
    hashes = [*hashes, f"range {value_range}"]
    keys = {each: cache_key("user", each, hashes) for each in (*SPLITS, "all")}
    decoded = open_cached(keys[split])
    if decoded is None:
        decoded = _store(read(value_range), split, keys, path)
    return ImageDataset(
        path.resolve().name,
        split,
        decoded.images,
        decoded.labels,
        decoded.fingerprint,
        decoded.value_range,
        decoded.notes,
    )


def _store(source: Source, split: str, keys: dict[str, str], path: Path) -> Decoded:
    """Keep what was read and return the split that is asked for."""
    if split == "all":
        return store(keys["all"], *all_images(source.parts), source.value_range, source.notes)
    parts, line = two_parts(source.parts, path)
    notes = (line, *source.notes)
    stored = {each: store(keys[each], *parts[each], source.value_range, notes) for each in SPLITS}
    return stored[split]
