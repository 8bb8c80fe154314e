"""Quadrature: weights, degrees of exactness, known integrals, bounds."""

import math

import pytest
import torch

from thermograd.errors import InputError
from thermograd.ladders.quadrature import (
    corrected_trapezoid,
    left_sum,
    left_weights,
    right_sum,
    right_weights,
    trapezoid,
    trapezoid_weights,
)
from thermograd.ladders.schedules import geometric_schedule, linear_schedule, power_schedule

RULES = [left_weights, right_weights, trapezoid_weights]
SCHEDULES = [linear_schedule(2), power_schedule(11, 0.1), power_schedule(7, 5.0), geometric_schedule(6, 1e-4)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("t", SCHEDULES)
def test_weights_of_every_rule_sum_to_one(rule, t):
    """Catches the peer whose weights sum to 1 + Δt_1."""
    weights = rule(t)
    assert weights.shape == t.shape
    assert (weights >= 0).all()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("t", SCHEDULES)
def test_trapezoid_weights_average_t_to_one_half(t):
    assert float((trapezoid_weights(t) * t).sum()) == pytest.approx(0.5, abs=1e-14)


@pytest.mark.parametrize(
    ("power", "first", "last"), [(0.1, 0.397, None), (3.0, 0.0005, 0.135), (10.0, None, 0.326)]
)
def test_mass_that_a_power_puts_on_the_ends(power, first, last):
    weights = trapezoid_weights(power_schedule(11, power))
    if first is not None:
        assert round(float(weights[0]), len(str(first)) - 2) == first
    if last is not None:
        assert round(float(weights[-1]), 3) == last


def test_sums_by_hand():
    """Catches the peer whose trapezoid adds the running total."""
    t = torch.tensor([0, 0.2, 1.0], dtype=torch.float64)
    values = torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)
    assert float(left_sum(t, values)) == pytest.approx(0.2 * 1 + 0.8 * 3)
    assert float(right_sum(t, values)) == pytest.approx(0.2 * 3 + 0.8 * 10)
    assert float(trapezoid(t, values)) == pytest.approx(0.2 * 2 + 0.8 * 6.5)


@pytest.mark.parametrize("t", SCHEDULES)
def test_degrees_of_exactness(t):
    def error(rule, degree, *slopes):
        return abs(float(rule(t, t**degree, *slopes)) - 1 / (degree + 1))

    assert error(left_sum, 0) < 1e-14
    assert error(right_sum, 0) < 1e-14
    assert error(trapezoid, 1) < 1e-14
    for degree in (0, 1, 2, 3):
        slope = degree * t ** max(degree - 1, 0)
        assert error(corrected_trapezoid, degree, slope) < 1e-14
    # One degree more is not exact, so the tests above can fail.
    assert error(left_sum, 1) > 1e-3
    assert error(right_sum, 1) > 1e-3
    assert error(trapezoid, 2) > 1e-4
    assert error(corrected_trapezoid, 4, 4 * t**3) > 1e-6


def test_errors_fall_at_their_orders():
    def errors(num_intervals):
        t = linear_schedule(num_intervals + 1)
        truth = math.e - 1
        return (
            abs(float(left_sum(t, t.exp())) - truth),
            abs(float(trapezoid(t, t.exp())) - truth),
            abs(float(corrected_trapezoid(t, t.exp(), t.exp())) - truth),
        )

    for coarse, fine, ratio in zip(errors(20), errors(40), (2, 4, 16), strict=True):
        assert coarse / fine == pytest.approx(ratio, rel=0.03)


@pytest.mark.parametrize("t", SCHEDULES)
def test_left_and_right_sums_bound_a_rising_integrand(t):
    rising = torch.log(t + 0.01)
    truth = 1.01 * math.log(1.01) - 0.01 * math.log(0.01) - 1
    assert float(left_sum(t, rising)) < truth < float(right_sum(t, rising))


def test_axes_after_the_rungs_are_kept_apart():
    t = power_schedule(6, 2.0)
    values = torch.randn(6, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slopes = torch.randn(6, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for rule in (left_sum, right_sum, trapezoid):
        torch.testing.assert_close(rule(t, values)[1, 2], rule(t, values[:, 1, 2]))
    whole = corrected_trapezoid(t, values, slopes)
    assert whole.shape == (2, 3)
    torch.testing.assert_close(whole[1, 2], corrected_trapezoid(t, values[:, 1, 2], slopes[:, 1, 2]))
    assert trapezoid(t, values.float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: trapezoid_weights(torch.tensor([0.0, 0.5])), "`inverse_temperatures` must end at exactly 1"),
        (lambda: left_sum(linear_schedule(3), torch.zeros(4, 2)), r"`values` must have 3 rungs.*\(4, 2\)"),
        (lambda: trapezoid(linear_schedule(3), torch.tensor(1.0)), "`values` must have 3 rungs"),
        (
            lambda: corrected_trapezoid(linear_schedule(3), torch.zeros(3, 2), torch.zeros(3)),
            r"`variances` must have the shape of `values`, \(3, 2\), got \(3,\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
