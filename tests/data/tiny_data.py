"""A data set of nine images, in the layout of MNIST, and how it is written."""

import gzip
import struct
from pathlib import Path

import numpy as np


def random_images(num_images: int, size: int = 4, channels: int = 1, seed: int = 0) -> np.ndarray:
    shape = (num_images, size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    header = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


IMAGES = {"train": random_images(6), "test": random_images(3, seed=1)}
LABELS = {split: np.arange(len(images), dtype=np.uint8) for split, images in IMAGES.items()}
CONTENT = {
    "train-images-idx3-ubyte": idx_bytes(IMAGES["train"][..., 0]),
    "train-labels-idx1-ubyte": idx_bytes(LABELS["train"]),
    "t10k-images-idx3-ubyte": idx_bytes(IMAGES["test"][..., 0]),
    "t10k-labels-idx1-ubyte": idx_bytes(LABELS["test"]),
}


def write_tiny(folder: Path, compressed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in CONTENT.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def as_multiset(images: np.ndarray) -> list[bytes]:
    return sorted(image.tobytes() for image in images)
