"""Associations over seeds: partial correlation given cells, tested by permuting seeds.

Rows of one run follow one another, and arms of one seed share batches; so whole seeds are permuted and resampled.

References:
    Winkler, Webster, Vidaurre, Nichols, Smith (2015), Multi-level block permutation.
    Hesterberg (2015), What teachers should know about the bootstrap: the expanded percentile interval.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np

from thermograd.errors import InputError
from thermograd.reports.statistics import NUM_RANDOM, ROUNDING, expanded_tail

LARGEST_EXACT_BLOCKS = 8
"""Seeds up to which all permutations are gone through."""


@dataclass(frozen=True)
class Association:
    """A partial correlation over seeds.

    Attributes:
        correlation: of what is left of x and y.
        low: end of its 95 % interval, NaN where there is none.
        high: the other.
        p_value: of the permutation of seeds, two-sided.
        num_blocks: seeds that took part, or where no cell has enough of them, seeds that there are.
        num_cells: cells (arm x epoch) whose means were taken out.
    """

    correlation: float
    low: float
    high: float
    p_value: float
    num_blocks: int
    num_cells: int


def partial_association(
    x: np.ndarray, y: np.ndarray, given: np.ndarray | None = None, *, seed: int = 0, num_bootstrap: int = 1000
) -> Association:
    r"""Return the partial correlation of y and x over seeds, given the cell (arm x epoch) and another variable.

    The mean of each cell is taken out of x and y, and then what `given` explains. In a run rows follow one another and
    arms of one seed share batches, so whole seeds are permuted: under "no association within cells" the x of seed g
    goes as well with the y of any other seed. All permutations up to `LARGEST_EXACT_BLOCKS` seeds, else random ones.
    A row that lacks a number takes no part, nor does a cell with fewer than 3 rows.

    Args:
        x: (G, C), G seeds and C cells; NaN where there is no row.
        y: (G, C).
        given: (G, C), e.g. bias; or None.
        seed: of random permutations and resamples.
        num_bootstrap: resamples of seeds for the interval; 0 for none.

    Returns:
        The association; its correlation and p-value are NaN with fewer than 3 seeds, or where x or y do not vary.

    Raises:
        InputError: shapes that differ.
    """
    arrays = [np.asarray(x, dtype=float), np.asarray(y, dtype=float)]
    if given is not None:
        arrays.append(np.asarray(given, dtype=float))
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 2:
        raise InputError(f"`x` and `y` must have one shape (seeds, cells), got {[a.shape for a in arrays]}.")
    there = np.isfinite(np.stack(arrays)).all(0)
    cells, num_seeds = there.sum(0) >= 3, int(there.any(1).sum())
    arrays, there = [array[:, cells] for array in arrays], there[:, cells]
    num_blocks, num_cells = int(there.any(1).sum()) if cells.any() else num_seeds, int(cells.sum())
    nothing = Association(math.nan, math.nan, math.nan, math.nan, num_blocks, num_cells)
    if num_blocks < 3 or num_cells == 0:
        return nothing
    values = np.where(there, np.stack(arrays), 0.0)
    weights = np.ones((1, len(there)))
    correlation = float(_partial_correlations(values, there, weights)[0])
    if not math.isfinite(correlation):
        return nothing
    p_value = _permutation_p_value(_residuals(values, there), seed)
    low = high = math.nan
    if num_bootstrap and num_blocks >= 6:
        low, high = _resampled(values, there, seed, num_bootstrap)
    return Association(correlation, low, high, p_value, num_blocks, num_cells)


def _residuals(values: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y (G, C) less their cell means and less what the third explains; 0 where there is no row."""
    centred = np.where(there, values - values.sum(1, keepdims=True) / there.sum(0), 0.0)
    x, y = centred[:2]
    if len(centred) > 2 and (square := (centred[2] ** 2).sum()) > 0:
        x, y = (part - (part * centred[2]).sum() / square * centred[2] for part in (x, y))
    return x, y


def _permutation_p_value(residuals: tuple[np.ndarray, np.ndarray], seed: int) -> float:
    x, y = residuals
    products = x @ y.T  # [g, h]: the x of seed g with the y of seed h
    orders = _orders(len(products), seed)
    sums = np.abs(sum(row[order] for row, order in zip(products, orders, strict=True)))
    seen = abs(float(np.trace(products)))
    return float((sums >= seen - ROUNDING * np.abs(products).sum()).mean())


@lru_cache(maxsize=8)
def _orders(num: int, seed: int) -> np.ndarray:
    """Return permutations (num, N), one per column: all, or random ones with the identity first."""
    if num <= LARGEST_EXACT_BLOCKS:
        return np.array(list(permutations(range(num)))).T.copy()
    generator = np.random.default_rng(seed)
    orders = np.tile(np.arange(num), (NUM_RANDOM, 1))
    orders[1:] = generator.permuted(orders[1:], axis=1)
    return orders.T.copy()


def _partial_correlations(values: np.ndarray, there: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the partial correlation for each row of weights (B, G), how often each seed counts."""
    counts = np.maximum(weights @ there, 1e-300)

    def product_sum(i: int, j: int) -> np.ndarray:
        crossed = weights @ (values[i] * values[j])
        return (crossed - (weights @ values[i]) * (weights @ values[j]) / counts).sum(1)

    with np.errstate(invalid="ignore", divide="ignore"):
        xx, yy, xy = product_sum(0, 0), product_sum(1, 1), product_sum(0, 1)
        raw_x, raw_y = weights @ (values[0] ** 2).sum(1), weights @ (values[1] ** 2).sum(1)
        if len(values) > 2:
            zz, xz, yz = product_sum(2, 2), product_sum(0, 2), product_sum(1, 2)
            use = zz > 0
            zz = np.where(use, zz, 1.0)
            xx, yy, xy = (
                part - np.where(use, taken / zz, 0.0)
                for part, taken in ((xx, xz * xz), (yy, yz * yz), (xy, xz * yz))
            )
        flat = (xx <= ROUNDING * raw_x) | (yy <= ROUNDING * raw_y)
        return np.where(flat, np.nan, xy / np.sqrt(np.where(flat, 1.0, xx * yy))).clip(-1, 1)


def _resampled(values: np.ndarray, there: np.ndarray, seed: int, num: int) -> tuple[float, float]:
    """Return the expanded percentile interval of the partial correlation over resampled seeds."""
    groups = there.shape[0]
    drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=num)
    found = _partial_correlations(values, there, drawn.astype(float))
    found = found[np.isfinite(found)]
    if len(found) < num // 2:
        return math.nan, math.nan
    tail = expanded_tail(groups)
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)
