"""Which values of an array are black and white: one rule for all types of numbers and all kinds of files.

The ranges [0, 1], [0, 255] and [-1, 1] are recognised. One fits where no value lies outside it by more than half a
byte, since such a value rounds to the end, and where the values reach at least half way to its ends. So [0, 16] fits
none, nor does [0, 1] that was divided by 255 twice, nor standardised values. Where none fits, the user names the range.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thermograd.errors import InputError

Range = tuple[float, float]
"""The values that become bytes 0 and 255."""

BYTES: Range = (0.0, 255.0)
KNOWN: tuple[Range, ...] = ((0.0, 1.0), BYTES, (-1.0, 1.0))
_BLOCK = 1024  # images looked at at a time, so that a big file is never in memory as a whole


class _Extreme(NamedTuple):
    value: float
    where: str


def text_of(value_range: Range) -> str:
    """Return a range for people, as "[0, 255]"."""
    return f"[{value_range[0]:g}, {value_range[1]:g}]"


def find_range(arrays: Mapping[str, Any], path: Path, named: Range | None) -> Range:
    """Return the range of some arrays taken together, or check that they fit the one that is named.

    Args:
        arrays: (N, ...) of booleans, integers or floats, arrays or HDF5 data sets, by the names they have in the file.
        path: the file, for messages.
        named: the user's own range; None to recognise it.

    Raises:
        InputError: for a value that is not finite, or values that fit no range, or not the one named.
    """
    lows, highs = zip(*(_extremes(array, key, path) for key, array in arrays.items()), strict=True)
    low, high = min(lows), max(highs)
    for candidate in KNOWN if named is None else (named,):
        reached = named is not None or _reached(low.value, high.value, candidate)
        if reached and _inside(low.value, high.value, candidate):
            return candidate
    if named is None and low.value == high.value:
        raise InputError(f"`data` file {path} must hold more than one value, got {low.value:g} alone.")
    found = f"values from {low.value:g} ({low.where}) to {high.value:g} ({high.where})"
    if named is not None:
        raise InputError(f"`data.range` must hold all values of {path}, got {text_of(named)} for {found}.")
    raise InputError(
        f"`data` file {path} holds {found}, which is none of the ranges [0, 1], [0, 255] and [-1, 1]: "
        f"name the values that are black and white, e.g. `data.range` {text_of((min(low.value, 0.0), high.value))}."
    )


def to_bytes(values: np.ndarray, value_range: Range) -> np.ndarray:
    """Map values to the nearest byte: low is 0 and high is 255."""
    if value_range == BYTES and values.dtype == np.uint8:
        return values
    low, high = value_range
    scaled = np.rint((values.astype(np.float64) - low) * (255 / (high - low)))
    return scaled.clip(0, 255).astype(np.uint8)  # half a byte beyond an end may round outwards


def blocks(array: Any) -> Iterable[tuple[int, np.ndarray]]:
    """Yield (first index, images) of an array or HDF5 data set, block by block."""
    for start in range(0, array.shape[0], _BLOCK):
        yield start, np.asarray(array[start : start + _BLOCK])


def _inside(low: float, high: float, candidate: Range) -> bool:
    tolerance = (candidate[1] - candidate[0]) / 510
    return candidate[0] - tolerance <= low and high <= candidate[1] + tolerance


def _reached(low: float, high: float, candidate: Range) -> bool:
    return high >= candidate[1] / 2 and (candidate[0] == 0 or low <= candidate[0] / 2)


def _extremes(array: Any, key: str, path: Path) -> tuple[_Extreme, _Extreme]:
    """Return the smallest and the largest value, having checked that every value is finite."""
    lows, highs = [], []
    for start, block in blocks(array):
        if not np.isfinite(block).all():
            bad = _at(block, np.isfinite(block).argmin(), start, key)
            raise InputError(f"`data` file {path} must hold finite values, got {bad.value} ({bad.where}).")
        lows.append(_at(block, block.argmin(), start, key))
        highs.append(_at(block, block.argmax(), start, key))
    return min(lows), max(highs)


def _at(block: np.ndarray, position: np.intp, start: int, key: str) -> _Extreme:
    index = [int(i) for i in np.unravel_index(position, block.shape)]
    return _Extreme(float(block[tuple(index)]), f"{key} at {(index[0] + start, *index[1:])}")
