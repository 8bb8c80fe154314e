"""Data sets by name: load, list, fetch and verify."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from thermograd.data.cache import Decoded, cache_key, file_sha256, open_cached, store
from thermograd.data.catalogue import CATALOGUE, CatalogueEntry, catalogue_entry
from thermograd.data.dataset import SPLITS, ImageDataset, check_split, fingerprint_of, first_images
from thermograd.data.decoders import (
    decode_cifar10,
    decode_digits,
    decode_idx,
    decode_mnist_5k,
    decode_svhn,
    read_content,
)
from thermograd.data.sources import FileCheck, check_file, locate, locate_or_download, require_genuine
from thermograd.data.user import load_user_images
from thermograd.errors import InputError


class DatasetRecord(NamedTuple):
    """A line of `thermograd data list`; `found` is where the training files lie on this machine, or None."""

    entry: CatalogueEntry
    found: Path | None


def load_dataset(
    name: str, split: str = "train", *, folder: Path | None = None, num_images: int | None = None
) -> ImageDataset:
    """Load a data set of the catalogue.

    The source files are found (or downloaded) and hashed at every call; they are decoded once, into a memory
    map in the cache. Where the cache cannot be written, the images stay in memory and a RuntimeWarning
    says so.

    Args:
        name: name in the catalogue.
        split: "train" or "test".
        folder: a folder to take the files from; then no other place is looked at.
        num_images: keep the first `num_images` only, as a view.

    Returns:
        The data set. Its fingerprint is measured at every call, on the images returned.

    Raises:
        InputError: for an unknown name or split, a bad number of images, or a missing or damaged file.
        RunError: if a download is needed and every mirror fails.
    """
    check_split(split)
    entry = catalogue_entry(name)
    if entry.decoder == "user" and folder is not None:
        dataset = load_user_images(folder, split)
        if dataset.images.shape[1:] != entry.shape:
            raise InputError(
                f"`data` {folder} must hold images of shape {entry.shape} for {name}, "
                f"got {dataset.images.shape[1:]}."
            )
        return first_images(dataset, num_images)
    paths = locate_or_download(entry, split, folder)
    # The key holds the hash of the source files, so an entry proves that these very files passed every check.
    key = cache_key(entry.name, split, [file_sha256(path) for path in paths])
    decoded = open_cached(key) or _decode(entry, split, paths, key)
    dataset = ImageDataset(name, split, decoded.images, decoded.labels, decoded.fingerprint)
    return first_images(dataset, num_images)


def _decode(entry: CatalogueEntry, split: str, paths: list[Path], key: str) -> Decoded:
    for path, source in zip(paths, entry.files[split], strict=True):
        require_genuine(path, source)
    images, labels = _arrays(entry, split, paths)
    expected_shape = (entry.counts[split], *entry.shape)
    if images.shape != expected_shape or labels.shape != expected_shape[:1] or images.dtype != np.uint8:
        raise InputError(
            f"`data` file {paths[0]} must hold {expected_shape} images and as many labels, "
            f"got {images.shape} and {labels.shape}."
        )
    expected = entry.fingerprints.get(split)
    if expected is not None and fingerprint_of(images) != expected:
        raise InputError(
            f"`data` file {paths[0]} decodes to other pixels than those of {entry.name} ({split})."
        )
    return store(key, images, labels)


def _arrays(entry: CatalogueEntry, split: str, paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    if entry.decoder == "idx":
        images, labels = (decode_idx(read_content(path), path) for path in paths)
        return images[..., None], labels
    if entry.decoder == "mnist_5k":
        return decode_mnist_5k(read_content(paths[0]))[split]
    if entry.decoder == "digits":
        return decode_digits(read_content(paths[0]))[split]
    if entry.decoder == "cifar10":
        return decode_cifar10(paths[0], split)
    return decode_svhn(paths[0])


def list_datasets() -> list[DatasetRecord]:
    """Return every data set of the catalogue and where it was found. Reads and downloads nothing."""
    records = []
    for entry in CATALOGUE.values():
        paths = locate(entry, "train") if entry.files else None
        records.append(DatasetRecord(entry, paths[0].parent if paths else None))
    return records


def fetch_dataset(name: str) -> Path:
    """Make sure that both splits of a data set are on this machine; return the folder with their files.

    Raises:
        InputError: for an unknown name, or one that only the user can supply.
        RunError: if a download is needed and every mirror fails.
    """
    entry = catalogue_entry(name)
    paths = [path for split in SPLITS for path in locate_or_download(entry, split)]
    return paths[0].parent


def verify_dataset(name: str) -> list[FileCheck]:
    """Compare every file of a data set on this machine with its digest in the catalogue.

    Raises:
        InputError: for an unknown name, or if the data set is not on this machine.
    """
    entry = catalogue_entry(name)
    checks: dict[Path, FileCheck] = {}
    for split, sources in entry.files.items():
        paths = locate(entry, split)
        if paths is not None:
            checks |= {path: check_file(path, source) for path, source in zip(paths, sources, strict=True)}
    if not checks:
        raise InputError(f"`dataset` {name} is not on this machine: nothing to verify.")
    return list(checks.values())
