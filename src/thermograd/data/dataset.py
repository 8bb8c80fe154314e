"""What every source of images is turned into: unsigned bytes in one array, split and fingerprinted."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from thermograd.data.batches import to_tensor
from thermograd.errors import InputError

SPLITS = ("train", "test")


@dataclass(frozen=True)
class ImageDataset:
    """Square images of one split.

    Attributes:
        name: catalogue name, or the name of the user's file or folder.
        split: "train" or "test", or "all" of a user's images.
        images: (N, H, W, C) uint8, read-only, as a rule a memory map; H = W, C is 1 or 3.
        labels: (N,) int64 or None.
        fingerprint: sha256 of the bytes of `images` in C order: pixels only, no header and no shape.
        value_range: the stored values that became bytes 0 and 255.
        notes: of a user's images, a line each on what was recognised (split, range, classes) and left out.
    """

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray | None
    fingerprint: str
    value_range: tuple[float, float] = (0.0, 255.0)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        """Return name, split and sizes, no pixels."""
        size = "x".join(map(str, self.images.shape[1:]))
        return f"ImageDataset(name={self.name!r}, split={self.split!r}, {len(self)} images of {size})"

    @property
    def image_size(self) -> int:
        """Height, which is the width, in pixels."""
        return self.images.shape[1]

    @property
    def num_channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.images.shape[3]

    def to_tensor(self, num_images: int | None = None) -> Tensor:
        """Return the first images, or all, as float32 (N, C, H, W) in [-1, 1], which a Gaussian likelihood takes.

        Example:
            >>> tg.load_dataset("digits", "test").to_tensor(10).shape
            torch.Size([10, 1, 8, 8])
        """
        return to_tensor(self.images[:num_images])


def first_images(dataset: ImageDataset, num_images: int | None) -> ImageDataset:
    """Return the first `num_images` of a data set as a view, with the fingerprint of these images.

    Raises:
        InputError: if `num_images` is not between 1 and the number of images.
    """
    if num_images is None or num_images == len(dataset):
        return dataset
    if not 1 <= num_images <= len(dataset):
        raise InputError(
            f"`num_images` must be between 1 and {len(dataset)} for {dataset.name} ({dataset.split}), "
            f"got {num_images}."
        )
    images = dataset.images[:num_images]
    labels = None if dataset.labels is None else dataset.labels[:num_images]
    return replace(dataset, images=images, labels=labels, fingerprint=fingerprint_of(images))


def fingerprint_of(images: np.ndarray) -> str:
    """Return the sha256 of the bytes of `images` in C order."""
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def check_split(split: str) -> None:
    """Raise InputError unless `split` is "train" or "test"."""
    if split not in SPLITS:
        raise InputError(f"`split` must be train or test, got {split!r}.")
