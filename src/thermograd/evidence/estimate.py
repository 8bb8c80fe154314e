"""One call from a model and images to the evidence: pilot chains, schedule, chains, estimate."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thermograd.config import names
from thermograd.errors import Caution, InputError
from thermograd.evidence.annealing import annealed_importance_sampling
from thermograd.evidence.control_variates import num_draws_needed
from thermograd.evidence.result import Evidence
from thermograd.evidence.stepping_stone import stepping_stone
from thermograd.evidence.thermodynamic import Rule, thermodynamic_integration
from thermograd.ladders.ladder import LadderSampler
from thermograd.ladders.schedules import check_schedule, equal_length_schedule, power_schedule
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.mala import MALA
from thermograd.samplers.target import Target

Method = str
METHODS = tuple(names.EVIDENCE_METHODS)

PILOT_POWER = 4.0
IMAGE_RUNGS, IMAGE_STEPS, IMAGE_PILOT_STEPS = 24, 100, 60
"""Of models trained on images, whose chains settle later than those of the closed-form models."""
ADAPTING_STEPS = 160
"""Pilot steps of all chains of a rung together, images times chains, below which their step sizes are noise."""
ANNEALED_CHAINS = 4  # fewer give no error bar; more take temperatures away at the same cost


@dataclass(frozen=True)
class Pilot:
    """What short chains found out before the ones that count.

    Attributes:
        inverse_temperatures: (K,), of the ladder that follows.
        kernel: with adapted step sizes (K,).
        latents: (K, M, B, d), where its chains begin.
        num_evaluations: spent on each image.
    """

    inverse_temperatures: Tensor
    kernel: MALA
    latents: Tensor
    num_evaluations: float


def estimate_evidence(
    model: LatentModel,
    x: Tensor,
    *,
    method: Method = "thermodynamic",
    generator: torch.Generator,
    inverse_temperatures: Tensor | None = None,
    num_rungs: int = 10,
    num_chains: int = 1,
    num_steps: int = 69,
    num_pilot_steps: int = 20,
    num_burn_in: int = 8,
    kernel: MALA | None = None,
    exchange_rungs: bool = True,
    rule: Rule = "corrected",
    exact_prior_latents: Tensor | None = None,
    chunk_size: int | None = None,
) -> Evidence:
    """Estimate log p(x) of each image with chains of its own.

    Pilot chains on a power-law ladder adapt the step sizes and measure Var_t(l); a ladder of equal
    thermodynamic length follows, whose chains go on from the pilot's. An image costs
    num_rungs num_chains (num_pilot_steps + num_burn_in + num_steps + 2) + 2 generator evaluations, 992 with the
    defaults.

    Args:
        model: any `LatentModel`.
        x: images (B, *image_shape).
        method: "thermodynamic" (control variates wherever the draws suffice to fit them),
            "thermodynamic-plain", "stepping-stone", or "annealed-importance-sampling", which spends about the
            same and reads `num_rungs`, `num_chains` and `num_steps` as the size of the ladder to match.
        generator: source of all randomness.
        inverse_temperatures: (K,), to keep a schedule as it is; None to adapt one with `num_rungs` rungs.
        num_rungs: K, both ends counted, at least 3.
        num_chains: M on each rung of each image.
        num_steps: steps whose draws count.
        num_pilot_steps: steps before the schedule is set, at least 8.
        num_burn_in: steps between the pilot and the draws that count.
        kernel: `MALA` whose step size the pilot starts from; if None it starts from the model's curvature.
        exchange_rungs: let neighbouring rungs swap states.
        rule: quadrature rule of the thermodynamic methods.
        exact_prior_latents: (M', B, d) exact draws of the prior, for annealing from it; M' chains are run.
        chunk_size: the most latents evaluated at once.

    Raises:
        InputError: an unknown method, a bad schedule, or counts out of range.
    """
    names.EVIDENCE_METHODS.check(method, "method")
    if num_pilot_steps < 8:
        raise InputError(f"`num_pilot_steps` must be at least 8, got {num_pilot_steps}.")
    if inverse_temperatures is None and num_rungs < 3:
        raise InputError(f"`num_rungs` must be at least 3, got {num_rungs}.")
    if num_steps * num_chains < 4:
        raise InputError(f"`num_steps` times `num_chains` must be at least 4, got {num_steps * num_chains}.")
    pilot = _run_pilot(
        model,
        x,
        inverse_temperatures,
        num_rungs,
        num_chains,
        num_pilot_steps,
        kernel,
        exchange_rungs,
        generator,
        chunk_size,
    )
    few = _few_chains(num_chains * len(x), num_pilot_steps)
    if method == "annealed-importance-sampling":
        result = _anneal(
            model,
            x,
            pilot,
            num_chains * (num_steps + num_burn_in),
            generator,
            exact_prior_latents,
            chunk_size,
        )
        return replace(result, warnings=(*result.warnings, *few))
    controls = method == "thermodynamic" and num_steps * num_chains >= num_draws_needed(model.latent_dim)
    sampler = LadderSampler(
        pilot.inverse_temperatures, pilot.kernel, num_chains, exchange_rungs, chunk_size=chunk_size
    )
    state = sampler.start(model, x, generator, pilot.latents)
    sampler, state = sampler.adapt(model, x, state, num_burn_in, generator)
    _, info, trace = sampler.trace(model, x, state, num_steps, generator, scores=controls)
    info = replace(info, num_evaluations=info.num_evaluations + pilot.num_evaluations)
    if method == "stepping-stone":
        result = stepping_stone(trace, info)
        return replace(result, warnings=(*result.warnings, *few))
    result = thermodynamic_integration(trace, rule, controls, info=info)
    if controls:
        plain = thermodynamic_integration(trace, rule, False, info=info)
        result = replace(result, warnings=(*result.warnings, *_bias_of_controls(result, plain)))
    if method == "thermodynamic" and not controls:
        line = Caution(
            "few-draws",
            f"{num_steps * num_chains} draws on a rung are too few for control variates with {model.latent_dim} "
            f"latents: {num_draws_needed(model.latent_dim)} are needed; went on without.",
        )
        result = replace(result, warnings=(*result.warnings, line))
    return replace(result, warnings=(*result.warnings, *few))


def _few_chains(num_chains: int, num_pilot_steps: int) -> list[Caution]:
    """Return a warning where too few chains share a rung's step size for so short a pilot."""
    if num_chains * num_pilot_steps >= ADAPTING_STEPS:
        return []
    return [
        Caution(
            "few-chains",
            f"{num_chains} chain(s) a rung with {num_pilot_steps} pilot steps adapt step sizes and schedule poorly, so "
            f"error bars may be too small: take more images at once, more chains or more pilot steps.",
        )
    ]


def _bias_of_controls(controlled: Evidence, plain: Evidence) -> list[Caution]:
    """Return a warning where control variates move the mean over images by more than chance can.

    Their coefficients are fitted on draws of the same chain. Where its memory is long, the fit knows the draws it is
    applied to, and the estimate is biased by more than its error bar says; the plain estimate is not.
    """
    moved = controlled.log_evidence - plain.log_evidence
    if len(moved) < 2:
        return []
    shift, error = float(moved.mean()), float(moved.std()) / len(moved) ** 0.5
    if abs(shift) <= 4 * error:
        return []
    return [
        Caution(
            "control-variates",
            f"control variates move log p(x) by {shift:.2g} ± {error:.1g} nats on average: chains are too short for "
            "them; run more steps, or take thermodynamic-plain.",
        )
    ]


def _run_pilot(
    model: LatentModel,
    x: Tensor,
    inverse_temperatures: Tensor | None,
    num_rungs: int,
    num_chains: int,
    num_steps: int,
    kernel: MALA | None,
    exchange_rungs: bool,
    generator: torch.Generator,
    chunk_size: int | None,
) -> Pilot:
    """Run short chains; half of their steps adapt, the other half measure Var_t(l), within images."""
    t = power_schedule(num_rungs, PILOT_POWER) if inverse_temperatures is None else inverse_temperatures
    check_schedule(t)
    half, spent = num_steps // 2, 0.0
    if kernel is None:
        spent = 2.0
        kernel = MALA(curvature_step_sizes(model, x, t, generator, chunk_size))
    sampler = LadderSampler(t, kernel, num_chains, exchange_rungs, chunk_size=chunk_size)
    sampler, state = sampler.adapt(model, x, sampler.start(model, x, generator), half, generator)
    ladder, info, trace = sampler.trace(model, x, state, num_steps - half, generator)
    sizes, spent = info.step_sizes, info.num_evaluations + spent
    if inverse_temperatures is not None:
        return Pilot(t, replace(kernel, step_size=sizes), ladder.latents, spent)
    variances = trace.log_likelihood.double().transpose(0, 1).flatten(1, 2).var(1).mean(1)
    new = equal_length_schedule(t, variances)
    below, share = _between(t, new)
    log_sizes = torch.lerp(sizes.log()[below], sizes.log()[below + 1], share.to(sizes))
    nearest = (below + (share > 0.5)).to(ladder.latents.device)
    kernel = replace(kernel, step_size=log_sizes.exp())
    return Pilot(new, kernel, ladder.latents[nearest], spent)


def curvature_step_sizes(
    model: LatentModel, x: Tensor, t: Tensor, generator: torch.Generator, chunk_size: int | None
) -> Tensor:
    """Return a step size for each rung from how fast scores change between two draws of the base, (K,).

    On a Gaussian with precision a, h = 1.65 d^(-1/6) a^(-1/2) gives the acceptance 0.574 in high dimension.
    It spares the adaptation a long way: precisions of posteriors span several powers of ten.
    """
    z = model.sample_base((2, len(x)), generator)
    state = Target(model, x, chunk_size).evaluate(z)
    scores = state.score(t.to(z).view(-1, 1, 1))  # (K, 2, B, d)
    precision = (scores[:, 0] - scores[:, 1]).square().sum(-1) / (z[0] - z[1]).square().sum(-1)
    return 1.65 * model.latent_dim ** (-1 / 6) * precision.median(-1).values ** (-1 / 4)


def _between(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each new temperature the old rung below it and the share of the way to the next."""
    old, new = old.double().cpu(), new.double().cpu()
    below = (torch.searchsorted(old, new, right=True) - 1).clamp(max=len(old) - 2)
    return below, (new - old[below]) / (old[below + 1] - old[below])


def _anneal(
    model: LatentModel,
    x: Tensor,
    pilot: Pilot,
    num_draws: int,
    generator: torch.Generator,
    exact_prior_latents: Tensor | None,
    chunk_size: int | None,
) -> Evidence:
    """Anneal along the pilot's schedule, refined, with as many evaluations as a ladder of `num_draws` a rung."""
    coarse = pilot.inverse_temperatures.double().cpu()
    num_chains = ANNEALED_CHAINS if exact_prior_latents is None else len(exact_prior_latents)
    num_temperatures = max(len(coarse), len(coarse) * num_draws // num_chains)
    place = torch.linspace(0, len(coarse) - 1, num_temperatures, dtype=torch.float64)
    below = place.floor().long().clamp(max=len(coarse) - 2)
    share = place - below
    t = torch.lerp(coarse[below], coarse[below + 1], share)
    t[-1] = 1.0
    sizes = torch.as_tensor(pilot.kernel.step_size)
    sizes = torch.lerp(sizes[below], sizes[below + 1], share.to(sizes))
    result = annealed_importance_sampling(
        model,
        x,
        t,
        replace(pilot.kernel, step_size=sizes),
        num_chains,
        generator,
        exact_prior_latents=exact_prior_latents,
        chunk_size=chunk_size,
    )
    return replace(result, num_evaluations=result.num_evaluations + pilot.num_evaluations)
