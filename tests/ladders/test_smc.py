"""Sequential Monte Carlo: unbiased with a plan, exact temperatures and resampling, images that do not touch."""

import math

import pytest
import torch

from thermograd.errors import InputError
from thermograd.ladders.adapted import next_temperature
from thermograd.ladders.smc import conditional_effective_size, run_smc, systematic_resample
from thermograd.models.linear_gaussian import LinearGaussian
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


def test_too_few_particles_and_bad_thresholds_are_named():
    model = twin()
    x = model.sample_images(1, seeded(16)).detach()
    with pytest.raises(InputError, match="`start` must hold at least 16 particles, got 8"):
        run_smc(Target(model, x), prior_draws(model, (8, 1), 17), seeded(18), num_temperatures=4)
    with pytest.raises(InputError, match=r"`threshold` must lie between 0 and 1, got 1\.5"):
        run_smc(
            Target(model, x), prior_draws(model, (16, 1), 17), seeded(18), num_temperatures=4, threshold=1.5
        )
