"""Decoded images kept as uint8 .npy memory maps, keyed by the sha256 of the file they were decoded from.

An entry is a folder with images.npy, labels.npy (if any) and meta.json. It is written under a temporary name,
flushed to disk and renamed, so a reader sees all of it or nothing. Of several processes that decode the same
file at once, the first rename wins and the others drop their copy, which holds the same bytes.
"""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thermograd.data.dataset import fingerprint_of
from thermograd.data.decoders import READ_ERRORS
from thermograd.data.ranges import BYTES, Range
from thermograd.errors import InputError
from thermograd.files import cache_folder

# A change of any decoding rule gets a new number here, so that old entries are not mistaken for new ones.
_RULES_VERSION = 2


@dataclass(frozen=True)
class Decoded:
    """Images (N, H, W, C) uint8, labels (N,) int64 or None, the sha256 of the image bytes, and what was told of them.

    `value_range` and `notes` are as in `ImageDataset`.
    """

    images: np.ndarray
    labels: np.ndarray | None
    fingerprint: str
    value_range: Range = BYTES
    notes: tuple[str, ...] = ()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes.

    Raises:
        InputError: if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"`data` file {path} cannot be read: {error.strerror or error}.") from error


def cache_key(decoder: str, split: str, source_hashes: list[str]) -> str:
    """Return the name of the cache entry of a split of some source files."""
    text = "/".join([f"rules-{_RULES_VERSION}", decoder, split, *source_hashes])
    return f"{decoder}-{split}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:32]}"


def open_cached(key: str) -> Decoded | None:
    """Open an entry as a memory map, or return None if there is none. The images are hashed anew.

    Raises:
        InputError: if the entry is damaged; the message names the folder to delete.
    """
    folder = cache_folder() / "decoded" / key
    try:
        if not folder.is_dir():
            return None
    except OSError:  # a cache that may not even be looked into; `store` says so
        return None
    try:
        meta = json.loads((folder / "meta.json").read_text())
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        label_file = folder / "labels.npy"
        labels = np.load(label_file, allow_pickle=False) if label_file.exists() else None
        found = Decoded(images, labels, meta["fingerprint"], tuple(meta["value_range"]), tuple(meta["notes"]))
        same = _meta(found) == meta
    except READ_ERRORS as error:
        raise InputError(f"`data` cache {folder} is damaged ({error}): delete this folder.") from error
    if not same:
        raise InputError(
            f"`data` cache {folder} is damaged (its arrays do not fit meta.json): delete this folder."
        )
    return found


def _meta(entry: Decoded) -> dict[str, object]:
    """Return what meta.json says of an entry: enough to notice any changed byte."""
    images, labels = entry.images, entry.labels
    told = {"value_range": list(entry.value_range), "notes": list(entry.notes)}
    return {
        "fingerprint": fingerprint_of(images),
        "images": f"{images.dtype} {images.shape}",
        "labels": None if labels is None else f"{labels.dtype} {labels.shape} {fingerprint_of(labels)}",
        **told,
        "sha256": hashlib.sha256(json.dumps(told).encode()).hexdigest(),
    }


def store(
    key: str,
    images: np.ndarray,
    labels: np.ndarray | None,
    value_range: Range = BYTES,
    notes: tuple[str, ...] = (),
) -> Decoded:
    """Write an entry and return it opened as a memory map.

    If the cache cannot be written (read-only or full), the images stay in memory and a RuntimeWarning
    says so.
    """
    images = np.ascontiguousarray(images)
    labels = None if labels is None else labels.astype(np.int64)
    entry = Decoded(images, labels, fingerprint_of(images), value_range, notes)
    decoded_folder = cache_folder() / "decoded"
    try:
        decoded_folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=decoded_folder))
        try:
            _write_entry(temporary, entry)
            _rename_unless_present(temporary, decoded_folder / key)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        warnings.warn(
            f"The data cache {decoded_folder} cannot be written ({error}); the images stay in memory.",
            RuntimeWarning,
            stacklevel=2,
        )
        images.flags.writeable = False
        return entry
    opened = open_cached(key)
    if opened is None:
        raise InputError(f"`data` cache {decoded_folder / key} vanished while it was being written.")
    return opened


def _write_entry(folder: Path, entry: Decoded) -> None:
    arrays = {"images.npy": entry.images} | ({} if entry.labels is None else {"labels.npy": entry.labels})
    for name, array in arrays.items():
        with (folder / name).open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    with (folder / "meta.json").open("w") as file:
        json.dump(_meta(entry), file)
        file.flush()
        os.fsync(file.fileno())
    folder.chmod(0o755)  # mkdtemp makes it private; a cache may be shared by a group


def _rename_unless_present(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        # A folder cannot be renamed onto a full one: another process was first, with the same content.
        if not target.is_dir():
            raise
    if os.name == "posix":
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
