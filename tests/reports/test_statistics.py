"""Exact values, coverage and false-alarm rates of the statistics of paired seeds."""

import itertools
import math

import numpy as np
import pytest

from thermograd.errors import InputError
from thermograd.reports.association import partial_association
from thermograd.reports.statistics import (
    detectable_difference,
    detectable_ratio,
    holm,
    mean_interval,
    positive_interval,
    seeds_needed,
    sign_flip_p_value,
)
from thermograd.reports.words import association_sentence

# --- the sign-flip test ---


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3], 2 / 8),
        ([1, 2, 3, 4, 5, 6, 7, 8], 2 / 256),
        ([-1, 2, 3, 4, 5, 6, 7, 8], 4 / 256),
        ([1, -1], 1.0),
        ([0.0, 0.0, 0.0], 1.0),
        ([5.0], 1.0),
    ],
)
def test_sign_flips_by_hand(differences: list[float], p: float):
    assert sign_flip_p_value(np.array(differences, dtype=float)) == p


def test_sign_flips_agree_with_scipy():
    from scipy.stats import permutation_test

    d = np.random.default_rng(0).normal(0.5, 1, 8)
    other = permutation_test(
        (d, np.zeros(8)), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p_value(d) == pytest.approx(other.pvalue)


def test_sign_flips_are_exact_under_the_null():
    """P(p <= a) is at most a and, at levels that 2^-n can reach, equal to it within 4 standard errors."""
    d = np.random.default_rng(1).standard_normal((20_000, 8))
    p = np.asarray(sign_flip_p_value(d))
    for level in (2 / 256, 4 / 256, 0.05, 0.25):
        reachable = math.floor(level * 128) / 128
        error = math.sqrt(reachable * (1 - reachable) / len(d))
        assert abs((p <= level + 1e-12).mean() - reachable) < 4 * error


def test_many_seeds_use_random_flips_and_never_give_zero():
    p = sign_flip_p_value(np.full(20, 3.0) + np.arange(20))
    assert 0 < p < 0.001


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_sign_flips_refuse_what_is_no_number(values: list[float]):
    with pytest.raises(InputError, match="`differences` must"):
        sign_flip_p_value(np.array(values))


def test_the_test_is_one_of_symmetry_and_logarithms_are_the_remedy():
    """Equal means, one arm log-normal, 8 seeds: rejected in 13 %, not in 5 %; log ratios of equal medians in 5 %."""
    generator = np.random.default_rng(0)
    skewed = np.exp(generator.standard_normal((20_000, 8)))
    plain = generator.standard_normal((20_000, 8))
    level = np.mean(np.asarray(sign_flip_p_value(skewed / math.exp(0.5) - 1 - 0.3 * plain)) <= 0.05)
    assert 0.12 < level < 0.145
    logs = np.mean(np.asarray(sign_flip_p_value(np.log(skewed) - 0.3 * plain)) <= 0.05)
    assert 0.043 < logs < 0.055


# --- Holm, seeds, and what could have been found ---


def test_holm_agrees_with_statsmodels():
    from statsmodels.stats.multitest import multipletests

    for p in ([0.01, 0.02, 0.03], [0.04, 0.001, 0.5], [0.9, 0.8, 0.02], [0.03]):
        np.testing.assert_allclose(holm(np.array(p)), multipletests(p, method="holm")[1])


def test_holm_counts_what_could_not_be_tested():
    adjusted = holm(np.array([math.nan, 0.01, 0.02]))
    assert math.isnan(adjusted[0])
    np.testing.assert_allclose(adjusted[1:], [0.03, 0.04])


def test_seeds_needed():
    assert [seeds_needed(m) for m in (1, 2, 3)] == [7, 8, 8]
    with pytest.raises(InputError, match="`num_contrasts`"):
        seeds_needed(0)


def test_what_could_have_been_found_is_found_in_four_of_five_studies():
    level = 0.05 / 3
    ratio = detectable_ratio(8, level)
    noise = np.random.default_rng(99).standard_normal((10_000, 8))
    power = np.mean(np.asarray(sign_flip_p_value(noise + ratio)) <= level)
    # Both this and the 4,000 studies behind the ratio are samples.
    assert abs(power - 0.8) < 4 * math.sqrt(0.8 * 0.2 * (1 / 10_000 + 1 / 4_000))


def test_nothing_can_be_found_with_too_few_seeds():
    assert detectable_ratio(6, 0.05 / 3) == math.inf
    assert detectable_difference(np.array([1.0]), 0.05) == math.inf
    assert detectable_difference(np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]), 0.05) == 0


# --- intervals ---


@pytest.mark.parametrize("num", [3, 5, 6, 8, 20])
def test_intervals_cover(num: int):
    """95 % within 4 standard errors for Student's; the bootstrap is allowed 2 points less at 6 to 8 seeds."""
    values = np.random.default_rng(num).standard_normal((1200, num))
    covers = [(found := mean_interval(row, num=1000)).low <= 0 <= found.high for row in values]
    slack = 0.02 if num >= 6 else 0.0
    error = math.sqrt(0.95 * 0.05 / len(values))
    assert 0.95 - 4 * error - slack < np.mean(covers) < 0.95 + 4 * error


def test_the_plain_bootstrap_would_not_cover():
    """What the expanded percentiles are for: at 8 seeds the plain ones cover 90 %."""
    generator = np.random.default_rng(2)
    covers = []
    for row in generator.standard_normal((1200, 8)):
        means = row[generator.integers(8, size=(1000, 8))].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        covers.append(low <= 0 <= high)
    assert np.mean(covers) < 0.92


@pytest.mark.parametrize("values", [[3.0], [2.0, 4.0]])
def test_below_three_seeds_there_is_no_interval(values: list[float]):
    found = mean_interval(np.array(values))
    assert (found.value, found.how) == (3.0, "none")
    assert math.isnan(found.low)
    assert not found.excludes_zero
    assert mean_interval(np.array([*values, 3.0, 3.5])).how == "Student t"
    with pytest.raises(InputError, match="`values`"):
        mean_interval(np.array([]))


# --- association ---


def test_partial_correlation_is_that_of_least_squares_residuals():
    generator = np.random.default_rng(3)
    x, y, z = generator.standard_normal((3, 6, 4))
    cells = np.tile(np.arange(4), 6)
    design = np.column_stack([np.eye(4)[cells], z.ravel()])

    def residual(v: np.ndarray) -> np.ndarray:
        return v.ravel() - design @ np.linalg.lstsq(design, v.ravel(), rcond=None)[0]

    expected = np.corrcoef(residual(x), residual(y))[0, 1]
    assert partial_association(x, y, z).correlation == pytest.approx(expected, rel=1e-9)


def test_permutation_of_seeds_by_hand():
    generator = np.random.default_rng(4)
    x, y = generator.standard_normal((2, 5, 3))
    x, y = x - x.mean(0), y - y.mean(0)
    seen = abs((x * y).sum())
    sums = [abs((x * y[list(order)]).sum()) for order in itertools.permutations(range(5))]
    expected = np.mean(np.array(sums) >= seen - 1e-12)
    assert partial_association(x, y).p_value == pytest.approx(expected)


def test_false_alarms_of_the_association_keep_the_level_where_rows_of_a_run_are_alike():
    """With rows of one seed nearly equal, a test that counts rows cries wolf; the permutation of seeds does not."""
    from scipy.stats import pearsonr

    generator = np.random.default_rng(5)
    alarms = naive = 0
    num = 600
    for _ in range(num):
        x, y = (
            generator.standard_normal((6, 1)) + 0.1 * generator.standard_normal((6, 10)) for _ in range(2)
        )
        alarms += partial_association(x, y, num_bootstrap=0).p_value <= 0.05
        naive += pearsonr(x.ravel(), y.ravel()).pvalue <= 0.05
    assert alarms / num < 0.05 + 4 * math.sqrt(0.05 * 0.95 / num)
    assert naive / num > 0.3


def test_lacking_rows_take_no_part():
    x, y = np.random.default_rng(6).standard_normal((2, 8, 4))
    holes = y.copy()
    holes[2, 1] = math.nan
    assert partial_association(x, holes).correlation != partial_association(x, y).correlation
    holes[:, 3] = math.nan
    holes[:2, 3] = 1e9  # a cell with two rows says nothing
    expected = partial_association(x[:, :3], holes[:, :3])
    assert partial_association(x, holes).correlation == pytest.approx(expected.correlation)
    assert partial_association(x, holes).num_cells == 3


def test_what_can_not_be_associated():
    x = np.random.default_rng(7).standard_normal((2, 4))
    assert math.isnan(partial_association(x, x).p_value)
    flat = np.ones((8, 3))
    assert math.isnan(partial_association(flat, np.random.default_rng(8).standard_normal((8, 3))).correlation)
    with pytest.raises(InputError, match="one shape"):
        partial_association(x, x[:, :2])


def test_the_interval_of_a_variance_ends_above_0_and_holds_its_mean():
    """Log-normal variances of 4 seeds: the interval of Student reaches below 0 often, that of logarithms never."""
    rows = np.exp(np.random.default_rng(1).standard_normal((1000, 4)))
    found = [positive_interval(row) for row in rows]
    assert min(each.low for each in found) > 0
    assert min(mean_interval(row).low for row in rows) < 0
    covers = np.mean([each.low < 1 < each.high for each in found])
    assert abs(covers - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 1000)
    below = positive_interval(np.array([0.5, -0.1, 0.2]))
    assert below.value == pytest.approx(0.2)
    assert below.how == "none"


def test_with_too_few_seeds_an_association_says_how_many_there_are():
    x, y = np.random.default_rng(0).normal(size=(2, 2, 5))
    found = partial_association(x, y)
    assert (found.num_blocks, found.num_cells) == (2, 0)
    assert association_sentence(found, "distance:kd-a", True, False).endswith("; 2 seeds have both.")
