r"""Statistics of paired seeds: exact permutation tests, Holm's correction, intervals, and what could have been found.

Seeds are the unit. Arms share weights at the start and batches within a seed, so differences d_1, ..., d_n of two arms
are paired; nothing is assumed of rows within a run. All functions are pure: arrays in, numbers out.

References:
    Fisher (1935), The design of experiments: the sign-flip test.
    Holm (1979), A simple sequentially rejective multiple test procedure.
    Hesterberg (2015), What teachers should know about the bootstrap: the expanded percentile interval.
    Winkler, Webster, Vidaurre, Nichols, Smith (2015), Multi-level block permutation.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np

from thermograd.errors import InputError

LEVEL = 0.05
"""Of all confirmatory contrasts of a study together."""
POWER = 0.8
"""A difference that could have been found is one that four of five such studies find."""
LARGEST_EXACT = 14
"""Seeds up to which all sign flips are gone through."""
LARGEST_EXACT_BLOCKS = 8
NUM_RANDOM = 20_000
ROUNDING = 1e-9
"""Relative: flips that tie with what was seen count as ties whatever the order of the sum."""


@dataclass(frozen=True)
class Interval:
    """A value with its interval; `how` says which: "bootstrap", "Student t", or "none" for a single seed."""

    value: float
    low: float
    high: float
    how: str

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Association:
    """A partial correlation over seeds.

    Attributes:
        correlation: of what is left of x and y.
        low: end of its 95 % interval, NaN where there is none.
        high: the other.
        p_value: of the permutation of seeds, two-sided.
        num_blocks: seeds.
        num_cells: cells (arm x epoch) whose means were taken out.
    """

    correlation: float
    low: float
    high: float
    p_value: float
    num_blocks: int
    num_cells: int


# --- paired differences ---


@lru_cache(maxsize=32)
def _signs(num: int) -> np.ndarray:
    """Return all patterns of signs (2^n, n), or seeded random ones with the pattern as seen first."""
    if num <= LARGEST_EXACT:
        return np.array(list(product((1.0, -1.0), repeat=num)))
    signs = np.random.default_rng(num).choice([1.0, -1.0], size=(NUM_RANDOM, num))
    signs[0] = 1.0
    return signs


def sign_flip_p_value(differences: np.ndarray) -> float | np.ndarray:
    """Return the two-sided p-value of the sign-flip test of paired differences.

    p = #{s in {-1, 1}^n : |s . d| >= |sum d|} / 2^n

    Exact if differences are symmetric around 0 when there is no effect, which holds for two arms that are the same
    but for chance. More than `LARGEST_EXACT` seeds: random flips, the pattern as seen among them.

    Args:
        differences: (..., n).

    Returns:
        (...); a float for a single vector.

    Raises:
        InputError: no difference, or one that is not finite.
    """
    d = np.asarray(differences, dtype=float)
    if d.ndim == 0 or d.shape[-1] == 0:
        raise InputError("`differences` must hold at least one difference, got none.")
    if not np.isfinite(d).all():
        raise InputError(f"`differences` must be finite, got {d[~np.isfinite(d)][0]}.")
    sums = np.abs(d @ _signs(d.shape[-1]).T)
    seen = np.abs(d.sum(-1))[..., None] - ROUNDING * np.abs(d).sum(-1)[..., None]
    p = (sums >= seen).mean(-1)
    return float(p) if d.ndim == 1 else p


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p-values: p_(i) times the number of hypotheses not yet rejected, made monotone.

    Args:
        p_values: (m,); NaN for a contrast that could not be tested, which still counts as one of m.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)  # NaN last
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def seeds_needed(num_contrasts: int, level: float = LEVEL) -> int:
    """Return how many paired seeds confirmatory contrasts need: 7 for one, 8 for two or three.

    The smallest n with 4 / 2^n <= level / m. Then a contrast can be confirmed even where the seed with the smallest
    difference goes against the others; the 4 patterns that are as far out are this one, all seeds alike, and their
    mirror images.

    Raises:
        InputError: no contrast.
    """
    if num_contrasts < 1:
        raise InputError(f"`num_contrasts` must be at least 1, got {num_contrasts}.")
    return math.ceil(math.log2(4 * num_contrasts / level))


@lru_cache(maxsize=64)
def detectable_ratio(num_seeds: int, level: float, power: float = POWER) -> float:
    """Return the smallest difference, in standard deviations of one, that the sign-flip test finds with `power`.

    By simulating 4,000 studies of normal differences and bisecting their mean; infinite where 2 / 2^n > level, since
    no difference however large is then found. Good to about 2 %.
    """
    if num_seeds < 2 or 2 / 2**num_seeds > level:
        return math.inf
    num = 4000 if num_seeds <= 10 else 300
    noise = np.random.default_rng(0).standard_normal((num, num_seeds))
    low, high = 0.0, 20.0
    for _ in range(14):
        middle = (low + high) / 2
        found = np.mean(np.asarray(sign_flip_p_value(noise + middle)) <= level)
        low, high = (low, middle) if found >= power else (middle, high)
    return high


def detectable_difference(differences: np.ndarray, level: float, power: float = POWER) -> float:
    """Return the smallest mean difference that could have been found, given how differences spread over seeds.

    The spread is itself estimated from a few seeds: with 8 it is off by a quarter as often as not.
    """
    d = np.asarray(differences, dtype=float)
    if len(d) < 2:
        return math.inf
    spread = float(d.std(ddof=1))
    ratio = detectable_ratio(len(d), level, power)
    return math.inf if math.isinf(ratio) else ratio * spread


# --- intervals ---


def mean_interval(values: np.ndarray, level: float = 0.95, seed: int = 0, num: int = 4000) -> Interval:
    """Return the mean over seeds with its interval.

    From 6 seeds on the bootstrap's expanded percentile interval, whose percentiles are widened so that it is as wide as
    Student's for normal values; the plain one covers 90 % where it says 95 %. Below 6 no resampling can cover 95 %
    (all means lie between the smallest and the largest), so Student's t is used.

    Raises:
        InputError: no value.
    """
    from scipy.special import ndtr, stdtrit

    x = np.asarray(values, dtype=float)
    if len(x) == 0:
        raise InputError("`values` must hold at least one value, got none.")
    mean, n = float(x.mean()), len(x)
    if n == 1:
        return Interval(mean, math.nan, math.nan, "none")
    quantile = float(stdtrit(n - 1, (1 + level) / 2))
    if n < 6:
        half = quantile * float(x.std(ddof=1)) / math.sqrt(n)
        return Interval(mean, mean - half, mean + half, "Student t")
    tail = float(ndtr(-math.sqrt(n / (n - 1)) * quantile))
    means = x[np.random.default_rng(seed).integers(n, size=(num, n))].mean(1)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), "bootstrap")


# --- association given cells ---


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
    cells = there.sum(0) >= 3
    arrays, there = [array[:, cells] for array in arrays], there[:, cells]
    num_blocks, num_cells = int(there.any(1).sum()), int(cells.sum())
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
    num = len(products)
    orders = _orders(num, seed)
    sums = np.abs(products[np.arange(num), orders].sum(1))
    seen = abs(float(np.trace(products)))
    return float((sums >= seen - ROUNDING * np.abs(products).sum()).mean())


@lru_cache(maxsize=8)
def _orders(num: int, seed: int) -> np.ndarray:
    if num <= LARGEST_EXACT_BLOCKS:
        return np.array(list(permutations(range(num))))
    generator = np.random.default_rng(seed)
    orders = np.tile(np.arange(num), (NUM_RANDOM, 1))
    orders[1:] = generator.permuted(orders[1:], axis=1)
    return orders


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
    from scipy.special import ndtr, stdtrit

    groups = there.shape[0]
    drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=num)
    found = _partial_correlations(values, there, drawn.astype(float))
    found = found[np.isfinite(found)]
    if len(found) < num // 2:
        return math.nan, math.nan
    tail = float(ndtr(-math.sqrt(groups / (groups - 1)) * float(stdtrit(groups - 1, 0.975))))
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)
