"""Replicates of log p(x) by sequential Monte Carlo: from a bank of prior draws, or from mixtures at the modes."""

from dataclasses import replace

import torch
from torch import Tensor

from thermograd.config.names import SMALLEST_CLOUD
from thermograd.evidence.modes import (
    Backwards,
    FromMixture,
    Whitened,
    common_scale,
    find_modes,
    mixture_at_modes,
)
from thermograd.evidence.prior import Prior
from thermograd.evidence.replicates import Replicates
from thermograd.evidence.result import log_mean_exp
from thermograd.ladders.adapted import next_temperature
from thermograd.ladders.smc import Particles, run_smc, run_smc_from_bank, systematic_resample, take
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.mala import MALA
from thermograd.samplers.target import Target

SMALLEST_SHARE = (
    0.1  # effective size as a share of the particles, below which a stage's mean weight means little
)
SMALLEST_ACCEPTANCE = 0.05
SETTLING_STEPS, SETTLED_SIGMA, SETTLED_NATS = 5, 2.5, 0.2
FEWEST_ANCESTORS = 3  # of all particles at the end, in any repeat
DIVERSITY = 4  # effective draws of the bank per start: with fewer all starts lie in the widest mode
FIRST_STEP = 1.2  # MALA's first step size on a whitened target, times d^(-1/6)


def from_bank(
    model: LatentModel,
    x: Tensor,
    prior: Prior,
    num_evaluations: float,
    generator: torch.Generator,
    chunk_size: int | None,
) -> tuple[Replicates, Particles]:
    """Carry particles from the prior to each posterior; weights of the bank make the first, widest step.

    Args:
        model: any `LatentModel`.
        x: images (B, *image_shape).
        prior: its bank's part r serves replicate r alone, so that replicates stay independent.
        num_evaluations: for each image and replicate.
        generator: source of all randomness.
        chunk_size: the most latents evaluated at once.
    """
    table = _table(model, x, prior)
    expected = 4 + 2.2 * model.latent_dim**0.5
    number = max(SMALLEST_CLOUD, int(num_evaluations**0.5))
    num_steps = max(1, int(num_evaluations / (number * expected)))
    target = Target(model, x, chunk_size)
    particles = run_smc_from_bank(
        target,
        _columns(prior, x),
        table,
        number,
        generator,
        num_temperatures=round(2 * expected),
        num_steps=num_steps,
    )
    _, drifts = settle(target, particles, generator)
    spent = particles.num_evaluations + number * (1 + SETTLING_STEPS)
    return _replicates(particles, particles.log_ratio, drifts, spent, 0.0), particles


def from_modes(
    model: LatentModel,
    x: Tensor,
    prior: Prior,
    num_evaluations: float,
    generator: torch.Generator,
    chunk_size: int | None,
) -> tuple[Replicates, Particles]:
    """Climb to modes from draws of the bank; carry particles from the mixture of Gaussians there to the posterior.

    And back: from particles that are the posterior's the way back lies high where the way there lies low. The estimate
    is the middle, and half of the gap between the two is stated as bias.

    The arguments are those of `from_bank`. Replicates climb from draws of their own and share nothing but log Z_a.
    """
    d, table = model.latent_dim, _table(model, x, prior)
    num_starts, num_climbing = _budget(num_evaluations, d)
    first = next_temperature(
        table, table.new_zeros(table.shape[1:]), min(0.5, DIVERSITY * num_starts / len(table))
    )
    start = take(_columns(prior, x), systematic_resample(first * table, num_starts, generator))
    target = Target(model, x, chunk_size)
    mixture = mixture_at_modes(target, *find_modes(target, start, num_climbing))
    spent = num_starts * (num_climbing + 2 * d)
    left = max(num_evaluations - spent, 1.0)
    num_temperatures = round(min(4 + 1.2 * d, max(2, left**0.5 / 1.8 - SETTLING_STEPS / 2)))
    number = max(SMALLEST_CLOUD, int(left / (2 * num_temperatures + 4 + SETTLING_STEPS)))
    scale = common_scale(mixture)
    path = Whitened(model, x, chunk_size, FromMixture(model, x, chunk_size, mixture), scale)
    start = torch.linalg.solve(scale, mixture.sample(number, generator).unsqueeze(-1)).squeeze(-1)
    size = FIRST_STEP * d ** (-1 / 6)
    particles = run_smc(
        path, start, generator, num_temperatures=num_temperatures, threshold=0.9, step_size=size
    )
    settled, drifts = settle(path, particles, generator)
    back = run_smc(
        Backwards(model, x, chunk_size, path),
        settled,
        generator,
        num_temperatures=num_temperatures,
        threshold=0.9,
        step_size=particles.step_sizes[-1],
    )
    spent += particles.num_evaluations + back.num_evaluations + number * (1 + SETTLING_STEPS)
    there, and_back = particles.log_ratio - prior.value, -back.log_ratio - prior.value
    found = _replicates(particles, (there + and_back) / 2, drifts, spent, prior.error)
    bias = (log_mean_exp(there, 0) + log_mean_exp(-and_back, 0)).abs() / 2
    return replace(found, bound=log_mean_exp(there, 0), bias=bias), particles


def settle(target: Target, particles: Particles, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Take further steps at t = 1; return the particles, and the images (B,) whose log posterior density still rises.

    Particles that lag behind their temperatures make every repeat low by about as much, which no spread shows.
    """
    state = target.evaluate(particles.latents)
    one = torch.ones_like(particles.log_ratio, dtype=state.log_prior.dtype)
    begun, kernel = state.log_density(one), MALA(particles.step_sizes[-1])
    for _ in range(SETTLING_STEPS):
        state, _ = kernel.step(target, state, one, generator)
    rise = (state.log_density(one) - begun).flatten(0, 1)
    error = rise.std(0) / len(rise) ** 0.5
    return state.position, (rise.mean(0) > SETTLED_SIGMA * error) & (rise.mean(0) > SETTLED_NATS)


def _budget(num_evaluations: float, latent_dim: int) -> tuple[int, int]:
    """Return how many starts climb, and for how many steps: half of the evaluations, curvature included."""
    wanted = 10 + 7 * min(latent_dim, 16)
    half = 0.45 * num_evaluations
    num_starts = int(min(8, max(2, half // (wanted + 2 * latent_dim))))
    return num_starts, max(8, int(half / num_starts) - 2 * latent_dim)


def _table(model: LatentModel, x: Tensor, prior: Prior) -> Tensor:
    """Return log p(x_b|z) of each replicate's part of the bank, (N, R, B)."""
    return torch.stack([model.log_likelihood_table(x, part) for part in prior.bank], 1)


def _columns(prior: Prior, x: Tensor) -> Tensor:
    """Return the bank as (N, R, B, d) without copying it."""
    parts = prior.bank.transpose(0, 1).unsqueeze(2)
    return parts.expand(-1, -1, len(x), -1)


def _replicates(
    particles: Particles, estimates: Tensor, drifts: Tensor, spent: float, shared: float
) -> Replicates:
    """Return the estimates (R, B) with what speaks against each image."""
    poor = {
        "weights": (particles.effective_share < SMALLEST_SHARE).any(0),
        "drift": drifts,
        "few-ancestors": (particles.num_ancestors < FEWEST_ANCESTORS).any(0),
        "stuck-chains": (particles.acceptance[-1] < SMALLEST_ACCEPTANCE).any(0),
    }
    return Replicates(estimates, poor, len(estimates) * spent, shared, by_mean_weight=True)
