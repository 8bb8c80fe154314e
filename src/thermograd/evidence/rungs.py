"""Replicates of log p(x) by ladders: temperatures and step sizes for each image, and chains that share nothing else."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thermograd.config.facts import EvidenceFacts
from thermograd.errors import InputError
from thermograd.evidence.annealing import anneal
from thermograd.evidence.control_variates import num_draws_needed
from thermograd.evidence.replicates import Replicates
from thermograd.evidence.result import Estimate
from thermograd.evidence.stepping_stone import SPREAD_LIMIT, exponent_spread, stepping_stone
from thermograd.evidence.thermodynamic import thermodynamic_integration
from thermograd.ladders.adapted import equal_length_schedule
from thermograd.ladders.record import LadderInfo, LadderTrace
from thermograd.ladders.sampler import LadderSampler
from thermograd.ladders.schedules import power_schedule
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.mala import MALA
from thermograd.samplers.target import Target

PILOT_POWER = 4.0
PILOT_SHARE, BURN_IN_SHARE = 0.25, 0.1
SMALLEST_STEPS = 8
LOG_WEIGHT_LIMIT = 0.5  # standard deviation of annealed log weights, in nats
BY_CHANCE = 0.01


@dataclass(frozen=True)
class Pilot:
    """What short chains found out for each image before the ones that count.

    Attributes:
        sampler: with temperatures and step sizes (K, B).
        latents: (K, R, B, d), where chains go on.
        num_evaluations: spent on each image.
    """

    sampler: LadderSampler
    latents: Tensor
    num_evaluations: float


def by_ladder(
    model: LatentModel,
    x: Tensor,
    bank: Tensor,
    method: EvidenceFacts,
    num_rungs: int,
    num_evaluations: float,
    generator: torch.Generator,
    chunk_size: int | None,
) -> Replicates:
    """Sample R ladders per image with exchange, and estimate log p(x) from each alone.

    Schedules and step sizes come from a pilot of all R chains of an image, which therefore share them; their draws they
    do not. With control variates, which are fitted on the draws of all R, chains of a rung share the coefficients.

    Args:
        model: any `LatentModel`.
        x: images (B, *image_shape).
        bank: (R, N, d), draws of the prior.
        method: one on ladders of chains.
        num_rungs: K, both ends counted.
        num_evaluations: for each image and ladder.
        generator: source of all randomness.
        chunk_size: the most latents evaluated at once.

    Raises:
        InputError: fewer evaluations than a pilot of 8 steps and as many after it need.
    """
    total = int(num_evaluations / num_rungs) - 3
    if total < 2 * SMALLEST_STEPS:
        least = num_rungs * (2 * SMALLEST_STEPS + 3) * len(bank)
        raise InputError(
            f"`num_evaluations` must be at least {least} for {len(bank)} ladders of {num_rungs} rungs, "
            f"got {num_evaluations * len(bank):.0f}."
        )
    num_pilot = max(SMALLEST_STEPS, round(PILOT_SHARE * total))
    burn_in = round(BURN_IN_SHARE * total)
    pilot = _pilot(model, x, bank, num_rungs, num_pilot, generator, chunk_size)
    if method.anneals:
        return _annealed(model, x, bank, pilot, num_rungs * (total - num_pilot), generator)
    controls = method.controls and (total - num_pilot - burn_in) * len(bank) >= num_draws_needed(
        model.latent_dim
    )
    sampler = pilot.sampler
    sampler, state = sampler.adapt(
        model, x, sampler.start(model, x, generator, pilot.latents), burn_in, generator
    )
    _, info, trace = sampler.trace(model, x, state, total - num_pilot - burn_in, generator, scores=controls)
    estimate = (
        stepping_stone(trace, info)
        if method.by_ratios
        else thermodynamic_integration(trace, "corrected", controls, info=info)
    )
    poor = {"stuck-chains": stuck_images(trace, info), **disagreement(estimate, info)}
    if method.by_ratios and estimate.variance_log_likelihood is not None:
        spread = exponent_spread(estimate.inverse_temperatures, estimate.variance_log_likelihood)
        poor["weights"] = spread > SPREAD_LIMIT
    assert estimate.by_chain is not None
    spent = pilot.num_evaluations + info.num_evaluations
    return Replicates(estimate.by_chain, poor, spent, by_mean_weight=method.by_ratios, detail=estimate)


def stuck_images(trace: LadderTrace, info: LadderInfo) -> Tensor:
    """Return the images (B,) with a chain that never moved, which its acceptance does not explain by chance."""
    still = (trace.log_likelihood == trace.log_likelihood[0]).all(0)
    acceptance = info.acceptance.to(still.device)
    per_image = acceptance if acceptance.dim() == 2 else acceptance.unsqueeze(-1)
    by_chance = (1 - per_image) ** (len(trace.log_likelihood) - 1) < BY_CHANCE
    return (still & (by_chance | (per_image < BY_CHANCE)).unsqueeze(1)).any(1).any(0)


def disagreement(estimate: Estimate, info: LadderInfo) -> dict[str, Tensor]:
    """Return images (B,) whose chains differ by more than the errors that each of them states.

    The variance of R estimates over the square of one chain's own error is chi-squared / (R - 1) if both are right:
    above its 99.9 % quantile chains disagree; above the 95 % quantile too, where no state made a round trip.
    """
    from scipy.stats import chi2

    assert estimate.by_chain is not None
    assert info.round_trips is not None
    count = len(estimate.by_chain)
    stated = count * estimate.monte_carlo_error.square().clamp(min=1e-12)
    ratio = (count - 1) * estimate.by_chain.var(0) / stated
    return {
        "disagreement": ratio > float(chi2.ppf(0.999, count - 1)),
        "no-mixing": (ratio > float(chi2.ppf(0.95, count - 1))) & (info.round_trips.sum(0) == 0),
    }


def _pilot(
    model: LatentModel,
    x: Tensor,
    bank: Tensor,
    num_rungs: int,
    num_steps: int,
    generator: torch.Generator,
    chunk_size: int | None,
) -> Pilot:
    """Run short chains on a power-law ladder: half of their steps adapt, the others measure Var_t(l) of each image."""
    t = power_schedule(num_rungs, PILOT_POWER)
    half, num_chains = num_steps // 2, len(bank)
    sizes = curvature_step_sizes(model, x, t, generator, chunk_size)
    each = t.unsqueeze(-1).expand(-1, len(x))
    sampler = LadderSampler(each, MALA(sizes), num_chains, True, chunk_size=chunk_size)
    state = sampler.start(model, x, generator, "prior", prior_latents=bank.flatten(0, 1))
    sampler, state = sampler.adapt(model, x, state, half, generator)
    ladder, info, trace = sampler.trace(model, x, state, num_steps - half, generator)
    variance = trace.log_likelihood.double().transpose(0, 1).flatten(1, 2).var(1).cpu()
    new = torch.stack([equal_length_schedule(t, _floor(one)) for one in variance.unbind(1)], 1)
    below = torch.stack(
        [(torch.searchsorted(t, one, right=True) - 1).clamp(max=num_rungs - 2) for one in new.T.contiguous()],
        1,
    )
    share = (new - t[below]) / (t[below + 1] - t[below])
    log_sizes = info.step_sizes.log()
    device = log_sizes.device
    low, high = (log_sizes.gather(0, (below + up).to(device)) for up in (0, 1))
    nearest = (below + (share > 0.5)).to(device).view(num_rungs, 1, len(x), 1).expand_as(ladder.latents)
    kernel = MALA(torch.lerp(low, high, share.to(low)).exp())
    return Pilot(
        replace(sampler, inverse_temperatures=new, kernel=kernel),
        ladder.latents.gather(0, nearest),
        info.num_evaluations + 2,
    )


def _floor(variance: Tensor) -> Tensor:
    """Return variances (K,) of which none is so small that its rung's neighbours fall together."""
    return variance.clamp(min=1e-8 * float(variance.max()) + 1e-12)


def curvature_step_sizes(
    model: LatentModel, x: Tensor, t: Tensor, generator: torch.Generator, chunk_size: int | None
) -> Tensor:
    """Return a step size for each rung and image from how fast scores change between two draws of the base, (K, B).

    On a Gaussian with precision a, h = 1.65 d^(-1/6) a^(-1/2) gives the acceptance 0.574 in high dimension.
    It spares the adaptation a long way: precisions of posteriors span several powers of ten.
    """
    z = model.sample_base((2, len(x)), generator)
    state = Target(model, x, chunk_size).evaluate(z)
    scores = state.score(t.to(z).view(-1, 1, 1))  # (K, 2, B, d)
    precision = (scores[:, 0] - scores[:, 1]).square().sum(-1) / (z[0] - z[1]).square().sum(-1)
    return 1.65 * model.latent_dim ** (-1 / 6) * precision ** (-1 / 4)


def _annealed(
    model: LatentModel,
    x: Tensor,
    bank: Tensor,
    pilot: Pilot,
    num_temperatures: int,
    generator: torch.Generator,
) -> Replicates:
    """Anneal one chain per replicate from the bank along the pilot's schedule, refined; each weight is an estimate."""
    coarse = pilot.sampler.inverse_temperatures
    sizes = torch.as_tensor(pilot.sampler.kernel.step_size)
    place = torch.linspace(0, len(coarse) - 1, num_temperatures, dtype=torch.float64)
    below = place.floor().long().clamp(max=len(coarse) - 2)
    share = (place - below).unsqueeze(-1)
    t = torch.lerp(coarse[below], coarse[below + 1], share)
    t[-1] = 1.0
    kernel = MALA(torch.lerp(sizes[below], sizes[below + 1], share.to(sizes)))
    pick = torch.randint(bank.shape[1], (len(bank), len(x)), generator=generator, device=bank.device)
    start = torch.stack([part[index] for part, index in zip(bank, pick, strict=True)])
    run = anneal(Target(model, x, pilot.sampler.chunk_size), start, t, kernel, 1, generator)
    poor = {"weights": run.log_weights.std(0) > LOG_WEIGHT_LIMIT}
    return Replicates(run.log_weights, poor, pilot.num_evaluations + run.num_evaluations, by_mean_weight=True)
