"""Sequential Monte Carlo: unbiased with a plan, exact temperatures and resampling, images that do not touch."""

import math

import pytest
import torch

from thermograd.errors import InputError
from thermograd.ladders import smc as smc_module
from thermograd.ladders.adapted import next_temperature
from thermograd.ladders.sampler import LadderSampler
from thermograd.ladders.smc import conditional_effective_size, run_smc, systematic_resample
from thermograd.models.linear_gaussian import LinearGaussian
from thermograd.samplers.mala import MALA
from thermograd.samplers.target import Target


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def twin() -> LinearGaussian:
    return LinearGaussian.random(3, 6, 0.5, 0.7, 1)


def prior_draws(model: LinearGaussian, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return model.sample_base(shape, seeded(seed))


def test_a_plan_makes_the_ratio_unbiased():
    """800 runs of 16 particles on another run's temperatures and step sizes: exp(estimate - truth) has mean 1."""
    model = twin()
    x = model.sample_images(1, seeded(2)).detach()
    truth = model.log_evidence(x).detach()
    target = Target(model, x.expand(800, -1))
    pilot = run_smc(
        Target(model, x), prior_draws(model, (16, 1), 3), seeded(4), num_temperatures=8, threshold=0.6
    )
    start = prior_draws(model, (16, 800), 5)
    run = run_smc(target, start, seeded(6), num_temperatures=8, plan=pilot)
    ratio = (run.log_ratio - truth).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(800)
    assert float(ratio.std()) < 2


def test_particles_at_the_end_are_the_posterior():
    model = twin()
    x = model.sample_images(2, seeded(7)).detach()
    run = run_smc(
        Target(model, x),
        prior_draws(model, (4000, 2), 8),
        seeded(9),
        num_temperatures=20,
        threshold=0.8,
        num_steps=8,
    )
    exact = model.sample_power_posterior(x, torch.ones(1, dtype=torch.float64), 100_000, seeded(10))[0]
    error = exact.std(0) / math.sqrt(4000)
    assert (
        (run.latents.mean(0) - exact.mean(0)).abs() < 6 * error
    ).all()  # descendants of one particle are alike
    assert (run.inverse_temperatures[-1] == 1).all()
    assert (run.num_ancestors > 100).all()


def test_the_next_temperature_keeps_the_effective_size():
    values = torch.randn(500, 3, generator=seeded(11), dtype=torch.float64) * torch.tensor([1.0, 30.0, 1e-3])
    t = next_temperature(values, torch.zeros(3, dtype=torch.float64), 0.5)
    share = conditional_effective_size(t * values, torch.zeros_like(values))
    torch.testing.assert_close(share[1], torch.tensor(0.5, dtype=torch.float64), rtol=1e-6, atol=0)
    assert t[2] == 1
    assert t[1] < t[0]


def test_systematic_resampling_takes_each_particle_as_often_as_its_weight():
    weights = torch.tensor([[0.5, 0.1], [0.25, 0.2], [0.25, 0.7]], dtype=torch.float64)
    index = systematic_resample(weights.log(), 8, seeded(12))
    assert torch.equal(torch.bincount(index[:, 0], minlength=3), torch.tensor([4, 2, 2]))
    counts = torch.stack(
        [
            torch.bincount(systematic_resample(weights.log(), 8, seeded(s))[:, 1], minlength=3)
            for s in range(400)
        ]
    )
    assert ((counts - 8 * weights[:, 1]).abs() < 1).all()
    error = counts.double().std(0) / 20
    assert ((counts.double().mean(0) - 8 * weights[:, 1]).abs() <= 4 * error).all()


def test_one_image_scaled_by_40_changes_nothing_for_its_neighbours():
    """Temperatures, step sizes and resampling are each image's own, and as many random numbers are drawn for all."""
    model = twin()
    x = model.sample_images(5, seeded(13)).detach()
    odd = x.clone()
    odd[2] *= 40
    runs = [
        run_smc(
            Target(model, each),
            prior_draws(model, (32, 5), 14),
            seeded(15),
            num_temperatures=6,
            threshold=0.5,
        )
        for each in (x, odd)
    ]
    others = torch.tensor([0, 1, 3, 4])
    torch.testing.assert_close(
        runs[0].inverse_temperatures[:4, others], runs[1].inverse_temperatures[:4, others]
    )
    torch.testing.assert_close(runs[0].log_ratio[others], runs[1].log_ratio[others])
    assert float((runs[0].log_ratio[2] - runs[1].log_ratio[2]).abs()) > 100


@pytest.mark.parametrize("mistake", [None, "bank", "resampling"])
def test_chains_that_start_by_smc_stand_at_their_posteriors(mistake, monkeypatch):
    """Means over 40 particles of 400 images against the exact posterior; without weights they lie elsewhere."""
    model = LinearGaussian.random(2, 4, 0.4, 0.7, 1)
    x = model.sample_images(1, seeded(19)).detach().expand(400, -1)
    bank = model.sample_base((20_000,), seeded(20))
    right = systematic_resample

    def even(log_weights, number, generator):
        wrong = mistake == "resampling" or len(log_weights) == len(bank)
        return right(0 * log_weights if wrong else log_weights, number, generator)

    if mistake is not None:
        monkeypatch.setattr(smc_module, "systematic_resample", even)
    sampler = LadderSampler(torch.tensor([0.0, 1.0]).double(), MALA(0.3), num_chains=40, bottom="shared")
    state = sampler.start(model, x, seeded(21), "smc", prior_latents=bank, num_steps=6)
    assert state.num_evaluations == 40 * (2 + 6) + 50 + 40
    position = state.chains.position
    assert position.shape == (1, 40, 400, 2)
    exact = model.power_posterior(x[:1], 1.0)
    mean, covariance = exact.mean.detach(), exact.covariance_matrix.detach().squeeze()
    runs = position[0].mean(0)
    error = runs.std(0) / 20
    off = ((runs.mean(0) - mean[0]).abs() / error).max()
    spread = (position.flatten(0, 2).T.cov() - covariance).abs().max() / covariance.abs().max()
    assert (float(off) < 4 and float(spread) < 0.1) == (mistake is None)


def test_a_start_by_smc_needs_draws_of_the_prior_and_one_rung():
    model = twin()
    x = model.sample_images(2, seeded(22)).detach()
    t = torch.tensor([0.0, 0.5, 1.0]).double()
    for sampler, draws in (
        (LadderSampler(t[[0, 2]], MALA(0.3), bottom="shared"), None),
        (LadderSampler(t, MALA(0.3)), prior_draws(model, (50,), 23)),
    ):
        with pytest.raises(InputError, match="`at` smc needs `prior_latents`, and chains at t = 1 alone"):
            sampler.start(model, x, seeded(24), "smc", prior_latents=draws)


def test_too_few_particles_and_bad_thresholds_are_named():
    model = twin()
    x = model.sample_images(1, seeded(16)).detach()
    with pytest.raises(InputError, match="`start` must hold at least 16 particles, got 8"):
        run_smc(Target(model, x), prior_draws(model, (8, 1), 17), seeded(18), num_temperatures=4)
    with pytest.raises(InputError, match=r"`threshold` must lie between 0 and 1, got 1\.5"):
        run_smc(
            Target(model, x), prior_draws(model, (16, 1), 17), seeded(18), num_temperatures=4, threshold=1.5
        )
