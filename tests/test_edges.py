"""Edges of the core at which planted faults once went unnoticed; each test fails with its fault put in."""

import pytest
import torch

from thermograd.errors import InputError
from thermograd.evidence.thermodynamic import thermodynamic_integration
from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.moments import _subsets, jackknife
from thermograd.gradients.reference import ReferenceSettings
from thermograd.gradients.rules import Weights
from thermograd.ladders.record import LadderTrace
from thermograd.ladders.schedules import check_schedule
from thermograd.models.linear_gaussian import LinearGaussian
from thermograd.samplers.mala import MALA
from thermograd.samplers.target import Target
from thermograd.testing.exact_ladders import SCHEDULE, exact_ladder, make_case, seeded


@pytest.mark.parametrize(("num_batches", "has_interval"), [(1, False), (2, False), (3, True), (4, True)])
def test_an_interval_needs_three_batches(num_batches: int, has_interval: bool):
    subsets = _subsets(num_batches, torch.zeros(1, dtype=torch.float64))
    assert subsets.shape == (num_batches + 1, num_batches)
    values = torch.arange(1.0, num_batches + 2, dtype=torch.float64)
    estimate = jackknife(values)
    assert bool(torch.isfinite(estimate.low)) == bool(torch.isfinite(estimate.high)) == has_interval
    assert estimate.value == 1.0


class Bounded(LinearGaussian):
    """A model whose energy is not a number beyond 1 in any direction, as a network that overflows."""

    def energy(self, z: torch.Tensor) -> torch.Tensor:
        outside = (z.abs() > 1).any(-1)
        return torch.where(outside, torch.nan, super().energy(z))


def test_a_proposal_whose_density_is_not_a_number_is_rejected():
    twin = Bounded.random(2, 3, 0.7, 0.6, seed=1)
    x = twin.decode(torch.zeros(1, 2, dtype=torch.float64)).detach()
    target, kernel = Target(twin, x), MALA(1.5)
    state = kernel.init(target, torch.zeros(400, 1, 2, dtype=torch.float64))
    num_rejected = 0
    for step in range(3):
        before = state.position
        state, info = kernel.step(target, state, torch.tensor(0.0, dtype=torch.float64), seeded(step))
        assert (state.position.abs() <= 1).all()
        outside = (info.proposal.position.abs() > 1).any(-1)
        assert (info.acceptance[outside] == 0).all()
        assert torch.equal(state.position[outside], before[outside])
        num_rejected += int(outside.sum())
    assert num_rejected > 100


@pytest.mark.parametrize(("num_rungs", "is_refused"), [(1, True), (2, False), (3, False)])
def test_a_reference_needs_two_rungs(num_rungs: int, is_refused: bool):
    if is_refused:
        with pytest.raises(InputError, match=f"`num_rungs` must be at least 2, got {num_rungs}"):
            ReferenceSettings(num_rungs=num_rungs)
    else:
        assert ReferenceSettings(num_rungs=num_rungs).num_rungs == num_rungs


@pytest.mark.parametrize(
    ("values", "rung"),
    [([0.0, 0.0, 1.0], 1), ([0.0, -0.1, 1.0], 1), ([0.0, 0.5, 0.5, 1.0], 2), ([0.0, 1.0, 1.0], 2)],
)
def test_a_schedule_rises_from_its_first_rung_on(values: list[float], rung: int):
    with pytest.raises(InputError, match=rf"must rise, got .* at rung {rung}\."):
        check_schedule(torch.tensor(values, dtype=torch.float64))


def test_two_rungs_leave_half_of_their_bracket_as_quadrature_error():
    """The right sum less the left sum, over 2: with rungs 0 and 1 alone there is no coarser schedule to compare."""
    draws = torch.tensor([[-7.0, -3.0], [-9.0, -1.0]] * 4, dtype=torch.float64).view(8, 2, 1, 1)
    trace = LadderTrace(torch.tensor([0.0, 1.0], dtype=torch.float64), draws, draws)
    found = thermodynamic_integration(trace, "corrected")
    assert found.lower is not None
    assert found.upper is not None
    torch.testing.assert_close(found.lower, torch.tensor([-8.0], dtype=torch.float64))
    torch.testing.assert_close(found.upper, torch.tensor([-2.0], dtype=torch.float64))
    torch.testing.assert_close(found.quadrature_error, torch.tensor([3.0], dtype=torch.float64))


def test_a_rung_on_which_some_images_have_no_weight_still_counts():
    case = make_case("linear", num_images=2)
    ladder = exact_ladder(case, SCHEDULE, 2, 1)
    weights = torch.rand(ladder.log_likelihood.shape, generator=seeded(2), dtype=torch.float64)
    weights[0, :, 0] = 0.0  # of one image alone
    weights[1] = 0.0  # a rung without any weight
    nothing = torch.zeros_like(weights)
    found = learning_gradient(case.model, case.x, ladder, Weights(weights, nothing, None))
    value = (weights * case.model.log_likelihood(case.x, ladder.latents)).sum()
    parameters = dict(case.model.named_parameters())
    truth = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, truth, strict=True):
        expected = torch.zeros_like(parameters[name]) if gradient is None else gradient
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12)
