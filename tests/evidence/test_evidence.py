"""The evidence: every method against exact values, on exact draws and on chains of its own."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from thermograd.config.resolve import validate
from thermograd.errors import InputError
from thermograd.evidence import (
    METHODS,
    Estimate,
    Evidence,
    EvidenceSettings,
    annealed_importance_sampling,
    estimate_evidence,
    log_partition,
    reverse_annealing,
    stepping_stone,
    thermodynamic_integration,
)
from thermograd.evidence.annealing import _spread_warnings, anneal
from thermograd.evidence.control_variates import controlled, stein_functions
from thermograd.evidence.modes import find_modes, mixture_at_modes
from thermograd.evidence.particles import settle
from thermograd.evidence.prior import run_prior
from thermograd.evidence.replicates import Replicates, combine
from thermograd.evidence.result import log_mean_exp, quantile
from thermograd.evidence.rungs import disagreement
from thermograd.evidence.thermodynamic import _quadrature_error
from thermograd.ladders.adapted import equal_length_schedule
from thermograd.ladders.diagnostics import monte_carlo_error
from thermograd.ladders.quadrature import (
    corrected_trapezoid,
    left_sum,
    right_sum,
    trapezoid,
    trapezoid_weights,
)
from thermograd.ladders.record import LadderTrace
from thermograd.ladders.schedules import linear_schedule, power_schedule
from thermograd.ladders.smc import Particles
from thermograd.models.energy import EnergyNetwork
from thermograd.models.grid import GridTwin
from thermograd.models.latent_ebm import LatentEBM
from thermograd.models.latent_model import LatentModel
from thermograd.models.linear_gaussian import LinearGaussian
from thermograd.samplers.mala import MALA
from thermograd.samplers.target import FromBase, Target


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def kinds(evidence: Evidence | Estimate) -> set[str]:
    return {caution.kind for caution in evidence.warnings}


def trace_of(model: LatentModel, x: Tensor, t: Tensor, latents: Tensor) -> LadderTrace:
    """Return independent draws (K, S, B, d) as S steps of one chain."""
    state = model.evaluate(x, latents)
    score = t.view(-1, 1, 1, 1) * state.likelihood_score + state.prior_score

    fields = (state.log_likelihood, state.energy, latents, score)
    return LadderTrace(t, *(field.transpose(0, 1).unsqueeze(2) for field in fields))


def exact_trace(
    model: LinearGaussian, x: Tensor, t: Tensor, num_draws: int, generator: torch.Generator
) -> LadderTrace:
    return trace_of(model, x, t, model.sample_power_posterior(x, t, num_draws, generator))


def adapted(model: LinearGaussian, x: Tensor, num_rungs: int) -> Tensor:
    fine = power_schedule(201, 6.0)
    return equal_length_schedule(fine, model.variance_log_likelihood(x, fine).mean(1).detach(), num_rungs)


def random_twins(num: int):
    """Yield twins with latent 1 to 32, pixels 4 to 400, noise 0.1 to 1 and W ~ N(0, 1/d), with two images."""
    generator = seeded(1)
    for index in range(num):
        u = torch.rand(3, generator=generator, dtype=torch.float64)
        latent_dim, num_pixels = round(float(32 ** u[0])), round(float(4 * 100 ** u[1]))
        model = LinearGaussian.random(
            latent_dim, num_pixels, float(0.1 * 10 ** u[2]), latent_dim**-0.5, index
        )
        yield model, model.sample_images(2, generator), generator


# ---- exact draws ----


@pytest.fixture(scope="module")
def z_scores() -> dict[str, Tensor]:
    """Return each method's z-scores on 100 random models against the exact sum on its own schedule."""
    scores: dict[str, list[Tensor]] = {}
    for model, x, generator in random_twins(100):
        t = adapted(model, x, 31)
        with torch.no_grad():
            mean, variance = model.expected_log_likelihood(x, t), model.variance_log_likelihood(x, t)
            truth = model.log_evidence(x)
        ladder = exact_trace(model, x, t, 100, generator)
        corrected = corrected_trapezoid(t, mean, variance)
        cases: dict[str, tuple[Evidence, Tensor]] = {
            "left": (thermodynamic_integration(ladder, "left"), left_sum(t, mean)),
            "right": (thermodynamic_integration(ladder, "right"), right_sum(t, mean)),
            "trapezoid": (thermodynamic_integration(ladder, "trapezoid"), trapezoid(t, mean)),
            "corrected": (thermodynamic_integration(ladder), corrected),
            "controlled": (thermodynamic_integration(ladder, control_variates=True), corrected),
            "stepping-stone": (stepping_stone(ladder), truth),
        }
        for name, (result, exact) in cases.items():
            scores.setdefault(name, []).append((result.log_evidence - exact) / result.monte_carlo_error)
    return {name: torch.cat(values) for name, values in scores.items()}


@pytest.mark.parametrize("name", ["left", "right", "trapezoid", "corrected", "controlled", "stepping-stone"])
def test_error_bars_are_right_on_exact_draws(z_scores, name):
    """31 rungs, 100 draws each, 200 images of 100 models: z-scores have standard deviation near 1."""
    z = z_scores[name]
    assert 0.8 <= float(z.std()) <= 1.25
    assert abs(float(z.mean())) < 4 / math.sqrt(len(z))


@pytest.mark.parametrize("num_rungs", [11, 31])
@pytest.mark.parametrize("schedule", ["power", "adapted"])
def test_quadrature_bounds_and_estimates_hold_on_exact_moments(num_rungs, schedule):
    """Left <= truth <= right always; the estimated errors of both trapezoid rules are at least 0.6 of the true ones."""
    for model, x, _ in random_twins(30):
        t = power_schedule(num_rungs, 5.0) if schedule == "power" else adapted(model, x, num_rungs)
        with torch.no_grad():
            mean, variance = model.expected_log_likelihood(x, t), model.variance_log_likelihood(x, t)
            truth = model.log_evidence(x)
        assert (left_sum(t, mean) <= truth).all()
        assert (truth <= right_sum(t, mean)).all()
        for rule, value in (
            ("trapezoid", trapezoid(t, mean)),
            ("corrected", corrected_trapezoid(t, mean, variance)),
        ):
            estimate = _quadrature_error(t, mean, variance, value, rule)
            assert ((value - truth).abs() <= estimate / 0.6 + 1e-9).all()


def test_left_and_right_sums_are_reported_as_bounds():
    model, x, generator = next(random_twins(1))
    t = power_schedule(6, 3.0)
    result = thermodynamic_integration(exact_trace(model, x, t, 2000, generator))
    exact = model.expected_log_likelihood(x, t).detach()
    assert result.lower is not None
    assert result.upper is not None
    torch.testing.assert_close(result.lower, left_sum(t, exact), rtol=0.02, atol=0.1)
    torch.testing.assert_close(result.upper, right_sum(t, exact), rtol=0.02, atol=0.1)
    assert (result.lower < model.log_evidence(x)).all()
    assert (result.upper > model.log_evidence(x)).all()


@pytest.mark.parametrize("num_rungs", [2, 3])
def test_the_quadrature_error_of_two_rungs_is_half_of_the_bracket(num_rungs):
    """Of three rungs it is a fifteenth of what leaving out the middle one changes."""
    model, x, generator = next(random_twins(1))
    t = power_schedule(num_rungs, 3.0)
    found = thermodynamic_integration(exact_trace(model, x, t, 50, generator))
    lower, upper = found.lower, found.upper
    mean, variance = found.expected_log_likelihood, found.variance_log_likelihood
    assert lower is not None and upper is not None and mean is not None and variance is not None  # noqa: PT018
    wanted = (upper - lower).abs() / 2
    if num_rungs == 3:
        ends = corrected_trapezoid(t[::2], mean[::2], variance[::2])
        wanted = (found.log_evidence - ends).abs() / 15
    torch.testing.assert_close(found.quadrature_error, wanted)


def test_moments_are_reported():
    model, x, generator = next(random_twins(1))
    t = power_schedule(5, 3.0)
    for control in (False, True):
        result = thermodynamic_integration(
            exact_trace(model, x, t, 4000, generator), control_variates=control
        )
        variance = model.variance_log_likelihood(x, t).detach()
        error = (variance / 4000).sqrt()
        assert result.expected_log_likelihood is not None
        assert result.variance_log_likelihood is not None
        z = (result.expected_log_likelihood - model.expected_log_likelihood(x, t).detach()) / error
        assert z.abs().max() < 4
        torch.testing.assert_close(result.variance_log_likelihood, variance, rtol=0.25, atol=0.0)


def test_coupled_rungs_count_as_coupled():
    """Rungs that carry one and the same series give that series' error, not one shrunk by the number of rungs."""
    series = torch.randn(400, 2, 3, generator=seeded(2), dtype=torch.float64)
    for step in range(1, 400):
        series[step] += 0.5 * series[step - 1]
    trace = series.unsqueeze(1).expand(400, 9, 2, 3)
    t = linear_schedule(9)
    ladder = LadderTrace(t, trace, trace)
    coupled = thermodynamic_integration(ladder, "trapezoid").monte_carlo_error
    torch.testing.assert_close(coupled, monte_carlo_error(series))
    apart = torch.randn(400, 9, 2, 3, generator=seeded(3), dtype=torch.float64) * series.std()
    free = thermodynamic_integration(replace(ladder, log_likelihood=apart), "trapezoid")
    wanted = series.std() * trapezoid_weights(t).square().sum().sqrt() / math.sqrt(800)
    torch.testing.assert_close(free.monte_carlo_error, wanted.expand(3), rtol=0.3, atol=0.0)


def test_one_step_of_many_chains_is_enough():
    model, x, generator = next(random_twins(1))
    steps = exact_trace(model, x, power_schedule(5, 3.0), 60, generator)
    chains = replace(steps, log_likelihood=steps.log_likelihood.transpose(0, 2))
    for method in (thermodynamic_integration, stepping_stone):
        one, other = method(steps), method(chains)
        torch.testing.assert_close(one.log_evidence, other.log_evidence)
        torch.testing.assert_close(one.monte_carlo_error, other.monte_carlo_error, rtol=0.5, atol=0.0)


# ---- control variates ----


def test_stein_functions_have_mean_zero():
    model = LinearGaussian.random(4, 9, 0.5, 0.5, 4, torch.tensor([0.5, -0.5, 0.0, 2.0]))
    x = model.sample_images(2, seeded(5))
    ladder = exact_trace(model, x, power_schedule(4, 2.0), 20_000, seeded(6))
    assert ladder.latents is not None
    assert ladder.score is not None
    functions = stein_functions(ladder.latents, ladder.score).squeeze(2)
    assert functions.shape[-1] == 5
    z = functions.mean(0) / (functions.std(0) / math.sqrt(20_000))
    assert z.abs().max() < 4


def test_control_variates_are_exact_where_curvature_is_the_same_in_all_directions():
    """With W'W = c I the likelihood lies in the span of the functions, so no error is left but quadrature's."""
    weight = torch.linalg.qr(torch.randn(20, 5, generator=seeded(7), dtype=torch.float64)).Q
    model = LinearGaussian(weight, torch.zeros(20), 0.3)
    x = model.sample_images(3, seeded(8))
    t = power_schedule(8, 3.0)
    ladder = exact_trace(model, x, t, 60, seeded(9))
    plain = thermodynamic_integration(ladder, "trapezoid")
    result = thermodynamic_integration(ladder, "trapezoid", control_variates=True)
    exact = trapezoid(t, model.expected_log_likelihood(x, t).detach())
    assert (plain.log_evidence - exact).abs().min() > 1e-2
    torch.testing.assert_close(result.log_evidence, exact, rtol=0, atol=1e-3)
    assert result.monte_carlo_error.max() < 1e-3


def test_control_variates_do_not_bias():
    """Fits on other folds leave the mean alone, even with useless functions and few draws."""
    values = torch.randn(20, 2, 2, 500, generator=seeded(10), dtype=torch.float64)
    noise = torch.randn(20, 2, 2, 500, 9, generator=seeded(11), dtype=torch.float64)
    means = controlled(values, noise + values.square().unsqueeze(-1) - 1).mean((0, 2)).flatten()
    assert abs(float(means.mean())) < 4 * float(means.std()) / math.sqrt(1000)


# ---- stepping stone ----


def test_stepping_stone_of_a_constant_is_the_constant():
    trace = torch.full((5, 4, 2, 3), -7.0, dtype=torch.float64)
    t = power_schedule(4, 2.0)
    ladder = LadderTrace(t, trace, trace)
    for result in (stepping_stone(ladder), thermodynamic_integration(ladder)):
        torch.testing.assert_close(result.log_evidence, torch.full((3,), -7.0, dtype=torch.float64))
        assert (result.monte_carlo_error == 0).all()


def test_exp_of_stepping_stone_is_unbiased():
    """5,000 estimates from 5 draws per rung: the mean of exp(estimate - truth) is 1, while left sums lie below it."""
    model = LinearGaussian.random(2, 4, 0.8, 0.5, 12)
    x = model.sample_images(1, seeded(13)).expand(5000, -1)
    t = power_schedule(4, 3.0)
    ladder = exact_trace(model, x, t, 5, seeded(14))
    ratio = (stepping_stone(ladder).log_evidence - model.log_evidence(x).detach()).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(5000)
    assert float(ratio.log().mean()) < 0


def test_stepping_stone_warns_of_wide_steps():
    model = LinearGaussian.random(16, 256, 0.3, 0.08, 0)
    x = model.sample_images(4, seeded(15))
    wide = stepping_stone(exact_trace(model, x, adapted(model, x, 5), 50, seeded(16)))
    assert "skewed" in kinds(wide)
    narrow = stepping_stone(exact_trace(model, x, adapted(model, x, 41), 50, seeded(16)))
    assert "skewed" not in kinds(narrow)


# ---- annealing ----


def curved() -> tuple[LinearGaussian, Tensor, Tensor]:
    """Return a twin with an energy, one image, and the latent vector that made it."""
    model = LinearGaussian.random(3, 6, 0.6, 0.6, 17, torch.tensor([0.8, -0.4, 1.5]))
    latents = model.sample_prior(1, seeded(18))
    noise = torch.randn(1, 6, generator=seeded(19), dtype=torch.float64)
    return model, model.decode(latents) + model.noise_std * noise, latents


def assert_mean_weight_is_one(log_weights: Tensor, truth: Tensor) -> None:
    weights = (log_weights - truth).exp()
    error = weights.std() / math.sqrt(weights.numel())
    assert abs(float(weights.mean()) - 1) < 4 * float(error)
    assert float(error) < 0.05


def test_annealed_weights_are_unbiased():
    """E[w] is p(x) from exact prior draws; from the base, with the energy annealed too, it is p(x) Z_a."""
    model, x, _ = curved()
    t, kernel, num_chains = power_schedule(12, 2.0), MALA(0.5), 4000
    truth = model.log_evidence(x).detach()
    prior = model.sample_prior(num_chains, seeded(20)).unsqueeze(1)
    exact = annealed_importance_sampling(
        model, x, t, kernel, num_chains, seeded(21), exact_prior_latents=prior
    )
    assert abs(float((exact.log_evidence - truth).exp()) - 1) < 4 * float(exact.monte_carlo_error)
    assert exact.lower is not None
    tempered = annealed_importance_sampling(model, x, t, kernel, num_chains, seeded(22))
    assert abs(float((tempered.log_evidence - truth).exp()) - 1) < 4 * float(tempered.monte_carlo_error)
    assert max(float(exact.monte_carlo_error), float(tempered.monte_carlo_error)) < 0.05
    assert tempered.lower is None  # two lower bounds do not subtract to a bound


def test_the_partition_is_annealed_with_the_prior_s_step_size(monkeypatch: pytest.MonkeyPatch):
    """Steps fit for the posterior are short, and no likelihood narrows the path from the base to the prior."""
    model, x, _ = curved()
    used = []

    def record(model, t, kernel, *args, **kwargs):
        used.append(float(kernel.step_size))
        return log_partition(model, t, kernel, *args, **kwargs)

    monkeypatch.setattr("thermograd.evidence.annealing.log_partition", record)
    sizes = torch.tensor([0.8, 0.1, 0.01, 0.01])
    annealed_importance_sampling(model, x, power_schedule(4, 2.0), MALA(sizes), 4, seeded(25))
    assert used == [pytest.approx(0.8)]


def test_a_spread_that_few_chains_can_not_bear_is_told():
    """With 4 chains a standard deviation of 1.9 biases the log of the mean weight by more than the error says."""
    log_weights = 1.9 * torch.randn(4, 2000, generator=seeded(27), dtype=torch.float64)
    bias = float((log_mean_exp(log_weights, 0) - 1.9**2 / 2).mean())
    assert bias < -1.9 / 4**0.5 / 2
    assert len(_spread_warnings(log_weights, "of annealing")) == 1
    assert _spread_warnings(log_weights / 4, "of annealing") == []
    assert _spread_warnings(torch.cat([log_weights] * 100), "of annealing") == []


def test_weights_that_spread_are_told_for_the_partition_as_well():
    model = LinearGaussian.random(3, 6, 0.01, 0.6, 17, torch.tensor([60.0, -0.4, 80.0]))
    x = torch.zeros(1, 6, dtype=torch.float64)
    result = annealed_importance_sampling(model, x, linear_schedule(3), MALA(0.01), 50, seeded(26))
    assert [each.text.split(" have ")[0] for each in result.warnings] == [
        "log weights of annealing",
        "log weights of annealing towards log Z_a",
    ]


def test_log_partition_is_unbiased_and_costs_no_generator():
    model, _, _ = curved()
    result = log_partition(model, linear_schedule(8), MALA(0.8), 4000, seeded(23))
    assert_mean_weight_is_one(result.log_weights, model.log_partition().detach())
    assert result.num_evaluations == 0
    assert result.acceptance.shape == (7,)


def test_path_from_the_base_has_its_own_scores():
    model, x, _ = curved()
    z = torch.randn(5, 1, 3, generator=seeded(24), dtype=torch.float64, requires_grad=True)
    state = FromBase(model, x).evaluate(z.detach())
    for t in (0.0, 0.3, 1.0):
        tempered = t * (model.log_likelihood(x, z) - model.energy(z)) + model.log_base(z)
        (wanted,) = torch.autograd.grad(tempered.sum(), z)
        torch.testing.assert_close(state.score(torch.tensor(t, dtype=torch.float64)), wanted)


def test_reverse_weights_are_unbiased_for_the_inverse():
    """E[1/w] = 1/p(x) over latents drawn from the posterior; coarser schedules have too heavy a tail to test."""
    model, x, _ = curved()
    num = 4000
    latents = model.sample_power_posterior(x, torch.ones(1), num, seeded(25))[0, :, 0]
    t = power_schedule(100, 2.0)
    result = reverse_annealing(model, x.expand(num, -1), latents, t, MALA(0.6), 2, seeded(26))
    inverse = (-result.log_weights[0] + model.log_evidence(x).detach()).exp()
    error = float(inverse.std()) / math.sqrt(num)
    assert abs(float(inverse.mean()) - 1) < 4 * error
    assert error < 0.03


def simulated(latent_dim: int, noise_std: float, num: int) -> tuple[LinearGaussian, Tensor, Tensor]:
    """Return a twin, images that it made, and the latents that they were made from."""
    model = LinearGaussian.random(latent_dim, 2 * latent_dim, noise_std, 1 / latent_dim**0.5, 27)
    latents = model.sample_prior(num, seeded(28))
    noise = torch.randn(num, 2 * latent_dim, generator=seeded(29), dtype=torch.float64)
    return model, (model.decode(latents) + noise_std * noise).detach(), latents


@pytest.mark.parametrize("latent_dim", [2, 8, 16])
def test_chains_of_the_reverse_pass_are_independent(latent_dim):
    """Their mean varies over images as that of chains from independent draws; with shared starts by far more."""
    model, x, latents = simulated(latent_dim, 2.0, 1000)
    t, kernel = power_schedule(5, 2.0), MALA(1 / latent_dim ** (1 / 6))

    def spread(log_weights: Tensor) -> float:
        return float((log_weights - model.log_evidence(x).detach()).mean(0).var())

    exact = model.sample_power_posterior(x, torch.ones(1, dtype=torch.float64), 16, seeded(32))[0]
    independent = spread(
        anneal(Target(model, x), exact, t, kernel, 1, seeded(33), downwards=True).log_weights
    )
    shared, parted = (
        spread(reverse_annealing(model, x, latents, t, kernel, 16, seeded(30), num_apart=n).log_weights)
        for n in (0, 60)
    )
    error = independent * math.sqrt(2 * 2 / 1000)
    assert abs(parted - independent) < 4 * error
    assert shared - independent > 4 * error


@pytest.mark.parametrize(("latent_dim", "num_rungs"), [(2, 80), (8, 80), (16, 160)])
def test_bars_of_the_reverse_pass_cover(latent_dim, num_rungs):
    """Where temperatures are many enough for the bound to be tight, 95 % bars of four chains hold the truth."""
    model, x, latents = simulated(latent_dim, 2.0, 200)
    t, kernel = power_schedule(num_rungs, 2.0), MALA(1.0 / latent_dim ** (1 / 6))
    found = reverse_annealing(model, x, latents, t, kernel, 4, seeded(31), num_apart=60)
    missed = (found.log_ratio - model.log_evidence(x)).abs() > quantile(4) * found.monte_carlo_error
    assert float(missed.double().mean()) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)


def test_bracket_holds_on_simulated_images():
    """Forward below, reverse above, on average over images; both close in as temperatures are added."""
    model = LinearGaussian.random(4, 12, 0.5, 0.5, 27)
    generator = seeded(28)
    latents = model.sample_prior(100, generator)
    noise = torch.randn(100, 12, generator=generator, dtype=torch.float64)
    x = model.decode(latents) + model.noise_std * noise
    truth = model.log_evidence(x).detach()
    gaps = []
    for num_temperatures in (10, 100):
        t = power_schedule(num_temperatures, 3.0)
        sizes = 1.0 / (1 + 16 * t).sqrt()
        prior = model.sample_prior(400, generator).view(4, 100, 4)
        forward = annealed_importance_sampling(
            model, x, t, MALA(sizes), 4, generator, exact_prior_latents=prior
        )
        reverse = reverse_annealing(model, x, latents, t, MALA(sizes), 4, generator)
        assert forward.lower is not None
        below, above = truth - forward.lower, reverse.log_ratio - truth
        for gap in (below, above):
            assert float(gap.mean()) > -4 * float(gap.std()) / 10
        gaps.append((float(below.mean()), float(above.mean())))
    assert gaps[0][0] > 0.1
    assert gaps[0][1] > 0.1
    assert gaps[1][0] < gaps[0][0] / 3
    assert gaps[1][1] < gaps[0][1] / 3


def test_annealing_counts_its_evaluations():
    model, x, latents = curved()
    count = [0]
    inner = model.log_likelihood
    model.log_likelihood = lambda x, z: (count.__setitem__(0, count[0] + z[..., 0].numel()), inner(x, z))[1]  # type: ignore[method-assign]
    t = linear_schedule(5)
    result = annealed_importance_sampling(model, x, t, MALA(0.5), 3, seeded(29), num_steps=2)
    assert result.num_evaluations == count[0] == 3 * (1 + 4 * 2)
    count[0] = 0
    found = reverse_annealing(model, x, latents, t, MALA(0.5), 3, seeded(30), num_apart=7)
    assert found.num_evaluations == count[0] == 3 * (1 + 4 + 1 + 7)


# ---- chains of its own ----


@pytest.fixture(scope="module")
def big_twin() -> tuple[LinearGaussian, Tensor]:
    model = LinearGaussian.random(16, 256, 0.3, 0.08, 0)
    return model, model.sample_images(64, seeded(31))


@pytest.mark.parametrize(
    ("method", "limit", "least_kept"),
    [
        ("laplace", 0.5, 12),
        ("thermodynamic", 0.2, 12),
        ("thermodynamic-plain", 1.0, 4),
        ("stepping-stone", 1.0, 0),
    ],
)
def test_methods_with_chains_of_their_own(big_twin, method, limit, least_kept):
    """Bars are right on the twin, so methods print them there; and nearly all of those hold the truth."""
    model, x = big_twin
    settings = EvidenceSettings(method=method, num_evaluations=4000, num_bank=2000)
    found = estimate_evidence(model, x[:16], settings, generator=seeded(32))
    truth = model.log_evidence(x[:16]).detach()
    assert float((found.log_evidence - truth).abs().mean()) < limit
    kept = torch.tensor([status == "interval" for status in found.status])
    assert int(kept.sum()) >= least_kept
    held = (found.low <= truth) & (truth <= found.high)
    assert int((kept & ~held).sum()) <= 3  # of 16 at 95 %: more has a chance of 1 in 150
    assert found.num_evaluations < 1.2 * 4000


def test_no_interval_where_repeats_disagree():
    """Repeats 5 nats apart are a range, one whose weights hang on few particles a lower bound; the mean counts them."""
    estimates = torch.tensor(
        [[0.0, 0.0, 0.0], [0.1, 5.0, 0.1], [0.2, 1.0, 0.2], [0.1, 2.0, 0.1]], dtype=torch.float64
    )
    weights = torch.tensor([False, False, True])
    found = combine("smc", Replicates(estimates, {"weights": weights}, 100.0, by_mean_weight=True), [], 0.0)
    assert found.status == ("interval", "range", "lower-bound")
    assert found.reasons == ((), ("spread",), ("weights",))
    assert (found.low[1], found.high[1]) == (0.0, 5.0)
    assert found.high[2] == math.inf
    assert float(found.low[2]) == pytest.approx(float(log_mean_exp(estimates[:, 2], 0)) - math.log(20))
    bound = combine(
        "laplace", Replicates(estimates, {"weights": weights}, 1.0, bound=estimates[0] - 9), [], 0.0
    )
    assert float(bound.low[2]) == pytest.approx(-9 - math.log(20))
    mean = found.mean()
    assert (mean["num_images"], mean["num_doubtful"]) == (3, 2)
    assert "no-interval" in kinds(found)
    table = found.to_dataframe()
    assert list(table["status"]) == ["interval", "range", "lower-bound"]


def test_intervals_of_normal_repeats_hold_the_truth():
    """2,000 images with four normal repeats each and a shared error of log Z_a of the stated size."""
    generator = seeded(45)
    estimates = 0.3 * torch.randn(4, 2000, generator=generator, dtype=torch.float64)
    found = combine("smc", Replicates(estimates, {}, 1.0), [], 0.0)
    kept = torch.tensor([status == "interval" for status in found.status])
    share = float(((found.low <= 0) & (found.high >= 0))[kept].double().mean())
    assert abs(share - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


@pytest.mark.parametrize("method", ["laplace", "thermodynamic", "smc"])
def test_one_image_scaled_by_40_leaves_its_neighbours_alone(method):
    """Their numbers are those beside an image like the others, to rounding; and no odd interval misses.

    The odd image takes more stages of `laplace`, in which particles of its neighbours move on: there within errors.
    """
    model = LinearGaussian.random(4, 32, 0.3, 0.3, 0)
    x = model.sample_images(6, seeded(46)).detach()
    settings = EvidenceSettings(method=method, num_evaluations=1600, num_bank=2000, num_rungs=8)
    plain, odd = (
        estimate_evidence(model, torch.cat([x, factor * x[:1]]), settings, generator=seeded(47))
        for factor in (1, 40)
    )
    error = (odd.standard_error.square() + plain.standard_error.square()).sqrt()
    limit = 4 * error if method == "laplace" else 1e-6 + 0 * error
    assert ((odd.log_evidence - plain.log_evidence).abs() < limit)[:6].all()
    truth = model.log_evidence(torch.cat([x, 40 * x[:1]])).detach()
    kept = torch.tensor([status == "interval" for status in odd.status])
    held = (odd.low <= truth) & (truth <= odd.high)
    assert int((kept & ~held).sum()) <= 1
    assert int(kept[:6].sum()) >= (1 if method == "smc" else 4)


def test_ladders_that_disagree_beyond_their_own_errors_are_named():
    """Spreads of 1, 3.5 and 10 times the stated variance; round trips excuse the second."""
    half = (0.75 * torch.tensor([0.01, 0.035, 0.1])).sqrt().double()
    by_chain = torch.tensor([-1.0, -1.0, 1.0, 1.0]).double().unsqueeze(1) * half
    estimate = SimpleNamespace(by_chain=by_chain, monte_carlo_error=torch.full((3,), 0.05).double())
    for trips in (0, 1):
        info = SimpleNamespace(round_trips=torch.full((4, 3), trips))
        found = disagreement(estimate, info)
        assert found["disagreement"].tolist() == [False, False, True]
        assert found["no-mixing"].tolist() == [False, not trips, not trips]


def test_log_partition_is_the_exact_one():
    model, _, _ = curved()
    prior = run_prior(model, 2000, 4, seeded(48))
    error = quantile(4) * prior.error
    assert abs(prior.value - float(model.log_partition().detach())) < max(2 * error, 0.02)
    assert prior.warnings == []
    exact = model.sample_prior(100_000, seeded(49))
    spread = exact.std(0) / math.sqrt(prior.bank.shape[1])
    assert ((prior.bank.flatten(0, 1).mean(0) - exact.mean(0)).abs() < 6 * spread).all()


def test_a_mixture_is_normalised_and_its_score_is_its_gradient():
    model, x, _ = curved()
    target = Target(model, x)
    modes, density = find_modes(target, model.sample_base((3, 1), seeded(50)), 60)
    mixture = mixture_at_modes(target, modes, density)
    z = mixture.sample(500, seeded(51)).requires_grad_()
    log_q, score = mixture.evaluate(z)
    torch.testing.assert_close(torch.autograd.grad(log_q.sum(), z)[0], score)
    exact = (model.log_likelihood(x, z) - model.energy(z) + model.log_base(z) - log_q).detach()
    # A Gaussian posterior: the mixture is exact but for its inflated width.
    assert float(log_mean_exp(exact, 0)[0]) == pytest.approx(
        float((model.log_evidence(x) + model.log_partition()).detach()),
        abs=4 * float(exact.exp().std() / exact.exp().mean()) / math.sqrt(500),
    )


def test_images_whose_particles_still_rise_have_no_interval():
    model = LinearGaussian.random(4, 32, 0.3, 0.3, 0)
    x = model.sample_images(3, seeded(52)).detach()
    target = Target(model, x)
    there = model.sample_power_posterior(x, torch.ones(1, dtype=torch.float64), 200, seeded(53))[0].unsqueeze(
        1
    )
    lagging = there.clone()
    lagging[:, :, 1] += 0.3
    sizes = torch.full((1, 1, 3), 0.1, dtype=torch.float64)
    one = torch.ones(1, 3, dtype=torch.float64)
    particles = Particles(lagging, one, one, sizes, sizes, sizes, one, one, 1)
    assert settle(target, particles, seeded(54))[1].tolist() == [False, True, False]


def test_a_short_run_prior_is_told_by_kind(big_twin):
    model, x = big_twin
    settings = EvidenceSettings(method="smc", num_evaluations=400, num_bank=400)
    found = estimate_evidence(model, x[:2], settings, generator=seeded(55), short_run_prior=True)
    assert "short-run-prior" in kinds(found)


def test_nonlinear_model_with_an_energy_network():
    """A bent generator and a network's energy, against sums over a grid: no Gaussian helps here."""
    generator = seeded(34)
    network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 9), nn.Unflatten(1, (1, 3, 3)))
    energy = EnergyNetwork(2, (8,), "gelu", generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.8)
        for parameter in energy.parameters():
            parameter.mul_(2.0)
    model = LatentEBM(energy, network, latent_dim=2, image_shape=(1, 3, 3), noise_std=0.5).double()
    z = model.sample_base((12,), generator)
    x = model.decode(z) + 0.5 * torch.randn(12, 1, 3, 3, generator=generator, dtype=torch.float64)
    truth = GridTwin(model).log_power_evidence(x, 1.0).detach()
    for method in METHODS:
        settings = EvidenceSettings(method=method, num_evaluations=4000, num_bank=2000, num_rungs=8)
        found = estimate_evidence(model, x, settings, generator=seeded(35))
        kept = torch.tensor([status == "interval" for status in found.status])
        held = (found.low <= truth) & (truth <= found.high)
        assert int(kept.sum()) >= 6, method
        assert int((kept & ~held).sum()) <= 3, method
        assert float((found.log_evidence - truth)[kept].abs().mean()) < 0.2, method


def test_same_generator_same_evidence_and_chunks_change_nothing(big_twin):
    model, x = big_twin
    runs = [
        estimate_evidence(
            model,
            x[:3],
            EvidenceSettings(method="laplace", num_evaluations=800, num_bank=400, chunk_size=chunk),
            generator=seeded(37),
        )
        for chunk in (2048, 2048, 7)
    ]
    assert torch.equal(runs[0].log_evidence, runs[1].log_evidence)
    torch.testing.assert_close(runs[0].log_evidence, runs[2].log_evidence, rtol=1e-6, atol=1e-6)


def test_quadrature_dominated_error_bars_are_named(big_twin):
    model, x = big_twin
    ladder = exact_trace(model, x[:8], power_schedule(3, 3.0), 3000, seeded(39))
    assert "quadrature" in kinds(thermodynamic_integration(ladder))


# ---- bad input ----


def small_trace() -> LadderTrace:
    model = LinearGaussian.random(2, 4, 0.5, 0.5, 40)
    return exact_trace(model, model.sample_images(2, seeded(41)), power_schedule(4, 2.0), 12, seeded(42))


@pytest.mark.parametrize("method", [thermodynamic_integration, stepping_stone])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda trace: replace(trace, inverse_temperatures=torch.tensor([0.1, 0.2, 0.5, 1.0])),
            "`trace` must hold draws of each image at t = 0",
        ),
        (
            lambda trace: replace(trace, log_likelihood=trace.log_likelihood[:1]),
            "`trace` must hold at least 2 draws on each rung",
        ),
        (
            lambda trace: replace(trace, log_likelihood=trace.log_likelihood * math.nan),
            "`trace` must hold finite log-likelihoods",
        ),
    ],
)
def test_bad_ladders(method, change, message):
    with pytest.raises(InputError, match=message):
        method(change(small_trace()))


def test_bad_integration_settings():
    with pytest.raises(InputError, match="`rule` must be trapezoid, corrected, left or right, got 'simpson'"):
        thermodynamic_integration(small_trace(), "simpson")
    with pytest.raises(InputError, match="`control_variates` need latents and scores"):
        thermodynamic_integration(replace(small_trace(), score=None), control_variates=True)
    ladder = small_trace()
    short = {name: getattr(ladder, name)[:7] for name in ("log_likelihood", "latents", "score")}
    with pytest.raises(InputError, match="`control_variates` must have at least 8 draws on each rung, got 7"):
        thermodynamic_integration(replace(ladder, **short), control_variates=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "harmonic-mean"}, "`method` 'harmonic-mean' is not a known method"),
        ({"num_rungs": 2}, "`num_rungs` must be greater than or equal to 3, got 2"),
        ({"num_replicates": 3}, "`num_replicates` must be greater than or equal to 4, got 3"),
        ({"num_evaluations": 100}, "`num_evaluations` must be greater than or equal to 200, got 100"),
    ],
)
def test_bad_entry_settings(changes, message):
    with pytest.raises(InputError, match=message):
        validate(EvidenceSettings, changes)


def test_too_few_evaluations_for_ladders_and_images_of_another_shape_are_named(big_twin):
    model, x = big_twin
    settings = EvidenceSettings(method="thermodynamic", num_evaluations=400, num_bank=400)
    with pytest.raises(
        InputError, match="`num_evaluations` must be at least 912 for 4 ladders of 12 rungs, got 400"
    ):
        estimate_evidence(model, x[:2], settings, generator=seeded(56))
    with pytest.raises(InputError, match=r"`x` must have shape \(B, 256\), got \(256,\)"):
        estimate_evidence(model, x[0], settings, generator=seeded(56))


def test_bad_annealing_settings():
    model, x, latents = curved()
    t, kernel = linear_schedule(4), MALA(0.5)
    with pytest.raises(InputError, match="`num_chains` must be at least 2, got 1"):
        annealed_importance_sampling(model, x, t, kernel, 1, seeded(44))
    with pytest.raises(InputError, match="`num_steps` must be at least 1, got 0"):
        annealed_importance_sampling(model, x, t, kernel, 2, seeded(44), num_steps=0)
    with pytest.raises(InputError, match=r"`exact_prior_latents` must have shape \(2, 1, 3\), got \(2, 3\)"):
        annealed_importance_sampling(
            model, x, t, kernel, 2, seeded(44), exact_prior_latents=torch.zeros(2, 3)
        )
    with pytest.raises(InputError, match=r"`posterior_latents` must have shape \(1, 3\), got \(2, 3\)"):
        reverse_annealing(model, x, latents.expand(2, -1), t, kernel, 2, seeded(44))
    with pytest.raises(InputError, match=r"`step_size` must be one number or have shape \(4,\), got \(3,\)"):
        annealed_importance_sampling(model, x, t, MALA(torch.ones(3)), 2, seeded(44))
