"""Diagnostics of chains, against closed forms of autoregressions and known failures."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from thermograd.errors import InputError
from thermograd.ladders.diagnostics import (
    effective_sample_size,
    ladder_warnings,
    monte_carlo_error,
    quadrature_warnings,
    r_hat,
)
from thermograd.ladders.record import LadderInfo, LadderState, LadderTrace
from thermograd.samplers.target import ChainState


def autoregression(coefficient: float, num_steps: int, *shape: int, seed: int = 0) -> Tensor:
    """Return stationary chains x' = a x + noise of variance 1, (S, *shape)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_steps, *shape, generator=generator, dtype=torch.float64)
    x = [noise[0]]
    for step in range(1, num_steps):
        x.append(coefficient * x[-1] + math.sqrt(1 - coefficient**2) * noise[step])
    return torch.stack(x)


@pytest.mark.parametrize("coefficient", [-0.3, 0.0, 0.5, 0.9])
def test_effective_sample_size_of_an_autoregression(coefficient):
    """It tends to S M (1 - a) / (1 + a); the mean over 200 traces is held to 5 %."""
    size = effective_sample_size(autoregression(coefficient, 2000, 4, 200))
    wanted = 2000 * 4 * (1 - coefficient) / (1 + coefficient)
    assert abs(float(size.mean()) / wanted - 1) < 0.05


@pytest.mark.parametrize("coefficient", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("num_steps", "num_chains"), [(400, 1), (200, 4)])
def test_monte_carlo_error_covers_the_mean(coefficient, num_steps, num_chains):
    """The z-scores of 2,000 means have standard deviation 1; without autocorrelation they would have 4.4."""
    trace = autoregression(coefficient, num_steps, num_chains, 2000, seed=1)
    z = trace.mean((0, 1)) / monte_carlo_error(trace)
    assert 0.9 < float(z.std()) < 1.15


def test_monte_carlo_error_equals_the_formula():
    trace = autoregression(0.5, 4000, 2, 1, seed=2)
    tau = 3.0
    assert float(monte_carlo_error(trace)) == pytest.approx(math.sqrt(tau / 8000), rel=0.1)


def test_few_steps_count_chains():
    draws = torch.randn(1, 50, 3, generator=torch.Generator().manual_seed(3))
    wanted = draws[0].double().std(0) / math.sqrt(50)
    torch.testing.assert_close(monte_carlo_error(draws), wanted)


def test_free_axes_do_not_mix():
    trace = autoregression(0.6, 100, 3, 2, 5, seed=4)
    for function in (effective_sample_size, monte_carlo_error, r_hat):
        whole = function(trace)
        assert whole.shape == (2, 5)
        torch.testing.assert_close(whole[1, 3], function(trace[..., 1, 3]))


def test_r_hat_of_good_chains_is_near_one():
    values = r_hat(autoregression(0.3, 1000, 4, 100, seed=5))
    assert values.max() < 1.02
    assert values.min() > 0.995


def test_r_hat_sees_each_failure():
    good = autoregression(0.0, 500, 4, seed=6)
    shifted, wide, drifting = good.clone(), good.clone(), good.clone()
    shifted[:, 0] += 2.0
    wide[:, 0] *= 5.0
    drifting += torch.linspace(-2, 2, 500, dtype=torch.float64).unsqueeze(-1)
    for bad in (shifted, wide, drifting):
        assert r_hat(bad) > 1.1
    assert r_hat(drifting[:, :1]) > 1.1  # one chain disagrees with itself


def test_r_hat_depends_on_ranks_alone():
    """Cauchy tails have no variance, and break the R-hat without ranks."""
    trace = torch.tan(
        math.pi * (torch.rand(500, 4, generator=torch.Generator().manual_seed(7)).double() - 0.5)
    )
    assert r_hat(trace) < 1.02


def test_r_hat_of_equal_values_shares_ranks():
    """Rejected steps repeat values; an order among ties would look like a drift."""
    trace = torch.arange(2.0).repeat_interleave(2).repeat(100).view(-1, 1).repeat(1, 2)
    assert r_hat(trace) < 1.02


def test_chains_that_never_move():
    stuck = torch.tensor([0.0, 1.0]).expand(20, 2)
    assert r_hat(stuck) == math.inf
    assert effective_sample_size(stuck) == pytest.approx(40 / 12)  # as ArviZ has it
    constant = torch.zeros(20, 2)
    assert r_hat(constant) == 1
    assert effective_sample_size(constant) == 40
    assert monte_carlo_error(constant) == 0


@pytest.mark.parametrize(
    ("function", "trace", "message"),
    [
        (effective_sample_size, torch.zeros(3, 2), "`trace` must have at least 4 steps, got 3"),
        (r_hat, torch.zeros(3, 2), "`trace` must have at least 4 steps, got 3"),
        (r_hat, torch.zeros(8), r"`trace` must have shape \(S, M, \.\.\.\), got \(8,\)"),
        (monte_carlo_error, torch.zeros(3, 1), "`trace` must have at least 4 steps or 2 chains"),
        (monte_carlo_error, torch.full((9, 2), math.nan), "`trace` must be finite"),
    ],
)
def test_bad_input(function, trace, message):
    with pytest.raises(InputError, match=message):
        function(trace)


def trace_of(values: Tensor) -> LadderTrace:
    return LadderTrace(torch.linspace(0, 1, values.shape[1], dtype=torch.float64), values, values)


def info_of(acceptance: Tensor, swap_rates: Tensor | None = None) -> LadderInfo:
    num_rungs = len(acceptance)
    t = torch.linspace(0, 1, num_rungs, dtype=torch.float64)
    nowhere = torch.zeros(num_rungs, 1, 1)
    state = LadderState(ChainState(*[nowhere] * 6), 0, 0.0)
    return LadderInfo(
        state, t, acceptance.unsqueeze(1), acceptance, acceptance, 0.0, nowhere.bool(), swap_rates=swap_rates
    )


MOVING = torch.full((3,), 0.5)


def test_ladder_warnings_name_what_is_wrong():
    good = autoregression(0.0, 200, 3, 2, 2, seed=8)
    assert ladder_warnings(info_of(MOVING, torch.tensor([0.3, 0.2])), trace_of(good)) == []
    bad = good.clone()
    bad[:, 1, 0, 1] += 3
    warnings = ladder_warnings(info_of(MOVING, torch.tensor([0.3, 0.01])), trace_of(bad))
    assert [each.kind for each in warnings] == ["r-hat", "swap-rate"]
    assert warnings[0].text.startswith("R-hat exceeds 1.1 for 16.7% of rungs and images (worst")
    assert "t = 0.5" in warnings[0].text
    assert warnings[1].text.startswith("swap rate 0.010 between t = 0.5 and 1 is below 0.05")


def test_a_chain_that_never_moves_is_told():
    """Its R-hat is 1 and its error 0, so nothing else would tell."""
    trace = autoregression(0.0, 20, 3, 1, 4, seed=9)
    trace[:, 2, 0, 1] = 7.0
    by_chance = info_of(torch.tensor([0.2, 0.2, 0.2]))  # 4 x 0.8^19 chains stand still by chance
    assert not [each for each in ladder_warnings(by_chance, trace_of(trace)) if each.kind == "stuck-chains"]
    assert float(r_hat(trace[:, 2])[1]) == 1
    assert float(monte_carlo_error(trace[:, 2])[1]) == 0
    (caution,) = [each for each in ladder_warnings(None, trace_of(trace)) if each.kind == "stuck-chains"]
    assert caution.text.startswith("1 of 4 chains never moved at t = 1,")


def test_low_acceptance_is_told():
    (caution,) = ladder_warnings(info_of(torch.tensor([0.6, 0.04, 0.3])))
    assert caution.text.startswith("acceptance 0.040 at t = 0.5 is below 0.05")


def test_quadrature_warning():
    small, large = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.2, 0.4, 0.6])
    assert quadrature_warnings(large, small) == []
    (caution,) = quadrature_warnings(small, large)
    assert caution.text.startswith("quadrature error (0.4 nats) exceeds Monte Carlo error (0.2 nats)")


@pytest.mark.parametrize(("trips", "steps", "warned"), [(0, 200, True), (1, 200, False), (0, 8, False)])
def test_a_ladder_without_round_trips_says_so(trips: int, steps: int, warned: bool):
    """A visit of a few steps, which no round trip fits in, says nothing."""
    good = autoregression(0.0, steps, 3, 2, 2, seed=8)
    info = replace(
        info_of(MOVING, torch.tensor([0.3, 0.2])), round_trips=torch.tensor([[trips, trips], [0, 0]])
    )
    kinds = [caution.kind for caution in ladder_warnings(info, trace_of(good))]
    assert ("no-mixing" in kinds) == warned
    one = replace(info, round_trips=torch.tensor([[0, 3], [0, 0]]))
    assert ("no-mixing" in [each.kind for each in ladder_warnings(one, trace_of(good))]) == (steps == 200)
