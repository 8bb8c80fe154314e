r"""Statistics of paired seeds: exact permutation tests, Holm's correction, intervals, and what could have been found.

Seeds are the unit. Arms share weights at the start and batches within a seed, so differences d_1, ..., d_n of two arms
are paired; nothing is assumed of rows within a run. All functions are pure: arrays in, numbers out.

References:
    Fisher (1935), The design of experiments: the sign-flip test.
    Holm (1979), A simple sequentially rejective multiple test procedure.
    Hesterberg (2015), What teachers should know about the bootstrap: the expanded percentile interval.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from thermograd.errors import InputError

LEVEL = 0.05
"""Of all confirmatory contrasts of a study together."""
POWER = 0.8
"""A difference that could have been found is one that four of five such studies find."""
LARGEST_EXACT = 14
"""Seeds up to which all sign flips are gone through."""
NUM_RANDOM = 20_000
FEWEST_SEEDS = 3
"""Below it there is no interval: of two seeds Student's would be 6 times as wide as their distance."""
ROUNDING = 1e-9
"""Relative: flips that tie with what was seen count as ties whatever the order of the sum."""


@dataclass(frozen=True)
class Interval:
    """A value with its interval; `how` says which: "bootstrap", "Student t", or "none" for one or two seeds."""

    value: float
    low: float
    high: float
    how: str

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


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

    It tests that differences are symmetric around 0, not that their mean is 0. Symmetric they are for two arms that are
    the same but for chance. Where one arm's values are skewed and the other's are not, equal means are rejected too
    often: at 8 seeds and a level of 5 %, log-normal values of sd 1 (1.5) against normal ones of the same mean in 13
    (25) % of studies. Differences of logarithms are the test to read beside it.

    More than `LARGEST_EXACT` seeds: random flips, the pattern as seen among them.

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


def mean_interval(values: np.ndarray, level: float = 0.95, seed: int = 0, num: int = 2000) -> Interval:
    """Return the mean over seeds with its interval.

    From 6 seeds on the bootstrap's expanded percentile interval, whose percentiles are widened so that it is as wide as
    Student's for normal values; the plain one covers 90 % where it says 95 %. Below 6 no resampling can cover 95 %
    (all means lie between the smallest and the largest), so Student's t is used, and below `FEWEST_SEEDS` nothing.

    Raises:
        InputError: no value.
    """
    from scipy.special import stdtrit

    x = np.asarray(values, dtype=float)
    if len(x) == 0:
        raise InputError("`values` must hold at least one value, got none.")
    mean, n = float(x.mean()), len(x)
    if n < FEWEST_SEEDS:
        return Interval(mean, math.nan, math.nan, "none")
    if n < 6:
        half = float(stdtrit(n - 1, (1 + level) / 2)) * float(x.std(ddof=1)) / math.sqrt(n)
        return Interval(mean, mean - half, mean + half, "Student t")
    tail = expanded_tail(n, level)
    means = x[np.random.default_rng(seed).integers(n, size=(num, n))].mean(1)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), "bootstrap")


def positive_interval(values: np.ndarray) -> Interval:
    """Return the geometric mean over seeds with its interval, which is one of logarithms: no variance is below 0.

    Where an unbiased estimate came out at 0 or below, there are no logarithms: the mean, without an interval.
    """
    x = np.asarray(values, dtype=float)
    if len(x) == 0 or x.min() <= 0:
        return Interval(float(x.mean()) if len(x) else math.nan, math.nan, math.nan, "none")
    found = mean_interval(np.log(x))
    return Interval(math.exp(found.value), math.exp(found.low), math.exp(found.high), found.how)


def expanded_tail(num: int, level: float = 0.95) -> float:
    """Return the tail of Hesterberg's expanded percentiles."""
    from scipy.special import ndtr, stdtrit

    return float(ndtr(-math.sqrt(num / (num - 1)) * float(stdtrit(num - 1, (1 + level) / 2))))
