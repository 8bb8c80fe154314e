"""Reading the user's array files: .npy, .npz, HDF5 and idx."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile

from thermograd.data.decoders import READ_ERRORS, decode_idx, read_content
from thermograd.errors import InputError

Arrays = tuple[np.ndarray, np.ndarray | None]  # images (N, H, W, C) uint8, labels (N,) int64

ARRAY_SUFFIXES = (".npy", ".npz", ".h5", ".hdf5")
_UNSPLIT_KEYS = (("images", "labels"), ("x", "y"))
_BLOCK = 1024  # images converted at a time, so that a big file of floats is never in memory as a whole


def is_idx_file(path: Path) -> bool:
    """Whether the name says idx: it ends in .idx or -ubyte, with or without .gz."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith((".idx", "-ubyte"))


def read_array_file(path: Path) -> dict[str, Arrays]:
    """Read an array file.

    Returns:
        {"train": ..., "test": ...} if the file is split, else {"all": ...}.

    Raises:
        InputError: if the file is damaged, lacks the keys, or holds arrays of another shape, type or range.
    """
    suffix = path.suffix.lower()
    try:
        if is_idx_file(path):
            return {
                "all": (_to_bytes({"images": decode_idx(read_content(path), path)}, path)["images"], None)
            }
        if suffix == ".npy":
            images = np.load(path, mmap_mode="r", allow_pickle=False)
            return {"all": (_to_bytes({"images": images}, path)["images"], None)}
        if suffix == ".npz":
            # NumPy leaves a file that it opened itself open when the archive is damaged.
            with path.open("rb") as stream, NpzFile(stream, allow_pickle=False) as archive:
                # Arrays that are never asked for are checked as well: a damaged name hides the labels.
                damaged = archive.zip.testzip() if archive.zip else None
                if damaged is not None:
                    raise InputError(f"`data` file {path} is damaged: {damaged} has a wrong checksum.")
                return _read_keys(archive.files, archive.__getitem__, path)
        import h5py

        with h5py.File(path, "r") as file:
            names = [str(name) for name in file if _is_dataset(file, str(name), path)]
            return _read_keys(names, file.__getitem__, path)
    except InputError:
        raise
    except READ_ERRORS as error:
        raise InputError(f"`data` file {path} is damaged or unreadable: {error}.") from error


def _is_dataset(file: Any, name: str, path: Path) -> bool:
    """Return whether a name in an HDF5 file is a data set; what reads other files, or goes round in links, is refused.

    Raises:
        InputError: a link that is not a hard one, or data that are external or virtual.
    """
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"`data` file {path}: {name} is a link, which is not followed.")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        return False
    if found.external or found.is_virtual:
        raise InputError(f"`data` file {path}: {name} takes its data from other files, which are not read.")
    return True


def _read_keys(names: Iterable[str], get: Callable[[str], Any], path: Path) -> dict[str, Arrays]:
    names = list(names)
    if "x_train" in names and "x_test" in names:
        keys = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
    else:
        pair = next((pair for pair in _UNSPLIT_KEYS if pair[0] in names), None)
        if pair is None:
            raise InputError(
                f"`data` file {path} must hold x_train and x_test, or images, or x, "
                f"got {', '.join(names) or 'nothing'}."
            )
        keys = {"all": pair}
    images = _to_bytes({image_key: get(image_key) for image_key, _ in keys.values()}, path)
    shapes = {image_key: array.shape[1:] for image_key, array in images.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"`data` file {path} must hold images of one shape, got {shapes}.")
    return {
        split: (
            images[image_key],
            _labels(get(label_key), len(images[image_key]), label_key, path) if label_key in names else None,
        )
        for split, (image_key, label_key) in keys.items()
    }


def _labels(stored: Any, num_images: int, key: str, path: Path) -> np.ndarray:
    labels = np.asarray(stored)
    if labels.shape == (num_images, 1):
        labels = labels[:, 0]
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"`data` file {path}: {key} must be {num_images} whole numbers, "
            f"got {labels.dtype} of shape {labels.shape}."
        )
    return labels.astype(np.int64)


def _to_bytes(stored: dict[str, Any], path: Path) -> dict[str, np.ndarray]:
    """Convert arrays or HDF5 data sets to (N, H, W, C) uint8; one range of floats is found for all."""
    for key, array in stored.items():
        if array.dtype != np.uint8 and array.dtype.kind != "f":
            raise InputError(f"`data` file {path}: {key} must be uint8 or floating point, got {array.dtype}.")
        if len(array.shape) not in (3, 4) or 0 in array.shape:
            raise InputError(
                f"`data` file {path}: {key} must be (N, H, W), (N, H, W, C) or (N, C, H, W), "
                f"got shape {tuple(array.shape)}."
            )
    lows = [_check_range(array, key, path) for key, array in stored.items() if array.dtype.kind == "f"]
    signed = min(lows, default=0.0) < 0
    return {key: _convert(array, signed, key, path) for key, array in stored.items()}


def _blocks(array: Any) -> Iterable[tuple[int, np.ndarray]]:
    for start in range(0, array.shape[0], _BLOCK):
        yield start, np.asarray(array[start : start + _BLOCK])


def _check_range(array: Any, key: str, path: Path) -> float:
    """Return the smallest value, having checked that every value is finite and in [-1, 1]."""
    low = np.inf
    for start, block in _blocks(array):
        bad = ~((block >= -1) & (block <= 1))  # True for NaN
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            raise InputError(
                f"`data` file {path}: {key} must lie in [0, 1] or [-1, 1] (or be uint8), "
                f"got {block[index]} at {(index[0] + start, *index[1:])}."
            )
        low = min(low, float(block.min()))
    return low


def _convert(array: Any, signed: bool, key: str, path: Path) -> np.ndarray:
    images: np.ndarray = np.empty(tuple(array.shape), dtype=np.uint8)
    for start, block in _blocks(array):
        if array.dtype.kind == "f":
            unit = (block.astype(np.float64) + 1) / 2 if signed else block.astype(np.float64)
            block = np.rint(unit * 255)
        images[start : start + len(block)] = block
    if images.ndim == 3:
        images = images[..., None]
    elif images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.shape[3] not in (1, 3) or images.shape[1] != images.shape[2]:
        raise InputError(
            f"`data` file {path}: {key} must hold square images with 1 or 3 channels, "
            f"got shape {tuple(array.shape)}."
        )
    return images
