r"""Sequential Monte Carlo: annealing whose particles are resampled, temperatures and step sizes for each image.

Particles start from p_0 and follow p_t ∝ exp(t r) p_0 to t = 1, r being what a `Target` keeps as log-likelihood. At
each temperature every column (an image, or one independent run on an image)

1. takes the next temperature by bisection, such that the conditional effective size of exp(Δt r) is the threshold;
2. multiplies its weights, and resamples (systematically) where their effective size is below half of the particles;
3. takes reversible steps (MALA) at the new temperature, with the step size that the last acceptance asks for.

log_ratio estimates log of the normaliser at t = 1 over that at t = 0. With temperatures and step sizes of an earlier,
independent run (`plan`), exp(log_ratio) is unbiased at any number of particles. Temperatures and step sizes chosen on
the way hang on the particles they serve, which costs a bias of the order of 1 / M.

References:
    Del Moral, Doucet, Jasra (2006), Sequential Monte Carlo samplers. JRSS B.
    Zhou, Johansen, Aston (2016), Toward automatic model comparison: an adaptive sequential Monte Carlo approach. JCGS.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thermograd.config.names import SMALLEST_CLOUD
from thermograd.errors import InputError, check_positive
from thermograd.ladders.adapted import next_temperature
from thermograd.progress import steps
from thermograd.samplers.mala import MALA
from thermograd.samplers.target import ChainState, Target

ACCEPTANCE = 0.574  # which step sizes are steered to; see `MALA`
FIRST_STEP = 1.65  # MALA's first step size where the score has variance 1, times d^(-1/6)


@dataclass(frozen=True)
class Particles:
    """Equally weighted particles at t = 1, and what happened on the way; C stands for the columns' axes.

    Attributes:
        latents: (M, *C, d).
        log_likelihood: (M, *C), the part that was annealed, at `latents`.
        log_ratio: (*C), estimate of the log ratio of normalisers, in nats.
        inverse_temperatures: (K, *C), after each stage; columns that arrive early stay at 1, and where all have
            arrived, no stage follows.
        step_sizes: (K, *C), of each stage.
        acceptance: (K, *C), mean acceptance probability of each stage.
        effective_share: (*C), the smallest conditional effective size on the way, as a share of M.
        num_ancestors: (*C), distinct particles at the start from which those at the end descend.
        num_evaluations: evaluations spent on each column.
    """

    latents: Tensor
    log_likelihood: Tensor
    log_ratio: Tensor
    inverse_temperatures: Tensor
    step_sizes: Tensor
    acceptance: Tensor
    effective_share: Tensor
    num_ancestors: Tensor
    num_evaluations: int


def run_smc(
    target: Target,
    start: Tensor,
    generator: torch.Generator,
    *,
    num_temperatures: int,
    threshold: float | Tensor = 0.5,
    step_size: float | Tensor = 0.1,
    num_steps: int = 1,
    first: Tensor | None = None,
    plan: Particles | None = None,
    whole: bool = False,
) -> Particles:
    """Carry particles from p_0 to t = 1.

    Args:
        target: what is sampled; its log-likelihood is annealed.
        start: (M, *C, d), draws of p_0, or of p_t at t = `first`.
        generator: source of all randomness; as many numbers are drawn whatever the images are, so that one image
            changes nothing for its neighbours.
        num_temperatures: the most stages, of which the last is at t = 1. A column that needs more goes on by
            even steps in log t, and `effective_share` shows it.
        threshold: wanted conditional effective size as a share of M, a number or (*C).
        step_size: MALA's at the first stage, a number or (*C); it adapts from stage to stage.
        num_steps: steps at each stage.
        first: (*C), the temperature of `start`, for particles that were taken from a bank; None for 0.
        plan: a run from which temperatures and step sizes are taken as they are.
        whole: go on at t = 1 until all stages are spent, so that the cost is known before.

    Raises:
        InputError: fewer than 16 particles, counts below 1, or a threshold outside (0, 1).
    """
    check_positive("num_temperatures", num_temperatures)
    check_positive("num_steps", num_steps)
    if len(start) < SMALLEST_CLOUD:
        raise InputError(f"`start` must hold at least {SMALLEST_CLOUD} particles, got {len(start)}.")
    share = torch.as_tensor(threshold, device=start.device)
    if not ((share > 0) & (share < 1)).all():
        raise InputError(f"`threshold` must lie between 0 and 1, got {threshold}.")
    columns = start.shape[1:-1]
    state = target.evaluate(start)
    t = start.new_zeros(columns) if first is None else first.to(start)
    sizes = torch.as_tensor(step_size).to(start).expand(columns).clone()
    log_weights, log_ratio = start.new_zeros(start.shape[:-1]).double(), start.new_zeros(columns).double()
    origin = (
        torch.arange(len(start), device=start.device).view(-1, *[1] * len(columns)).expand(start.shape[:-1])
    )
    smallest = torch.ones_like(t)
    history: list[tuple[Tensor, Tensor, Tensor]] = []
    for k in steps(range(num_temperatures), "temperatures"):
        if plan is not None:
            new, sizes = plan.inverse_temperatures[k].to(t), plan.step_sizes[k].to(t)
        else:
            # What is left of log t is shared out evenly where the threshold would need more stages than are left.
            pace = t ** (1 - 1 / (num_temperatures - k))
            new = torch.maximum(next_temperature(state.log_likelihood, t, share, log_weights), pace)
        increment = (new - t).double() * state.log_likelihood.double()
        smallest = torch.minimum(smallest, conditional_effective_size(increment, log_weights).to(t))
        log_ratio = log_ratio + (log_weights.log_softmax(0) + increment).logsumexp(0)
        log_weights, t = (log_weights + increment).log_softmax(0), new
        last = bool((t == 1).all())
        state, log_weights, origin = _resample(state, log_weights, origin, generator, everywhere=last)
        total = torch.zeros_like(t)
        for _ in range(num_steps):
            state, info = MALA(sizes).step(target, state, t, generator)
            total = total + info.acceptance.mean(0)
        acceptance = total / num_steps
        history.append((t, sizes, acceptance))
        if last and not whole:
            break
        sizes = sizes * torch.exp(acceptance - ACCEPTANCE)
    temperatures, used, accepted = (torch.stack(values) for values in zip(*history, strict=True))
    arrived = origin.sort(0).values
    return Particles(
        state.position,
        state.log_likelihood,
        log_ratio,
        temperatures,
        used,
        accepted,
        smallest,
        1 + (arrived.diff(dim=0) > 0).sum(0),
        len(start) * (1 + len(history) * num_steps),
    )


def run_smc_from_bank(
    target: Target,
    bank: Tensor,
    table: Tensor,
    number: int,
    generator: torch.Generator,
    *,
    num_temperatures: int,
    num_steps: int = 1,
    whole: bool = False,
) -> Particles:
    """Carry particles from the prior to t = 1; weights of a bank of draws make the first, widest step.

    Args:
        target: what is sampled.
        bank: (N, *C, d), draws of p_0, which columns may share.
        table: (N, *C), log-likelihoods of the bank.
        number: M, of particles.
        generator: source of all randomness.
        num_temperatures: as for `run_smc`, after the bank's.
        num_steps: as for `run_smc`.
        whole: as for `run_smc`.

    Returns:
        Particles whose `log_ratio` holds the bank's step. The bank's own evaluations are not counted.
    """
    first = next_temperature(table, torch.zeros_like(table[0]), min(0.5, 2 * number / len(table)))
    start = take(bank, systematic_resample(first * table, number, generator))
    score = target.evaluate(start).score(first)
    size = FIRST_STEP * bank.shape[-1] ** (-1 / 6) / score.square().mean((0, -1)).sqrt()
    particles = run_smc(
        target,
        start,
        generator,
        num_temperatures=num_temperatures,
        step_size=size,
        num_steps=num_steps,
        first=first,
        whole=whole,
    )
    step = (first * table).double().logsumexp(0) - math.log(len(table))
    return replace(
        particles,
        log_ratio=step + particles.log_ratio,
        num_evaluations=particles.num_evaluations + number,
    )


def chains_by_smc(
    target: Target, bank: Tensor, num_chains: int, num_temperatures: int, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Return places at t = 1 for chains to go on from, (1, M, B, d), and what they cost per image.

    Args:
        target: the power posteriors of images.
        bank: (N, d), draws of the prior.
        num_chains: M; at least 16 particles are carried, and chains take their places evenly among them.
        num_temperatures: all of which are spent, so that the cost is known before.
        generator: source of all randomness.
    """
    assert target.x is not None
    num_images, number = len(target.x), max(SMALLEST_CLOUD, num_chains)
    table = target.model.log_likelihood_table(target.x, bank)
    columns = bank.unsqueeze(1).expand(-1, num_images, -1)
    particles = run_smc_from_bank(
        target, columns, table, number, generator, num_temperatures=num_temperatures, whole=True
    )
    # Copies of one particle stand side by side after resampling, so places are taken apart from each other.
    apart = torch.arange(num_chains, device=bank.device) * number // num_chains
    return particles.latents[apart].unsqueeze(0), particles.num_evaluations + -(-len(bank) // num_images)


def conditional_effective_size(increment: Tensor, log_weights: Tensor) -> Tensor:
    """Return (sum W w)^2 / sum W w^2 with W the weights so far and w = exp(increment), (M, *C) to (*C), in (0, 1]."""
    weights = log_weights.log_softmax(0)
    return (2 * (weights + increment).logsumexp(0) - (weights + 2 * increment).logsumexp(0)).exp()


def systematic_resample(log_weights: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Return the indices of `number` particles for each column, (M, *C) to (number, *C).

    Each particle is taken number x weight times, rounded up or down, and that many times on average.
    """
    flat = log_weights.flatten(1).double()
    edges = flat.softmax(0).cumsum(0)
    edges = (edges / edges[-1]).mT.contiguous()
    shift = torch.rand((flat.shape[1], 1), generator=generator, dtype=flat.dtype, device=flat.device)
    points = (torch.arange(number, device=flat.device) + shift) / number
    index = torch.searchsorted(edges, points, right=True).clamp(max=len(flat) - 1)
    return index.mT.reshape(number, *log_weights.shape[1:])


def take(field: Tensor, index: Tensor) -> Tensor:
    """Return a field (M, *C, ...) at particles (N, *C), as (N, *C, ...)."""
    tail = field.shape[index.dim() :]
    return field.gather(0, index.view(*index.shape, *[1] * len(tail)).expand(*index.shape, *tail))


def _resample(
    state: ChainState, log_weights: Tensor, origin: Tensor, generator: torch.Generator, everywhere: bool
) -> tuple[ChainState, Tensor, Tensor]:
    """Resample the columns whose effective size is below M / 2, or all of them."""
    number = len(log_weights)
    drawn = systematic_resample(log_weights, number, generator)
    low = (-(2 * log_weights).logsumexp(0)).exp() < number / 2
    keep = torch.arange(number, device=drawn.device).view(-1, *[1] * (drawn.dim() - 1))
    index = drawn if everywhere else torch.where(low, drawn, keep)
    even = torch.zeros_like(log_weights) if everywhere else torch.where(low, 0.0, log_weights)
    return ChainState(*(take(field, index) for field in state)), even.log_softmax(0), take(origin, index)
