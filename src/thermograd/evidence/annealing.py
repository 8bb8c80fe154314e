r"""Annealed importance sampling: weighted chains from a known distribution to the posterior.

A chain starts with an exact draw of p_0, and for k = 1, ..., N takes reversible steps that leave p_{t_k}
invariant; log p_t = t r + log p_0 up to a constant, with r the part that is annealed. With

    log w = sum_k (t_k - t_{k-1}) r(z_{k-1})

E[w] is the normaliser at t = 1 over that at t = 0, so log of the mean weight is a stochastic lower bound of its
log (Jensen). The same chain backwards from an exact draw of the posterior has E[1/w] the inverse of that ratio,
so it gives a stochastic upper bound. Exact draws of the posterior exist for simulated images: the latent
vector that made the image is one.

Two paths:

- exact prior draws given: p_0 is the prior, r = l, and the forward pass bounds log p(x) itself;
- none given: p_0 is the base distribution, r = l - E, and the forward pass bounds log p(x) + log Z_a. log Z_a is
  found by its own annealing, r = -E. It is a lower bound too, and two of those do not subtract to a bound.

References:
    Neal (2001), Annealed importance sampling. Statistics and Computing.
    Grosse, Ghahramani, Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thermograd.errors import Caution, InputError
from thermograd.evidence.result import Estimate, log_mean_exp
from thermograd.ladders.schedules import check_schedule
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.mala import MALA
from thermograd.samplers.target import FromBase, Target


@dataclass(frozen=True)
class Annealed:
    """A log ratio of normalisers, in nats.

    Attributes:
        log_ratio: (...), log of the mean weight, or minus log of the mean inverse weight in reverse.
        monte_carlo_error: (...), standard error: the larger of those of weights (delta method) and log weights.
        log_weights: (M, ...), of each chain.
        acceptance: (K - 1,), mean acceptance probability at each temperature above 0.
        num_evaluations: generator evaluations with gradient spent on each image.
    """

    log_ratio: Tensor
    monte_carlo_error: Tensor
    log_weights: Tensor
    acceptance: Tensor
    num_evaluations: float


def annealed_importance_sampling(
    model: LatentModel,
    x: Tensor,
    inverse_temperatures: Tensor,
    kernel: MALA,
    num_chains: int,
    generator: torch.Generator,
    *,
    num_steps: int = 1,
    exact_prior_latents: Tensor | None = None,
    chunk_size: int | None = None,
) -> Estimate:
    """Estimate log p(x) by annealing forwards; a stochastic lower bound where exact prior draws are given.

    Without them log Z_a is annealed on its own with as many chains as there are images and chains together,
    and its standard error is added in squares. The kernel must be reversible and its steps fixed, hence `MALA`.

    Args:
        model: any `LatentModel`.
        x: images (B, *image_shape).
        inverse_temperatures: (K,), from exactly 0 to exactly 1; AIS wants many, 100 to 10,000.
        kernel: its step size is a number or (K,) for one per temperature.
        num_chains: M per image, at least 2.
        generator: source of all randomness.
        num_steps: steps at each temperature.
        exact_prior_latents: (M, B, d), exact independent draws of the prior, for models that have them.
        chunk_size: the most latents evaluated at once.

    Raises:
        InputError: a bad schedule, fewer than 2 chains, or prior draws of another shape.
    """
    shape = (num_chains, len(x))
    target: Target
    if exact_prior_latents is None:
        target, start = FromBase(model, x, chunk_size), model.sample_base(shape, generator)
    else:
        wanted = (*shape, model.latent_dim)
        if exact_prior_latents.shape != wanted:
            got = tuple(exact_prior_latents.shape)
            raise InputError(f"`exact_prior_latents` must have shape {wanted}, got {got}.")
        target, start = Target(model, x, chunk_size), exact_prior_latents
    run = anneal(target, start, inverse_temperatures, kernel, num_steps, generator)
    estimate, error, lower = run.log_ratio, run.monte_carlo_error, run.log_ratio
    warnings = _spread_warnings(run.log_weights, "of annealing")
    if exact_prior_latents is None:
        # No likelihood narrows this path, so all of it takes the step size of the lowest temperature.
        wide = replace(kernel, step_size=torch.as_tensor(kernel.step_size).flatten()[0])
        partition = log_partition(
            model, inverse_temperatures, wide, shape[0] * shape[1], generator, num_steps=num_steps
        )
        estimate = estimate - partition.log_ratio
        error = (error.square() + partition.monte_carlo_error.square()).sqrt()
        warnings += _spread_warnings(partition.log_weights, "of annealing towards log Z_a")
    return Estimate(
        method="annealed-importance-sampling",
        log_evidence=estimate,
        monte_carlo_error=error,
        quadrature_error=torch.zeros_like(estimate),
        lower=None if exact_prior_latents is None else lower,
        upper=None,
        inverse_temperatures=inverse_temperatures.double(),
        expected_log_likelihood=None,
        variance_log_likelihood=None,
        num_evaluations=run.num_evaluations,
        warnings=tuple(warnings),
    )


def log_partition(
    model: LatentModel,
    inverse_temperatures: Tensor,
    kernel: MALA,
    num_chains: int,
    generator: torch.Generator,
    *,
    num_steps: int = 1,
) -> Annealed:
    """Estimate log Z_a, the log of the mean of exp(-E) under the base distribution; a stochastic lower bound.

    It costs no evaluation of the generator.

    Raises:
        InputError: a bad schedule or fewer than 2 chains.
    """
    start = model.sample_base((num_chains,), generator)
    return replace(
        anneal(FromBase(model), start, inverse_temperatures, kernel, num_steps, generator),
        num_evaluations=0.0,
    )


def reverse_annealing(
    model: LatentModel,
    x: Tensor,
    posterior_latents: Tensor,
    inverse_temperatures: Tensor,
    kernel: MALA,
    num_chains: int,
    generator: torch.Generator,
    *,
    num_steps: int = 1,
    num_apart: int = 100,
    chunk_size: int | None = None,
) -> Annealed:
    """Anneal from the posterior down to the prior: a stochastic upper bound of log p(x) of simulated images.

    With a forward pass from exact prior draws the two bracket log p(x). It is valid only where
    `posterior_latents` are exact, as the latents from which the model itself made the images. Chains of an image share
    that start, and take steps at t = 1 first, which keep the posterior and part the chains: without them their spread
    knows nothing of the start's chance, and 95 % bars cover 53 to 68 %.

    Args:
        model: any `LatentModel` whose prior can be drawn exactly.
        x: simulated images (B, *image_shape).
        posterior_latents: (B, d), the latent vectors that made them.
        inverse_temperatures: (K,), as for the forward pass; they are walked downwards.
        kernel: its step size is a number or (K,) for one per temperature.
        num_chains: M per image, at least 2.
        generator: source of all randomness.
        num_steps: steps at each temperature.
        num_apart: steps at t = 1 before, as many as a chain needs to forget its start.
        chunk_size: the most latents evaluated at once.

    Raises:
        InputError: a bad schedule, fewer than 2 chains, or latents of another shape.
    """
    wanted = (len(x), model.latent_dim)
    if posterior_latents.shape != wanted:
        got = tuple(posterior_latents.shape)
        raise InputError(f"`posterior_latents` must have shape {wanted}, got {got}.")
    target = Target(model, x, chunk_size)
    state = kernel.init(target, posterior_latents.expand(num_chains, *wanted))
    sizes = torch.as_tensor(kernel.step_size)
    last = replace(kernel, step_size=sizes[-1] if sizes.dim() else kernel.step_size)
    for _ in range(num_apart):
        state, _ = last.step(target, state, torch.ones_like(state.log_prior), generator)
    run = anneal(target, state.position, inverse_temperatures, kernel, num_steps, generator, downwards=True)
    return replace(run, num_evaluations=run.num_evaluations + num_chains * (1 + num_apart))


def anneal(
    target: Target,
    start: Tensor,
    inverse_temperatures: Tensor,
    kernel: MALA,
    num_steps: int,
    generator: torch.Generator,
    downwards: bool = False,
) -> Annealed:
    """Walk chains (M, ..., d) along the temperatures and weigh them.

    Raises:
        InputError: a bad schedule, `num_steps` below 1, fewer than 2 chains, or a step size of another shape.
    """
    check_schedule(inverse_temperatures)
    if num_steps < 1:
        raise InputError(f"`num_steps` must be at least 1, got {num_steps}.")
    if len(start) < 2:
        raise InputError(f"`num_chains` must be at least 2, got {len(start)}.")
    t = inverse_temperatures.to(start)
    sizes = torch.as_tensor(kernel.step_size).to(start)
    if sizes.dim() and sizes.shape != t.shape:
        raise InputError(
            f"`step_size` must be one number or have shape ({len(t)},), got {tuple(sizes.shape)}."
        )
    gaps = t.diff(dim=0)
    sizes = sizes.expand(len(t)) if sizes.dim() == 0 else sizes
    state = kernel.init(target, start)
    log_weights = torch.zeros_like(state.log_prior)
    acceptance = torch.zeros(len(gaps), dtype=t.dtype, device=t.device)
    order = range(len(gaps), 0, -1) if downwards else range(1, len(t))
    for k in order:
        if not downwards:
            log_weights = log_weights + gaps[k - 1] * state.log_likelihood
        at = replace(kernel, step_size=sizes[k])
        for _ in range(num_steps):
            state, info = at.step(target, state, t[k], generator)
            acceptance[k - 1] += info.acceptance.mean() / num_steps
        if downwards:
            log_weights = log_weights + gaps[k - 1] * state.log_likelihood
    sign = -1 if downwards else 1
    log_ratio = sign * log_mean_exp(sign * log_weights, 0)
    relative = (sign * (log_weights - log_ratio)).exp()
    # The spread of the weights understates the error when one of few chains holds all the weight; that of the
    # log weights does not.
    error = torch.maximum(relative.std(0), log_weights.std(0)) / len(start) ** 0.5
    return Annealed(log_ratio, error, log_weights, acceptance, len(start) * (1.0 + len(gaps) * num_steps))


def _spread_warnings(log_weights: Tensor, which: str) -> list[Caution]:
    spread, num_chains = float(log_weights.std(0).median()), len(log_weights)
    # Were the weights log-normal, the log of their mean would lie low by about this much (Jensen, second order).
    bias = math.expm1(min(spread**2, 100.0)) / (2 * num_chains)
    if not bias > spread / num_chains**0.5 / 2:
        return []
    return [
        Caution(
            "skewed",
            f"log weights {which} have standard deviation {spread:.1f}, too much for {num_chains} chains: the estimate "
            f"lies low, perhaps by more than its error; use more temperatures, steps or chains.",
        )
    ]
