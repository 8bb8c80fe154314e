"""The multistate equations: solved to the end on all kinds of draws, and what their weights are worth on exact ones."""

import math

import pytest
import torch
from torch import Tensor

from thermograd.errors import InputError
from thermograd.gradients import multistate
from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.multistate import TOLERANCE, solve_multistate, state_weights
from thermograd.gradients.rules import Weights
from thermograd.ladders.sampler import Bottom, LadderSampler
from thermograd.ladders.schedules import geometric_schedule, power_schedule
from thermograd.models.linear_gaussian import LinearGaussian
from thermograd.models.separated_modes import separated_modes
from thermograd.samplers.mala import MALA
from thermograd.testing.exact_ladders import seeded


def wild(num_rungs: int, num_chains: int, scale: float, seed: int, ordered: bool) -> Tensor:
    """Return log-likelihoods (K, M, 50) of any scale per image, in the order of the rungs or in none."""
    generator = seeded(seed)
    shape = (num_rungs, num_chains, 50)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    if ordered:
        values = values + 3 * torch.linspace(0, 1, num_rungs).view(-1, 1, 1)
    return scale * values * torch.rand(50, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 30.0, 1e3, 1e5])
@pytest.mark.parametrize(("num_rungs", "num_chains"), [(1, 3), (2, 1), (3, 4), (11, 2)])
def test_the_equations_are_solved_whatever_the_draws(num_rungs, num_chains, scale, ordered, monkeypatch):
    """Within 8 rounds, from draws of one temperature to rungs that are 100,000 nats apart."""
    monkeypatch.setattr(multistate, "MAX_ROUNDS", 8)
    values = wild(num_rungs, num_chains, scale, 0, ordered) - 1e4
    t = power_schedule(num_rungs, 1.0) if num_rungs > 1 else torch.ones(1).double()
    solution = solve_multistate(values, t)
    rounding = 16 * torch.finfo(torch.float64).eps * float(values.amax() - values.amin())
    assert float(solution.residual.max()) < TOLERANCE + rounding
    mixture = torch.einsum("k,nmb->knmb", t, values) - solution.log_partition[:, None, None]
    shares = mixture.softmax(0).sum((1, 2)) / num_chains  # by the definition
    torch.testing.assert_close(shares, torch.ones_like(shares), rtol=0, atol=TOLERANCE + rounding)


def test_two_rungs_are_bennetts_acceptance_ratio():
    """Against a root found by scipy: sum_n 1 / (1 + exp(f - l_n)) = M."""
    from scipy.optimize import brentq
    from scipy.special import expit

    values = wild(2, 5, 4.0, 1, True) - 1000
    found = solve_multistate(values, torch.tensor([0.0, 1.0])).log_partition[1]
    for i in range(50):
        draws = values[:, :, i].flatten().numpy()
        root = brentq(lambda f, draws=draws: expit(draws - f).sum() - 5, -1100, -900, xtol=1e-12)
        assert float(found[i]) == pytest.approx(root, abs=1e-8)


def test_temperatures_of_each_image_solve_each_image_by_itself():
    values = wild(4, 3, 5.0, 2, True)
    t = torch.rand(4, 50, generator=seeded(3), dtype=torch.float64).sort(0).values
    together = state_weights(values, t, (1.0,))[0]
    for i in (0, 17, 49):
        alone = state_weights(values[:, :, i : i + 1], t[:, i], (1.0,))[0]
        torch.testing.assert_close(together[:, :, i : i + 1], alone, rtol=1e-8, atol=1e-12)
    same = state_weights(values, t[:, :1].expand(-1, 50), (1.0,))[0]
    torch.testing.assert_close(same, state_weights(values, t[:, 0], (1.0,))[0])
    with pytest.raises(InputError, match=r"^`inverse_temperatures` must have shape \(4,\) or \(4, 50\)"):
        solve_multistate(values, t[:3])


def test_weights_are_shares_and_the_rung_t_0_is_not_needed():
    values = wild(5, 2, 3.0, 4, True)
    t = power_schedule(5, 2.0)
    solution = solve_multistate(values, t)
    prior, posterior = state_weights(values.float(), t, (0.0, 1.0))
    assert posterior.dtype == torch.float32
    for weights, rung in ((prior, 0), (posterior, -1)):
        assert float(weights.min()) >= 0
        torch.testing.assert_close(weights.sum((0, 1)), torch.ones(50))
        torch.testing.assert_close(
            weights.double(), solution.log_shares[rung].exp() / 2, rtol=1e-5, atol=1e-7
        )
    without = state_weights(values[1:], t[1:], (0.0,))[0]
    torch.testing.assert_close(without.sum((0, 1)), torch.ones(50).double())


def test_the_overlap_says_which_rungs_share_draws():
    t = torch.tensor([0.0, 0.5, 1.0])
    apart = solve_multistate(torch.tensor([-1e4, -100.0, 0.0]).view(3, 1, 1).double(), t).overlap[..., 0]
    torch.testing.assert_close(apart, torch.eye(3).double(), atol=1e-8, rtol=0)
    one = solve_multistate(torch.zeros(3, 4, 1).double(), t).overlap[..., 0]
    torch.testing.assert_close(one, torch.full((3, 3), 1 / 3).double())
    rows = solve_multistate(wild(5, 2, 3.0, 4, True), power_schedule(5, 2.0)).overlap.sum(1)
    torch.testing.assert_close(rows, torch.ones(5, 50).double())


def validation_twin() -> tuple[LinearGaussian, Tensor]:
    twin = LinearGaussian.random(16, 256, 0.3, 0.08, seed=0)
    return twin, twin.sample_images(64, seeded(1))


def test_log_partitions_are_those_of_the_twin():
    twin, x = validation_twin()
    t = power_schedule(11, 3.0)
    z = twin.sample_power_posterior(x, t, 40, seeded(2))
    with torch.no_grad():
        found = solve_multistate(twin.log_likelihood(x, z), t).log_partition[-1]
        difference = found - twin.log_evidence(x)
    error = float(difference.std()) / math.sqrt(64)
    assert error < 0.1
    assert abs(float(difference.mean())) < 4 * error


@pytest.mark.parametrize(
    ("name", "schedule", "stated"),
    [
        ("p = 3", power_schedule(11, 3.0), 4.8),
        ("p = 0.3", power_schedule(11, 0.3), 1.31),
        ("[0.7, 1]", torch.linspace(0.7, 1, 11).double(), 1.07),
    ],
)
def test_variance_over_maximum_likelihood_with_as_many_exact_draws(name, schedule, stated):
    """The gradient of W from 11 rungs x 2 chains, over the closed form for 22 draws at t = 1; and it has no bias."""
    twin, x = validation_twin()
    exact = twin.evidence_gradient(x)["weight"]
    likelihood = float(twin.posterior_gradient_variance(x)["weight"].sum()) / 22
    generator, squares = seeded(3), []
    for _ in range(60):
        z = twin.sample_power_posterior(x, schedule, 2, generator)
        with torch.no_grad():
            weights = state_weights(twin.log_likelihood(x, z), schedule, (1.0,))[0] / len(x)
        residual = (x - twin.decode(z)).flatten(0, 1)
        gradient = torch.einsum("nb,nbp,nbd->pd", weights.flatten(0, 1), residual, z.flatten(0, 1))
        squares.append((gradient / twin.noise_std**2 - exact).square().sum() / likelihood)
    ratios = torch.stack(squares)
    error = float(ratios.std()) / math.sqrt(len(ratios))
    assert error < 0.05 * stated
    assert abs(float(ratios.mean()) - stated) < 4 * error + 0.02 * stated, (
        f"{ratios.mean():.3f} +- {error:.3f}"
    )


def test_separated_modes_bias_maximum_likelihood_and_not_multistate():
    """From cold chains at equal evaluations, 4,016 per image: 16 chains at t = 1, or 8 rungs x 2 that exchange."""
    model, twin, x = separated_modes(8)
    names = model.parameter_groups()["generator"]
    exact = twin.evidence_gradient(x)

    def error(t: Tensor, num_chains: int, exchange: bool, bottom: Bottom) -> float:
        generator = seeded(0)
        kernel = MALA(torch.full((len(t), 8), 0.1, dtype=torch.float64))
        sampler = LadderSampler(t, kernel, num_chains, exchange, bottom)
        sampler, state = sampler.adapt(model, x, sampler.start(model, x, generator), 50, generator)
        prior = twin.sample_prior(4, generator)
        _, info, trace = sampler.trace(model, x, state, 200, generator, prior, scores=True)
        assert info.num_evaluations == 4016
        draws = trace.as_draws()
        (weights,) = state_weights(draws.log_likelihood, draws.inverse_temperatures, (1.0,))
        found = learning_gradient(model, x, draws, Weights(weights / 8, torch.zeros_like(weights), None))
        square = sum(float((found[name] - exact[name]).square().sum()) for name in names)
        return math.sqrt(square / sum(float(exact[name].square().sum()) for name in names))

    assert error(geometric_schedule(8, 0.003), 2, True, "chains") < 0.2
    assert error(torch.tensor([0.0, 1.0]).double(), 16, False, "shared") > 1.5
