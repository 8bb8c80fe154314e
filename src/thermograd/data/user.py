"""The user's own images: a folder of PNG and JPEG files, or one .npy, .npz, HDF5 or idx file.

Splits. A folder with subfolders train and test, or an array file with x_train and x_test, is taken as it is
split. Anything else is split here: of N images the max(1, N // 10) with the smallest sha256 of their pixels
are test, the rest train. So the split depends on the images alone, not on their names, order or a seed.
"""

import hashlib
from pathlib import Path

import numpy as np

from thermograd.data.cache import cache_key, file_sha256, open_cached, store
from thermograd.data.dataset import SPLITS, ImageDataset, check_split
from thermograd.data.user_arrays import ARRAY_SUFFIXES, Arrays, is_idx_file, read_array_file
from thermograd.data.user_folder import image_files, read_image_files
from thermograd.errors import InputError


def load_user_images(path: Path, split: str = "train") -> ImageDataset:
    """Load the user's images.

    Accepted: a folder with .png, .jpg or .jpeg files at any depth (other and hidden files are left alone;
    order: sorted by path); .npy; .npz, .h5 or .hdf5 with x_train and x_test (optionally y_train and y_test),
    images (optionally labels), or x (optionally y); idx, plain or .gz. Arrays are (N, H, W),
    (N, H, W, C) or (N, C, H, W) with C = 1 or 3 and H = W, in uint8, or floating point in [0, 1] or, if any
    value is negative, in [-1, 1] (mapped to the nearest byte). Pickled objects are never read.

    Of image files, grey ones give 1 channel and all others 3. Palettes and CMYK become RGB. An alpha channel
    that is opaque everywhere is dropped; any transparency is an error, since it has no one colour. The EXIF
    orientation is applied.

    Damage is found where the format has checksums (PNG, .npz, .gz) or the structure breaks. A changed byte
    elsewhere (JPEG, .npy, HDF5, plain idx) reads as other pixels, and shows in the fingerprint only.

    The result is kept in the cache, keyed by the sha256 of all files read; see `thermograd.data.cache`.

    Args:
        path: file or folder.
        split: "train" or "test".

    Returns:
        The data set, named after `path`. Labels are None for folders, .npy and idx files.

    Raises:
        InputError: if `path` is missing, empty, unreadable or damaged, holds images of unequal or non-square
            size or of several kinds, or values out of range; the message names the file.
    """
    check_split(split)
    path = Path(path).expanduser()
    if path.is_dir():
        hashes, read = _folder_source(path)
    elif path.is_file():
        hashes, read = [file_sha256(path)], lambda: _read_file(path)
    else:
        raise InputError(f"`data` must be a file or a folder, got {path}, which does not exist.")
    keys = {each: cache_key("user", each, hashes) for each in SPLITS}
    decoded = open_cached(keys[split])
    if decoded is None:
        splits = read()
        stored = {each: store(keys[each], *splits[each]) for each in SPLITS}
        decoded = stored[split]
    return ImageDataset(path.resolve().name, split, decoded.images, decoded.labels, decoded.fingerprint)


def _read_file(path: Path) -> dict[str, Arrays]:
    if path.suffix.lower() not in ARRAY_SUFFIXES and not is_idx_file(path):
        raise InputError(
            f"`data` file must be .npy, .npz, .h5, .hdf5 or idx (.idx, -ubyte, either with .gz), got {path}."
        )
    arrays = read_array_file(path)
    return arrays if len(arrays) == 2 else hold_out(*arrays["all"], path)


def _folder_source(path: Path):
    """Return the hashes that identify a folder's content, and a function that reads its splits."""
    if (path / "train").is_dir() and (path / "test").is_dir():
        files = {split: image_files(path / split) for split in SPLITS}
    else:
        files = {"all": image_files(path)}
    # Names are hashed as well: they decide the order.
    hashes = [
        f"{split}:{file.relative_to(path).as_posix()}:{file_sha256(file)}"
        for split, group in files.items()
        for file in group
    ]

    def read() -> dict[str, Arrays]:
        images = read_image_files([file for group in files.values() for file in group])
        if "all" in files:
            return hold_out(images, None, path)
        num_train = len(files["train"])
        return {"train": (images[:num_train], None), "test": (images[num_train:], None)}

    return hashes, read


def hold_out(images: np.ndarray, labels: np.ndarray | None, path: Path) -> dict[str, Arrays]:
    """Split images that come without a split; the rule is in the module's docstring. Order is kept.

    Raises:
        InputError: if there are fewer than two images.
    """
    num_images = len(images)
    if num_images < 2:
        raise InputError(
            f"`data` {path} must hold at least 2 images, one of them for test, got {num_images}."
        )
    digests = [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]
    ranked = sorted(range(num_images), key=lambda i: (digests[i], i))
    is_test = np.zeros(num_images, dtype=bool)
    is_test[ranked[: max(1, num_images // 10)]] = True
    return {
        split: (images[chosen], None if labels is None else labels[chosen])
        for split, chosen in (("train", ~is_test), ("test", is_test))
    }
