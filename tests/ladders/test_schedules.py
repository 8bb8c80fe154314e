"""Schedules: exact ends, formulas, adapted schedules that reach their own goal, running moments."""

import math

import pytest
import torch

from thermograd.errors import InputError
from thermograd.ladders.adapted import RunningMoments, equal_length_schedule, equal_swap_schedule
from thermograd.ladders.schedules import (
    check_schedule,
    geometric_schedule,
    linear_schedule,
    power_schedule,
    sigmoid_schedule,
)
from thermograd.models.linear_gaussian import LinearGaussian

LADDER = torch.tensor([0.0, 0.1, 0.4, 1.0], dtype=torch.float64)
SCHEDULES = {
    "linear": linear_schedule,
    "power 0.1": lambda k: power_schedule(k, 0.1),
    "power 0.3": lambda k: power_schedule(k, 0.3),
    "power 5": lambda k: power_schedule(k, 5.0),
    "power 10": lambda k: power_schedule(k, 10.0),
    "sigmoid": lambda k: sigmoid_schedule(k, 8.0),
    "equal length": lambda k: equal_length_schedule(LADDER, torch.tensor([9.0, 3.0, 0.5, 0.0]), k),
    "equal swap": lambda k: equal_swap_schedule(LADDER, torch.tensor([0.2, 0.0, 0.9]), k),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_rungs", [2, 3, 11, 50])
def test_every_schedule_rises_from_exactly_0_to_exactly_1(name, num_rungs):
    t = SCHEDULES[name](num_rungs)
    check_schedule(t)
    assert t.dtype == torch.float64
    assert len(t) == num_rungs
    assert t[0] == 0
    assert t[-1] == 1
    assert (t.diff() > 0).all()


def test_power_schedule_is_k_over_n_to_the_power():
    expected = [(k / 10) ** 3 for k in range(11)]
    torch.testing.assert_close(power_schedule(11, 3.0), torch.tensor(expected, dtype=torch.float64))
    assert power_schedule(11, 0.3)[1] == pytest.approx(0.1**0.3, rel=1e-12)
    torch.testing.assert_close(linear_schedule(5), torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64))


def test_geometric_schedule_has_one_ratio():
    t = geometric_schedule(9, 1e-3)
    assert t[1] == pytest.approx(1e-3, rel=1e-12)
    ratios = t[2:] / t[1:-1]
    torch.testing.assert_close(ratios, torch.full_like(ratios, 1e3 ** (1 / 7)))
    torch.testing.assert_close(geometric_schedule(3, 0.2), torch.tensor([0, 0.2, 1], dtype=torch.float64))


def test_sigmoid_schedule_is_the_stretched_logistic_curve():
    t = sigmoid_schedule(8, 6.0)
    torch.testing.assert_close(t + t.flip(0), torch.ones_like(t))
    low, high = 1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))
    expected = [(1 / (1 + math.exp(-6 * (k / 7 - 0.5))) - low) / (high - low) for k in range(8)]
    torch.testing.assert_close(t, torch.tensor(expected, dtype=torch.float64))
    assert t[1] < 1 / 7  # it crowds the ends
    torch.testing.assert_close(sigmoid_schedule(8, 1e-3), linear_schedule(8), atol=1e-6, rtol=0)


def test_equal_length_is_exact_where_the_speed_is_linear():
    t = linear_schedule(4)
    new = equal_length_schedule(t, (1 + 3 * t) ** 2, 6)
    length = new + 1.5 * new**2  # integral of 1 + 3t
    torch.testing.assert_close(length.diff(), torch.full((5,), 0.5, dtype=torch.float64))


def test_equal_length_on_a_twin_takes_steps_of_equal_length():
    twin = LinearGaussian.random(3, 20, 0.3, 0.5, seed=1)
    x = twin.sample_images(4, torch.Generator().manual_seed(0))
    t = linear_schedule(12)
    for _ in range(20):
        t = equal_length_schedule(t, twin.variance_log_likelihood(x, t).mean(-1).detach())
    variance = twin.variance_log_likelihood(x, t).mean(-1).detach().sqrt()
    steps = t.diff() * (variance[1:] + variance[:-1]) / 2
    torch.testing.assert_close(steps, steps.mean().expand(11), rtol=1e-3, atol=0)
    even = linear_schedule(12)
    speed = twin.variance_log_likelihood(x, even).mean(-1).detach().sqrt()
    assert float((even.diff() * speed[:-1]).max()) > 5 * float(steps.max())


def test_equal_swap_reaches_equal_rejection_rates():
    barrier = lambda t: 2.5 * t**0.4  # noqa: E731
    t = linear_schedule(9)
    for _ in range(40):
        t = equal_swap_schedule(t, 1 - barrier(t).diff().clamp(max=1))
    torch.testing.assert_close(
        barrier(t).diff(), torch.full((8,), 2.5 / 8, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_equal_swap_cuts_known_rejections():
    t = torch.tensor([0, 0.5, 1], dtype=torch.float64)
    new = equal_swap_schedule(t, torch.tensor([0.25, 0.75]), 5)  # rejections 0.75 and 0.25
    torch.testing.assert_close(new, torch.tensor([0, 1 / 6, 1 / 3, 0.5, 1], dtype=torch.float64))
    skipped = equal_swap_schedule(
        t, torch.tensor([1.0, 0.5]), 3
    )  # no rung in an interval that rejects nothing
    torch.testing.assert_close(skipped, torch.tensor([0, 0.75, 1], dtype=torch.float64))


def test_running_moments_of_one_update_are_its_own_within_image_moments():
    """The spread between images must not count: images differ by far more than one image's draws."""
    draws = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    offsets = torch.tensor([0.0, 100.0, -300.0, 7.0], dtype=torch.float64)
    moments = RunningMoments(3, decay=0.9)
    moments.update(draws + offsets)
    torch.testing.assert_close(moments.mean, draws.mean((1, 2)) + offsets.mean())
    torch.testing.assert_close(moments.variance, draws.var(1).mean(-1))


def test_running_moments_forget_exponentially():
    seeds = [torch.Generator().manual_seed(s) for s in range(4)]
    updates = [torch.randn(2, 3, 4, dtype=torch.float64, generator=seed) for seed in seeds]
    moments = RunningMoments(2, decay=0.7)
    for update in updates:
        moments.update(update)
    weights = [0.3 * 0.7 ** (3 - n) for n in range(4)]
    expected = sum(w * u.var(1).mean(-1) for w, u in zip(weights, updates, strict=True)) / sum(weights)
    torch.testing.assert_close(moments.variance, expected)
    assert float(moments.weight) == pytest.approx(1 - 0.7**4)


def test_running_moments_take_a_trace_of_single_chains():
    trace = torch.randn(6, 3, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moments = RunningMoments(3, decay=0.5)
    moments.update(trace)
    torch.testing.assert_close(moments.variance, trace.var(0).mean((1, 2)))


def test_running_moments_survive_a_checkpoint_and_a_move():
    moments = RunningMoments(3, decay=0.5)
    moments.update(torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)))
    restored = RunningMoments(3, decay=0.5)
    restored.load(moments.tensors())
    more = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    for each in (moments, restored):
        each.update(more)
    assert torch.equal(moments.variance, restored.variance)
    assert torch.equal(moments.mean, restored.mean)
    old, new = linear_schedule(3), torch.tensor([0, 0.25, 1], dtype=torch.float64)
    before = moments.variance.clone()
    moments.move(old, new)
    torch.testing.assert_close(moments.variance, torch.stack([before[0], before[:2].mean(), before[2]]))


BAD_SCHEDULES = [
    ([0.0, 0.5, 0.4, 1.0], "must rise, got 0.4 after 0.5 at rung 2"),
    ([0.0, 0.5, 0.5, 1.0], "must rise, got 0.5 after 0.5"),
    ([0.0, 0.0, 1.0], "must rise, got 0.0 after 0.0 at rung 1"),
    ([0.0, 0.5, 1.0, 1.0], "must rise, got 1.0 after 1.0 at rung 3"),
    ([0.1, 1.0], "start at exactly 0, got 0.1"),
    ([0.0, 0.9], "end at exactly 1, got 0.9"),
    ([0.0, math.nan, 1.0], "finite, got nan at rung 1"),
    ([0.0, math.inf], "finite, got inf"),
    ([0.0], "shape"),
    ([[0.0, 1.0]], "shape"),
]


@pytest.mark.parametrize(("values", "message"), BAD_SCHEDULES)
def test_bad_schedules_are_named(values, message):
    with pytest.raises(InputError, match="inverse_temperatures.*" + message):
        check_schedule(torch.tensor(values, dtype=torch.float64))


BAD_CALLS = [
    (lambda: power_schedule(1, 1.0), "`num_rungs` must be at least 2, got 1"),
    (lambda: power_schedule(5, 0.0), "`power` must be positive, got 0.0"),
    (lambda: power_schedule(5, math.inf), "`power` must be positive, got inf"),
    (lambda: power_schedule(11, 400.0), "`power` must keep 11 rungs apart.*400"),
    (lambda: geometric_schedule(2, 0.1), "`num_rungs` must be at least 3"),
    (lambda: geometric_schedule(5, 1.0), "`smallest` must lie between 0 and 1, got 1.0"),
    (lambda: sigmoid_schedule(5, -1.0), "`steepness` must be positive, got -1.0"),
    (lambda: sigmoid_schedule(5, 1e3), "`steepness` must keep 5 rungs apart"),
    (
        lambda: equal_length_schedule(LADDER, torch.tensor([1.0, -2.0, 1, 1])),
        "`variances`.*got -2.0 at rung 1",
    ),
    (lambda: equal_length_schedule(LADDER, torch.tensor([1.0, math.nan, 1, 1])), "`variances`.*got nan"),
    (lambda: equal_length_schedule(LADDER, torch.zeros(4)), "`variances` must show some distance"),
    (lambda: equal_length_schedule(LADDER, torch.ones(3)), r"`variances` must have shape \(4,\), got \(3,\)"),
    (lambda: equal_length_schedule(LADDER.flip(0), torch.ones(4)), "`inverse_temperatures` must start"),
    (
        lambda: equal_swap_schedule(LADDER, torch.tensor([0.5, 1.5, 0.1])),
        "`swap_rates` must be at most 1, got 1.5",
    ),
    (lambda: equal_swap_schedule(LADDER, torch.ones(3)), "`swap_rates` must show some distance"),
    (lambda: RunningMoments(3, 1.0), r"`decay` must lie in \[0, 1\), got 1.0"),
    (
        lambda: RunningMoments(3, 0.9).update(torch.zeros(3, 1, 8)),
        "`log_likelihood` must hold at least 2 draws",
    ),
    (lambda: RunningMoments(3, 0.9).update(torch.zeros(4, 2, 8)), "`log_likelihood` must have shape"),
    (
        lambda: RunningMoments(3, 0.9).update(torch.full((3, 2, 8), math.nan)),
        "`log_likelihood` must be finite",
    ),
    (lambda: RunningMoments(3, 0.9).load({"weight": torch.zeros(())}), "`mean` must have shape"),
    (lambda: RunningMoments(3, 0.9).move(LADDER, LADDER), "must have 3 rungs, got 4"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_rungs_that_float32_can_not_tell_apart_are_refused():
    t = sigmoid_schedule(11, 30.0)
    assert (t.float().diff() > 0).all()
    with pytest.raises(InputError, match="`steepness` must keep 11 rungs apart in float32, got 60"):
        sigmoid_schedule(11, 60.0)  # float64 could
