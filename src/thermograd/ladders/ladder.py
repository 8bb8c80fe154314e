"""The ladder of power posteriors: the one thing that evidence, gradients and diagnostics eat.

Rungs, chains and images are one flat batch to the model: there is no Python loop over temperatures. The
annealed start alone climbs rung by rung, since each rung begins where the one below it ended.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from thermograd.errors import InputError, check_positive
from thermograd.ladders.schedules import check_schedule
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.langevin import ULA
from thermograd.samplers.mala import MALA, adapted_step_size
from thermograd.samplers.replica_exchange import RoundTrips, exchange
from thermograd.samplers.target import ChainState, Target

Kernel = ULA | MALA
Start = Literal["base", "prior", "annealed", "persistent"]


@dataclass(frozen=True)
class Ladder:
    """Draws on K rungs by M chains for B images.

    Attributes:
        inverse_temperatures: (K,) of the rungs held for each image; the last is 1. The first is 0 unless the
            lower end is shared, as in maximum likelihood, where only `prior_latents` stand at t = 0.
        latents: (K, M, B, d).
        log_likelihood: (K, M, B), in nats.
        energy: (K, M, B).
        prior_latents: (M0, d), draws at t = 0 shared by all images, or None.
        acceptance: (K,), mean acceptance probability of each rung.
        score_norm: (K,), mean length of the score where the last step set out from; on dealt prior draws, there.
        step_sizes: (K,), as they stood at the end.
        num_evaluations: generator evaluations spent on each image. All have a gradient in z but ULA's last and
            those of dealt prior draws, which are counted in full.
        swap_rates: (K - 1,), mean swap probability of each pair, or None without exchange.
        round_trips: mean number of round trips of a ladder, or None without exchange.
        log_likelihood_trace: (S, K, M, B) of every step after burning in, or None.
        energy_trace: (S, K, M, B), or None.
        latents_trace: (S, K, M, B, d), or None.
        score_trace: (S, K, M, B, d), scores of each rung's own power posterior at `latents_trace`, or None.
    """

    inverse_temperatures: Tensor
    latents: Tensor
    log_likelihood: Tensor
    energy: Tensor
    prior_latents: Tensor | None = None
    acceptance: Tensor | None = None
    score_norm: Tensor | None = None
    step_sizes: Tensor | None = None
    num_evaluations: float = 0.0
    swap_rates: Tensor | None = None
    round_trips: float | None = None
    log_likelihood_trace: Tensor | None = None
    energy_trace: Tensor | None = None
    latents_trace: Tensor | None = None
    score_trace: Tensor | None = None

    @property
    def num_rungs(self) -> int:
        """Return the number of rungs, both ends counted."""
        return len(self.inverse_temperatures) + (not self.has_prior_rung)

    @property
    def num_chains(self) -> int:
        """Return M, the number of chains on each rung of an image."""
        return self.latents.shape[1]

    @property
    def num_images(self) -> int:
        """Return B."""
        return self.latents.shape[2]

    @property
    def has_prior_rung(self) -> bool:
        """Return whether each image holds draws of its own at t = 0."""
        return bool(self.inverse_temperatures[0] == 0)

    def chains(self, index: slice | Tensor) -> "Ladder":
        """Return the ladder with some of its chains; shared prior draws stay whole."""
        return replace(
            self,
            latents=self.latents[:, index],
            log_likelihood=self.log_likelihood[:, index],
            energy=self.energy[:, index],
            log_likelihood_trace=None,
            energy_trace=None,
            latents_trace=None,
            score_trace=None,
        )

    def prior_half(self, which: int) -> "Ladder":
        """Return the ladder with the first (0) or second (1) half of the shared prior draws."""
        if self.prior_latents is None:
            return self
        half = len(self.prior_latents) // 2
        return replace(self, prior_latents=self.prior_latents[which * half : (which + 1) * half])


def sample_ladder(
    model: LatentModel,
    x: Tensor,
    inverse_temperatures: Tensor,
    kernel: Kernel,
    num_chains: int,
    num_steps: int,
    start: Start,
    generator: torch.Generator,
    *,
    num_burn_in: int = 0,
    num_start_steps: int = 1,
    exchange_rungs: bool = False,
    first_parity: int = 0,
    shared_prior: bool = False,
    prior_latents: Tensor | None = None,
    initial_latents: Tensor | None = None,
    chunk_size: int | None = None,
    trace: bool = False,
    trace_scores: bool = False,
) -> Ladder:
    """Sample the power posteriors of images x on every rung of a ladder.

    Args:
        model: any `LatentModel`.
        x: images (B, *image_shape).
        inverse_temperatures: (K,), rising from exactly 0 to exactly 1.
        kernel: `ULA` or `MALA`; its step size is a number or (K,) for one a rung.
        num_chains: M, chains on each rung of each image.
        num_steps: steps after burning in, on all rungs at once.
        start: where chains begin: "base" (draws of the base distribution), "prior" (`prior_latents`),
            "annealed" (from the base distribution up the ladder, `num_start_steps` on each rung),
            "persistent" (`initial_latents`).
        generator: source of all randomness.
        num_burn_in: steps before, in which MALA's step sizes adapt on each rung; they are frozen afterwards.
        num_start_steps: steps on each rung of the annealed start.
        exchange_rungs: let neighbouring rungs swap states after each step.
        first_parity: of the pairs that swap after the first step; where chains go on from another call, the number of
            steps before it, since a state crosses the ladder only if even and odd pairs alternate.
        shared_prior: hold no rung at t = 0 for each image: `prior_latents` stand for it (maximum likelihood).
        prior_latents: (M0, d) draws of the prior. Where each image needs draws at t = 0, rungs do not
            exchange and no trace is kept, M0 = M * B of them are dealt out to the images instead of running
            chains there.
        initial_latents: (K, M, B, d), or (K - 1, M, B, d) where prior draws stand for the lowest rung; for
            the persistent start.
        chunk_size: the most latents evaluated at once; it bounds memory.
        trace: keep log-likelihood and energy of every step.
        trace_scores: keep latents and scores of every step as well, which control variates need.

    Returns:
        A `Ladder`.

    Raises:
        InputError: a bad schedule, `num_steps` or `num_chains` below 1, or a start without what it needs.
    """
    check_schedule(inverse_temperatures)
    counts = {"num_steps": num_steps, "num_chains": num_chains, "num_start_steps": num_start_steps}
    for name, count in counts.items():
        check_positive(name, count)
    if num_burn_in < 0:
        raise InputError(f"`num_burn_in` must not be negative, got {num_burn_in}.")
    if chunk_size is not None:
        check_positive("chunk_size", chunk_size)
    if shared_prior and (prior_latents is None or exchange_rungs):
        raise InputError("`shared_prior` needs `prior_latents`, and excludes `exchange_rungs`.")
    t = inverse_temperatures.to(dtype=_dtype(model), device=x.device)
    step_sizes = _step_sizes(kernel, t)
    trace = trace or trace_scores
    dealt = prior_latents if not exchange_rungs and not shared_prior and not trace else None
    if dealt is not None and len(dealt) != num_chains * len(x):
        raise InputError(
            f"`prior_latents` must hold {num_chains} x {len(x)} draws to be dealt out to the images, "
            f"got {len(dealt)}."
        )
    lowest = 1 if shared_prior or dealt is not None else 0  # rungs below it run no chain
    target = Target(model, x, chunk_size)
    kernel = replace(kernel, step_size=step_sizes[lowest:])
    run = _Run(target, t[lowest:], kernel, exchange_rungs, first_parity, generator)
    shape = (len(t) - lowest, num_chains, len(x))
    state = run.begin(shape, start, num_start_steps, prior_latents, initial_latents)
    for step in range(num_burn_in):
        state, acceptance = run.step(state)
        run.adapt(acceptance, gain=1 / (1 + step) ** 0.6)
    run.reset_counters()
    traces = []
    for step in range(num_steps):
        state, _ = run.step(state, last=step == num_steps - 1 and not trace_scores)
        if trace:
            traces.append(run.record(state, trace_scores))
    step_sizes[lowest:] = run.step_sizes
    bottom = _deal(target, dealt, shape) if dealt is not None else None
    return run.ladder(state, bottom, step_sizes[1:] if shared_prior else step_sizes, prior_latents, traces)


class _Run:
    """The rungs that run chains, and what is counted while they run."""

    def __init__(
        self,
        target: Target,
        t: Tensor,
        kernel: Kernel,
        exchange_rungs: bool,
        first_parity: int,
        generator: torch.Generator,
    ):
        self.target, self.t, self.kernel = target, t, kernel
        self.step_sizes = torch.as_tensor(kernel.step_size)
        self.exchange_rungs, self.first_parity, self.generator = exchange_rungs, first_parity, generator
        self.num_evaluated = 0
        self.reset_counters()

    def reset_counters(self) -> None:
        self.num_steps = 0
        self.acceptance = torch.zeros_like(self.t)
        self.score_norm = torch.zeros_like(self.t)
        self.swap_probability = torch.zeros_like(self.t[1:])
        self.trips: RoundTrips | None = None

    def begin(
        self,
        shape: tuple[int, int, int],
        start: Start,
        num_start_steps: int,
        prior_latents: Tensor | None,
        initial_latents: Tensor | None,
    ) -> ChainState:
        model = self.target.model
        if start == "persistent":
            wanted = (*shape, model.latent_dim)
            if initial_latents is None or initial_latents.shape != wanted:
                got = None if initial_latents is None else tuple(initial_latents.shape)
                raise InputError(
                    f"`initial_latents` must have shape {wanted} for a persistent start, got {got}."
                )
            position = initial_latents
        elif start == "prior":
            if prior_latents is None:
                raise InputError("`prior_latents` must be given for a start from the prior, got None.")
            pick = torch.randint(
                len(prior_latents), shape, generator=self.generator, device=prior_latents.device
            )
            position = prior_latents[pick]
        elif start == "annealed":
            return self._climb(shape, num_start_steps)
        elif start == "base":
            position = model.sample_base(shape, self.generator)
        else:
            raise InputError(f"`start` must be base, prior, annealed or persistent, got {start!r}.")
        self._count(shape[0], 1)
        return self.kernel.init(self.target, position)

    def _climb(self, shape: tuple[int, int, int], num_start_steps: int) -> ChainState:
        """Start every rung where the rung below it ended, from the base distribution up."""
        state = self.kernel.init(self.target, self.target.model.sample_base((1, *shape[1:]), self.generator))
        self._count(1, 1)
        rungs = []
        for k in range(shape[0]):
            kernel = replace(self.kernel, step_size=self.step_sizes[k])
            for _ in range(num_start_steps):
                state, _ = kernel.step(self.target, state, self.t[k].view(1, 1, 1), self.generator)
                self._count(1, 1)
            rungs.append(state)
        return ChainState(*(torch.cat(fields) for fields in zip(*rungs, strict=True)))

    def step(self, state: ChainState, last: bool = False) -> tuple[ChainState, Tensor]:
        kernel = replace(self.kernel, step_size=self.step_sizes.view(-1, 1, 1))
        t = self.t.view(-1, 1, 1)
        self.score_norm = state.score(t).norm(dim=-1).mean((1, 2))
        # A kernel with a test of acceptance needs the score at its proposal all the same.
        take = kernel.last_step if last and isinstance(kernel, ULA) else kernel.step
        state, info = take(self.target, state, t, self.generator)
        self._count(len(self.t), 1)
        acceptance = info.acceptance.mean((1, 2))
        self.acceptance += acceptance
        if self.exchange_rungs:
            state, source, probability = exchange(
                state, self.t, (self.first_parity + self.num_steps) % 2, self.generator
            )
            self.swap_probability += probability.mean((1, 2))
            if self.trips is None:
                self.trips = RoundTrips(source)
            self.trips.update(source)
        self.num_steps += 1
        return state, acceptance

    def adapt(self, acceptance: Tensor, gain: float) -> None:
        if isinstance(self.kernel, MALA):
            self.step_sizes = adapted_step_size(
                self.step_sizes, acceptance, self.kernel.target_acceptance, gain
            )

    def record(self, state: ChainState, scores: bool) -> dict[str, Tensor]:
        """Return what the trace keeps of one step, by the names of the ladder's fields."""
        kept = {"log_likelihood_trace": state.log_likelihood, "energy_trace": state.energy}
        if scores:
            kept["latents_trace"] = state.position
            kept["score_trace"] = state.score(self.t.view(-1, 1, 1))
        return kept

    def _count(self, num_rungs: int, num_steps: int) -> None:
        self.num_evaluated += num_rungs * num_steps

    def ladder(
        self,
        state: ChainState,
        bottom: ChainState | None,
        step_sizes: Tensor,
        prior_latents: Tensor | None,
        traces: list[dict[str, Tensor]],
    ) -> Ladder:
        num_chains = state.position.shape[1]
        acceptance = self.acceptance / self.num_steps
        score_norm, t = self.score_norm, self.t
        if bottom is not None:
            t = torch.cat([t.new_zeros(1), t])
            acceptance = torch.cat([acceptance.new_ones(1), acceptance])
            score_norm = torch.cat([bottom.prior_score.norm(dim=-1).mean().view(1), score_norm])
            state = ChainState(*(torch.cat(pair) for pair in zip(bottom, state, strict=True)))
        ladder = Ladder(
            inverse_temperatures=t,
            latents=state.position,
            log_likelihood=state.log_likelihood,
            energy=state.energy,
            prior_latents=prior_latents,
            acceptance=acceptance,
            score_norm=score_norm,
            step_sizes=step_sizes,
            num_evaluations=num_chains * (self.num_evaluated + (bottom is not None)),
            swap_rates=self.swap_probability / self.num_steps if self.exchange_rungs else None,
            round_trips=float(self.trips.count.double().mean()) if self.trips is not None else None,
        )
        if not traces:
            return ladder
        stacked: dict[str, Any] = {name: torch.stack([step[name] for step in traces]) for name in traces[0]}
        return replace(ladder, **stacked)


def _deal(target: Target, prior_latents: Tensor, shape: tuple[int, int, int]) -> ChainState:
    """Deal draws of the prior out to chains and images, as the rung t = 0."""
    _, num_chains, num_images = shape
    return target.measure(prior_latents.reshape(1, num_chains, num_images, -1))


def _step_sizes(kernel: Kernel, t: Tensor) -> Tensor:
    """Return one positive step size for each rung, (K,)."""
    sizes = torch.as_tensor(kernel.step_size, dtype=t.dtype, device=t.device)
    if sizes.dim() and sizes.shape != t.shape:
        raise InputError(
            f"`step_size` must be one number or have shape ({len(t)},), got {tuple(sizes.shape)}."
        )
    if not (sizes.isfinite() & (sizes > 0)).all():
        raise InputError(f"`step_size` must be positive, got {sizes.tolist()}.")
    return sizes.expand(len(t)).clone()


def _dtype(model: LatentModel) -> torch.dtype:
    return next(model.parameters()).dtype
