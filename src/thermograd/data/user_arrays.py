"""Reading the user's array files: .npy, .npz, HDF5 and idx, told apart by their content."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format
from numpy.lib.npyio import NpzFile

from thermograd.data.decoders import READ_ERRORS, check_unpacked, decode_idx, read_content
from thermograd.data.ranges import Range, blocks, find_range, text_of, to_bytes
from thermograd.data.splits import Arrays, Source, is_split, role_of
from thermograd.errors import InputError, import_extra

_KINDS = "`data` file must be .npy, .npz, .h5, .hdf5 or idx (plain or .gz)"


def read_array_file(path: Path, value_range: Range | None = None) -> Source:
    """Read an array file.

    Args:
        path: the file.
        value_range: the values that are black and white; None to recognise them.

    Raises:
        InputError: if the file is damaged, lacks the arrays, or holds arrays of another shape, type or range.
    """
    try:
        return _read(path, value_range)
    except InputError:
        raise
    except READ_ERRORS as error:
        raise InputError(f"`data` file {path} is damaged or unreadable: {error}.") from error


def _read(path: Path, named: Range | None) -> Source:
    with path.open("rb") as stream:
        start = stream.read(8)
    if start.startswith(b"\x93NUMPY"):
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        return _source({"images": images}, lambda name: images, path, named)
    if start.startswith(b"PK"):
        # NumPy leaves a file that it opened itself open when the archive is damaged.
        with path.open("rb") as stream, NpzFile(stream, allow_pickle=False) as archive:
            return _source(_forms(archive, path), archive.__getitem__, path, named)
    if start.startswith(b"\x89HDF"):
        h5py = import_extra("h5py")

        with h5py.File(path, "r") as file:
            return _source(_datasets(file, path), file.__getitem__, path, named)
    if start.startswith((b"\x1f\x8b", b"\0\0")):
        images = decode_idx(read_content(path), path)
        return _source({"images": images}, lambda name: images, path, named)
    raise InputError(f"{_KINDS}, got {path}, which begins like none of them.")


def _datasets(file: Any, path: Path) -> dict[str, Any]:
    """Return the data sets of an HDF5 file, also in groups; what reads elsewhere is refused, asked for or not.

    Raises:
        InputError: a link that is not a hard one, or data that are external or virtual.
    """
    h5py = import_extra("h5py")

    # h5py stops where the function returns something; an exception in it is lost.
    link = file.visititems_links(lambda name, link: None if isinstance(link, h5py.HardLink) else name)
    if link is not None:
        raise InputError(f"`data` file {path}: {link} is a link, which is not followed.")
    found: dict[str, Any] = {}
    file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    for name, item in found.items():
        if item.external or item.is_virtual:
            raise InputError(
                f"`data` file {path}: {name} takes its data from other files, which are not read."
            )
    check_unpacked(path, sum(item.nbytes for item in found.values()))
    return found


class _Form(NamedTuple):
    """Shape and type of an array that is not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype


def _forms(archive: NpzFile, path: Path) -> dict[str, _Form]:
    """Return the form of every array of an archive; a member that is no array has none of our shapes."""
    forms = {}
    assert archive.zip is not None  # for the type checker: it is None once it was closed
    check_unpacked(path, sum(member.file_size for member in archive.zip.infolist()))
    # Arrays that are never asked for are checked as well: a damaged name hides the labels.
    damaged = archive.zip.testzip()
    if damaged is not None:
        raise InputError(f"`data` file {path} is damaged: {damaged} has a wrong checksum.")
    for name in archive.files:
        inside = name if name in archive.zip.namelist() else f"{name}.npy"
        with archive.zip.open(inside) as member:
            try:
                version = format.read_magic(member)
                read = format.read_array_header_1_0 if version == (1, 0) else format.read_array_header_2_0
                shape, _, dtype = read(member)
            except ValueError:
                shape, dtype = (), np.dtype(object)
        check_unpacked(path, math.prod(shape) * dtype.itemsize)
        forms[name] = _Form(shape, dtype)
    return forms


def _source(found: dict[str, Any], get: Callable[[str], Any], path: Path, named: Range | None) -> Source:
    keys, left_out = _choose(found, path)
    stored = {pair[0]: get(pair[0]) for pair in keys.values()}
    for key, array in stored.items():
        _check_form(array, key, path)
    taken = find_range(stored, path, named)
    images = {key: _convert(array, taken) for key, array in stored.items()}
    shapes = {key: array.shape[1:] for key, array in images.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"`data` file {path} must hold images of one shape, got {shapes}.")
    parts: dict[str, Arrays] = {
        part: (images[key], None if label is None else _labels(get(label), len(images[key]), label, path))
        for part, (key, label) in keys.items()
    }
    notes = [f"Values in {text_of(taken)} ({', '.join(sorted({str(a.dtype) for a in stored.values()}))})."]
    if left_out:
        notes.append(f"Arrays left out: {', '.join(left_out)}.")
    return Source(parts, taken, tuple(notes))


def _choose(found: dict[str, Any], path: Path) -> tuple[dict[str, tuple[str, str | None]], list[str]]:
    """Return the names of (images, labels) by part, and the names of the arrays that are left out."""
    roles = {name: role_of(name) for name in found}
    twice = [role for role, count in Counter(r for r in roles.values() if r is not None).items() if count > 1]
    named = {role: name for name, role in roles.items() if role is not None}
    splits = [split for split, role in named if split is not None and role == "images"]
    if is_split(splits):
        parts: list[str | None] = list(splits)
    elif (None, "images") in named and not splits:
        parts = [None]
    else:
        return _choose_by_shape(found, path)
    asked = [role for role in twice if role[0] in parts]
    if asked:
        same = [name for name, role in roles.items() if role == asked[0]]
        raise InputError(f"`data` file {path} must hold one array of {asked[0][1]}, got {', '.join(same)}.")
    keys = {part or "all": (named[part, "images"], named.get((part, "labels"))) for part in parts}
    used = {name for pair in keys.values() for name in pair}
    return keys, [name for name in found if name not in used]


def _choose_by_shape(
    found: dict[str, Any], path: Path
) -> tuple[dict[str, tuple[str, str | None]], list[str]]:
    """Take the one array that can be images, whatever its name, and the one that can be their labels."""
    images = [name for name, array in found.items() if len(array.shape) in (3, 4)]
    role = role_of(images[0]) if len(images) == 1 else None
    if len(images) != 1 or (role is not None and role[0] is not None):  # one part of a split misses the other
        raise InputError(
            f"`data` file {path} must hold x_train and x_test, or images, or x, or one array of images, "
            f"got {', '.join(found) or 'nothing'}."
        )
    count = found[images[0]].shape[0]
    labels = [
        n for n, a in found.items() if tuple(a.shape) in ((count,), (count, 1)) and a.dtype.kind in "iu"
    ]
    label = labels[0] if len(labels) == 1 else None
    return {"all": (images[0], label)}, [name for name in found if name not in (images[0], label)]


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


def _check_form(array: Any, key: str, path: Path) -> None:
    shape = tuple(array.shape)
    if array.dtype.kind not in "buif":
        raise InputError(f"`data` file {path}: {key} must hold numbers, got {array.dtype}.")
    if len(shape) not in (3, 4) or 0 in shape:
        raise InputError(
            f"`data` file {path}: {key} must be (N, H, W), (N, H, W, C) or (N, C, H, W), got shape {shape}."
        )
    height, width = shape[2:] if _channels_first(shape) else shape[1:3]
    if height != width or (len(shape) == 4 and not _channels_first(shape) and shape[3] not in (1, 3)):
        raise InputError(
            f"`data` file {path}: {key} must hold square images with 1 or 3 channels, got shape {shape}."
        )


def _channels_first(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3)


def _convert(array: Any, value_range: Range) -> np.ndarray:
    """Convert an array or HDF5 data set to (N, H, W, C) uint8."""
    images: np.ndarray = np.empty(tuple(array.shape), dtype=np.uint8)
    for start, block in blocks(array):
        images[start : start + len(block)] = to_bytes(block, value_range)
    if images.ndim == 3:
        return images[..., None]
    return images.transpose(0, 2, 3, 1) if _channels_first(images.shape) else images
