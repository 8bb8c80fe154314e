"""Which parts of a data set the names of folders and arrays tell: train, val, test, images, labels."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thermograd.errors import InputError

Arrays = tuple[np.ndarray, np.ndarray | None]
"""Images (N, H, W, C) uint8, labels (N,) int64 or None."""

_SPLITS = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
_IMAGES = frozenset({"x", "images", "image", "imgs", "img", "data", "samples", "set", "split"})
_LABELS = frozenset({"y", "labels", "label", "targets", "target", "classes"})


@dataclass(frozen=True)
class Source:
    """What a user's file or folder holds.

    Attributes:
        parts: by name: "train" and "test" and perhaps "val", or "all" where there is no split.
        value_range: the values that became bytes 0 and 255.
        notes: a line each on what was taken for what, and on what was left out.
    """

    parts: dict[str, Arrays]
    value_range: tuple[float, float]
    notes: tuple[str, ...]


def split_of(name: str) -> str | None:
    """Return "train", "val" or "test" for a name that says it and nothing else (`Training`, `test_set`), or None."""
    split, words, rest = _read(name)
    return None if rest or words & _LABELS else split


def role_of(name: str) -> tuple[str | None, str] | None:
    """Return (split or None, "images" or "labels") for an array's name (`x_train`, `labels`), or None."""
    split, words, rest = _read(name)
    if rest or (not words and split is None):
        return None
    return split, "labels" if words & _LABELS else "images"


def _read(name: str) -> tuple[str | None, set[str], set[str]]:
    """Return the split that a name tells, its known words and its other words."""
    words = set(re.split(r"[\W_]+", name.lower())) - {""}
    splits = {_SPLITS[word] for word in words if word in _SPLITS}
    known = words & (_IMAGES | _LABELS)
    rest = words - known - set(_SPLITS)
    return (splits.pop(), known, rest) if len(splits) == 1 else (None, known, rest | splits)


def is_split(names: Iterable[str]) -> bool:
    """Return whether these splits make two parts: something to train on, and something to test on."""
    return "train" in names and bool({"test", "val"} & set(names))


def two_parts(parts: dict[str, Arrays], path: Path) -> tuple[dict[str, Arrays], str]:
    """Return train and test, and a line that says where they come from.

    A split is kept as it was found; where there is no test, val takes its place. Anything else is held out here.
    """
    if not is_split(parts):
        split = hold_out(*parts["all"], path)
        sizes = [len(split[name][0]) for name in ("train", "test")]
        return (
            split,
            f"No split was found: {sizes[0]} images to train, {sizes[1]} to test, chosen by their pixels.",
        )
    test = "test" if "test" in parts else "val"
    line = (
        f"The split is kept as found: {len(parts['train'][0])} images to train, {len(parts[test][0])} to test"
    )
    if "val" in parts:
        line += " (those of val)" if test == "val" else f"; {len(parts['val'][0])} of val are left out"
    return {"train": parts["train"], "test": parts[test]}, line + "."


def all_images(parts: dict[str, Arrays]) -> Arrays:
    """Return all parts as one."""
    labels = [labels for _, labels in parts.values() if labels is not None]
    images = np.concatenate([images for images, _ in parts.values()])
    return images, np.concatenate(labels) if len(labels) == len(parts) else None


def hold_out(images: np.ndarray, labels: np.ndarray | None, path: Path) -> dict[str, Arrays]:
    """Split images that come without a split: of N, the max(1, N // 10) with the smallest sha256 of pixels are test.

    So the split depends on the images alone, not on their names, order or a seed. Order is kept.

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
