"""The ladder of power posteriors: the one thing that evidence, gradients and diagnostics read.

    sampler = LadderSampler(power_schedule(8, 3.0), MALA(0.1), num_chains=2, exchange=True)
    state = sampler.start(model, x, generator)
    sampler, state = sampler.adapt(model, x, state, 50, generator)      # step sizes follow the acceptance
    ladder, info = sampler.run(model, x, state, 50, generator)          # and are frozen
    ladder, info, trace = sampler.trace(model, x, state, 50, generator) # the same draws, and every step of the way

Rungs, chains and images are one flat batch to the model: there is no Python loop over temperatures. The annealed start
alone climbs rung by rung, since each rung begins where the one below it ended.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from thermograd.errors import InputError, check_positive
from thermograd.ladders.schedules import check_schedule
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.covariance import base_covariance, learn_from_chains
from thermograd.samplers.kernel import Kernel, adapted_step_size
from thermograd.samplers.mala import MALA, preconditioned
from thermograd.samplers.replica_exchange import RoundTrips, exchange
from thermograd.samplers.target import ChainState, Target, columns

Start = Literal["base", "prior", "annealed"]
Bottom = Literal["chains", "dealt", "shared"]

LEARNING_GAIN, LEARNING_STEPS = 0.4, 25
"""Of a covariance in `adapt`: the gain of its first pairs, and the steps in which it falls by half."""


@dataclass(frozen=True)
class Ladder:
    """Draws on K rungs by M chains for B images, and nothing but draws.

    Attributes:
        inverse_temperatures: (K,) of the rungs held for each image, or (K, B) for temperatures per image; the last
            is 1. The first is 0 unless the lower end is shared, where only `prior_latents` stand at t = 0.
        latents: (K, M, B, d).
        log_likelihood: (K, M, B), in nats.
        energy: (K, M, B).
        prior_latents: (M0, d), draws at t = 0 shared by all images, or None.
        score: (K, M, B, d), gradient in z of each rung's own log density, or None.
        prior_score: (M0, d), that of the prior at `prior_latents`, or None.
        num_states: S, states that each chain gives; state s of chain m stands at s M + m on the second axis.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(4, torch.Generator().manual_seed(1))
        >>> ladder, _, _ = tg.sample_ladder(twin, x, tg.power_schedule(5, 3.0), torch.Generator())
        >>> ladder
        Ladder(5 rungs, 2 chains, 4 images)
    """

    inverse_temperatures: Tensor
    latents: Tensor
    log_likelihood: Tensor
    energy: Tensor
    prior_latents: Tensor | None = None
    score: Tensor | None = None
    prior_score: Tensor | None = None
    num_states: int = 1

    def __repr__(self) -> str:
        """Return counts, no tensors."""
        return f"Ladder({self.num_rungs} rungs, {self.num_chains} chains, {self.num_images} images)"

    @property
    def num_rungs(self) -> int:
        """Return the number of rungs, both ends counted."""
        return len(self.inverse_temperatures) + (not self.has_prior_rung)

    @property
    def num_draws(self) -> int:
        """Return S M, the number of draws on each rung of an image."""
        return self.latents.shape[1]

    @property
    def num_chains(self) -> int:
        """Return M, the number of chains on each rung of an image."""
        return self.num_draws // self.num_states

    @property
    def num_images(self) -> int:
        """Return B."""
        return self.latents.shape[2]

    @property
    def has_prior_rung(self) -> bool:
        """Return whether each image holds draws of its own at t = 0."""
        return bool((self.inverse_temperatures[0] == 0).all())

    def chains(self, index: slice | Tensor) -> "Ladder":
        """Return the ladder with some of its chains, all states of each; shared prior draws stay whole."""

        def pick(values: Tensor) -> Tensor:
            return values.unflatten(1, (self.num_states, -1))[:, :, index].flatten(1, 2)

        return replace(
            self,
            latents=pick(self.latents),
            log_likelihood=pick(self.log_likelihood),
            energy=pick(self.energy),
            score=None if self.score is None else pick(self.score),
        )

    def last_states(self) -> "Ladder":
        """Return the ladder with the last state of each chain alone."""
        if self.num_states == 1:
            return self
        last = slice(-self.num_chains, None)
        return replace(
            self,
            latents=self.latents[:, last],
            log_likelihood=self.log_likelihood[:, last],
            energy=self.energy[:, last],
            score=None if self.score is None else self.score[:, last],
            num_states=1,
        )

    def prior_half(self, which: int) -> "Ladder":
        """Return the ladder with the first (0) or second (1) half of the shared prior draws."""
        if self.prior_latents is None:
            return self
        half = len(self.prior_latents) // 2
        part = slice(which * half, (which + 1) * half)
        score = None if self.prior_score is None else self.prior_score[part]
        return replace(self, prior_latents=self.prior_latents[part], prior_score=score)


@dataclass(frozen=True)
class LadderState:
    """Where the chains of a ladder stand.

    Attributes:
        chains: of the rungs that run chains, leading axes (K', M, B).
        num_steps: steps done, whose parity says which pairs of rungs swap next.
        num_evaluations: generator evaluations spent on each image so far.
    """

    chains: ChainState
    num_steps: int
    num_evaluations: float

    def after(self, num_steps: int) -> "LadderState":
        """Return the state with another number of steps done, where chains go on from an earlier visit."""
        return replace(self, num_steps=num_steps)


@dataclass(frozen=True)
class LadderInfo:
    """What happened while a ladder was sampled.

    Attributes:
        state: where chains stand at the end, to go on from.
        inverse_temperatures: (K,) or (K, B), of the ladder.
        acceptance: (K, B), mean acceptance probability on each rung of an image; 1 on dealt prior draws.
        score_norm: (K,), mean length of the score where the last step set out from; on dealt prior draws, there.
        step_sizes: (K,) or (K, B), of the steps.
        num_evaluations: generator evaluations spent on each image since the start. All have a gradient in z but ULA's
            last and those of dealt prior draws, which are counted in full.
        moved: (K', M, B), whether each chain has moved at all.
        pairs: of every step the move that was proposed and the change of the score along it, each (K', M, B, d), for
            `samplers.covariance`; empty unless the sampler keeps them.
        swap_rates: (K' - 1,), mean swap probability of each pair, or None without exchange.
        round_trips: (M, B), round trips through each ladder, or None without exchange.
    """

    state: LadderState
    inverse_temperatures: Tensor
    acceptance: Tensor
    score_norm: Tensor
    step_sizes: Tensor
    num_evaluations: float
    moved: Tensor
    pairs: tuple[tuple[Tensor, Tensor], ...] = ()
    swap_rates: Tensor | None = None
    round_trips: Tensor | None = None


@dataclass(frozen=True)
class LadderTrace:
    """Every step of the rungs that ran chains.

    Attributes:
        inverse_temperatures: (K',) or (K', B).
        log_likelihood: (S, K', M, B), in nats.
        energy: (S, K', M, B).
        latents: (S, K', M, B, d), or None where scores were not asked for.
        score: (S, K', M, B, d), scores of each rung's own power posterior at `latents`, or None.
    """

    inverse_temperatures: Tensor
    log_likelihood: Tensor
    energy: Tensor
    latents: Tensor | None = None
    score: Tensor | None = None

    def as_draws(self, prior_latents: Tensor | None = None) -> Ladder:
        """Return all S states of each chain as a ladder of S M draws per rung and image.

        Raises:
            InputError: a trace without latents and scores.
        """
        if self.latents is None or self.score is None:
            raise InputError("`trace` must hold latents and scores; sample it with scores=True.")
        log_likelihood, energy, latents, score = (
            values.transpose(0, 1).flatten(1, 2)
            for values in (self.log_likelihood, self.energy, self.latents, self.score)
        )
        num_states = len(self.log_likelihood)
        t = self.inverse_temperatures
        return Ladder(t, latents, log_likelihood, energy, prior_latents, score, num_states=num_states)


@dataclass(frozen=True)
class LadderSampler:
    """Chains on the power posteriors p_t(z|x) ∝ p(x|z)^t p(z) of each image, on every rung of a ladder.

    Args:
        inverse_temperatures: (K,), rising from exactly 0 to exactly 1, or (K, B) for temperatures per image.
        kernel: its step size is a number, (K,) for one per rung, or (K, B) for one per rung and image.
        num_chains: M, chains on each rung of each image.
        exchange: let neighbouring rungs swap states after each step.
        bottom: what stands at t = 0: "chains" of each image, draws of the prior "dealt" out to chains and images, or
            draws of the prior "shared" by all images.
        chunk_size: the most latents evaluated at once; it bounds memory.
        keep_pairs: keep what a covariance of proposals can be learnt from.

    Raises:
        InputError: a bad schedule, a step size of another shape or not positive, a count below 1, or exchange with
            dealt draws, which belong to no chain.

    References:
        Calderhead, Girolami (2009), Estimating Bayes factors via thermodynamic integration and population MCMC.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(4, torch.Generator().manual_seed(1))
        >>> sampler = tg.LadderSampler(tg.power_schedule(5, 3.0), tg.MALA(0.3), num_chains=2, exchange=True)
        >>> generator = torch.Generator().manual_seed(2)
        >>> sampler, state = sampler.adapt(twin, x, sampler.start(twin, x, generator), 50, generator)
        >>> ladder, info = sampler.run(twin, x, state, 10, generator)
        >>> info.acceptance.shape
        torch.Size([5, 4])
    """

    inverse_temperatures: Tensor
    kernel: Kernel
    num_chains: int = 1
    exchange: bool = False
    bottom: Bottom = "chains"
    chunk_size: int | None = None
    keep_pairs: bool = False

    def __post_init__(self) -> None:
        check_schedule(self.inverse_temperatures)
        check_positive("num_chains", self.num_chains)
        if self.chunk_size is not None:
            check_positive("chunk_size", self.chunk_size)
        if self.bottom not in ("chains", "dealt", "shared"):
            raise InputError(f"`bottom` must be chains, dealt or shared, got {self.bottom!r}.")
        if self.exchange and self.bottom == "dealt":
            raise InputError(
                "`exchange` excludes bottom 'dealt': draws of the prior have no chain to swap into."
            )
        sizes, t = torch.as_tensor(self.kernel.step_size), self.inverse_temperatures
        if sizes.dim() and (sizes.dim() > 2 or len(sizes) != len(t)):
            raise InputError(
                f"`step_size` must be one number or have shape ({len(t)},) or ({len(t)}, B), got {tuple(sizes.shape)}."
            )
        if not (sizes.isfinite() & (sizes > 0)).all():
            raise InputError(f"`step_size` must be positive, got {sizes.tolist()}.")

    @property
    def lowest(self) -> int:
        """Return the lowest rung that runs chains: 0, or 1 where draws of the prior stand at t = 0."""
        return int(self.bottom != "chains")

    @property
    def num_running_rungs(self) -> int:
        """Return K', the number of rungs that run chains."""
        return len(self.inverse_temperatures) - self.lowest

    def start(
        self,
        model: LatentModel,
        x: Tensor,
        generator: torch.Generator,
        at: Start | Tensor = "base",
        *,
        prior_latents: Tensor | None = None,
        num_steps: int = 1,
    ) -> LadderState:
        """Place the chains.

        Args:
            model: any `LatentModel`.
            x: images (B, *image_shape).
            generator: source of all randomness.
            at: "base" (draws of the base distribution), "prior" (of `prior_latents`, with replacement), "annealed"
                (from the base distribution up the ladder), or latents (K', M, B, d) to go on from.
            prior_latents: (M0, d), for a start from the prior.
            num_steps: steps on each rung of the annealed start.

        Raises:
            InputError: an unknown start, or one without what it needs.
        """
        check_positive("num_steps", num_steps)
        shape = (self.num_running_rungs, self.num_chains, len(x))
        target = Target(model, x, self.chunk_size)
        if isinstance(at, Tensor):
            wanted = (*shape, model.latent_dim)
            if at.shape != wanted:
                raise InputError(f"`at` must be latents of shape {wanted}, got {tuple(at.shape)}.")
            position = at
        elif at == "annealed":
            return self._climb(target, shape, num_steps, generator)
        elif at == "prior":
            if prior_latents is None:
                raise InputError("`prior_latents` must be given for a start from the prior, got None.")
            pick = torch.randint(len(prior_latents), shape, generator=generator, device=prior_latents.device)
            position = prior_latents[pick]
        elif at == "base":
            position = model.sample_base(shape, generator)
        else:
            raise InputError(f"`at` must be base, prior, annealed or latents, got {at!r}.")
        return LadderState(self.kernel.init(target, position), 0, self.num_chains * shape[0])

    def _climb(
        self, target: Target, shape: tuple[int, int, int], num_steps: int, generator: torch.Generator
    ) -> LadderState:
        """Start every rung where the rung below it ended, from the base distribution up."""
        t, sizes = self.running(target.model, target.x)
        state = self.kernel.init(target, target.model.sample_base((1, *shape[1:]), generator))
        rungs = []
        for k in range(shape[0]):
            kernel = self.kernel.on_rungs(slice(k, k + 1), sizes[k : k + 1])
            for _ in range(num_steps):
                state, _ = kernel.step(target, state, t[k : k + 1], generator)
            rungs.append(state)
        whole = ChainState(*(torch.cat(fields) for fields in zip(*rungs, strict=True)))
        return LadderState(whole, 0, self.num_chains * (1 + shape[0] * num_steps))

    def adapt(
        self,
        model: LatentModel,
        x: Tensor,
        state: LadderState,
        num_steps: int,
        generator: torch.Generator,
        *,
        precondition: bool = False,
    ) -> tuple["LadderSampler", LadderState]:
        """Run steps in which the kernel adapts, and return the sampler with what it found.

        Step sizes of shape (K, B) follow each image's own acceptance, others the mean over images. Kernels without a
        target acceptance keep theirs. With `precondition` each rung of an image learns a covariance of its proposals,
        at no evaluation (`samplers.covariance`).

        Raises:
            InputError: `num_steps` negative, or `precondition` for another kernel than MALA.
        """
        if num_steps < 0:
            raise InputError(f"`num_steps` must not be negative, got {num_steps}.")
        walk, covariance = _Walk(self, model, x, state, generator), None
        if precondition:
            covariance = base_covariance(walk.begin[:, 0], model.base_std)
            walk.kernel = preconditioned(walk.kernel, covariance)
        for step in range(num_steps):
            acceptance = walk.step()
            if covariance is not None and walk.pair is not None:
                gain = LEARNING_GAIN / (1 + step / LEARNING_STEPS)
                covariance = learn_from_chains(covariance, [walk.pair], gain, model.base_std)
                walk.kernel = preconditioned(walk.kernel, covariance)
            if self.kernel.target_acceptance is not None:
                mean = acceptance.mean(1 if walk.sizes.shape[-1] > 1 else (1, 2), keepdim=True)
                walk.sizes = adapted_step_size(
                    walk.sizes, mean, self.kernel.target_acceptance, gain=1 / (1 + step) ** 0.6
                )
        sizes = self.step_sizes(walk.t)
        sizes[self.lowest :] = flat(walk.sizes)
        return replace(self, kernel=replace(walk.kernel, step_size=sizes)), walk.state()

    def run(
        self,
        model: LatentModel,
        x: Tensor,
        state: LadderState,
        num_steps: int,
        generator: torch.Generator,
        prior_latents: Tensor | None = None,
    ) -> tuple[Ladder, LadderInfo]:
        """Take steps on all rungs at once and return where the chains stand.

        Args:
            model: any `LatentModel`.
            x: images (B, *image_shape).
            state: from `start`, `adapt`, or the `state` of an earlier info.
            num_steps: at least 1.
            generator: source of all randomness.
            prior_latents: draws of the prior for the bottom: M * B of them to be dealt, or any number to be shared.

        Raises:
            InputError: `num_steps` below 1, or draws of the prior that are missing or of another number.
        """
        check_positive("num_steps", num_steps)
        self._check_bottom(x, prior_latents)
        walk = _Walk(self, model, x, state, generator)
        for step in range(num_steps):
            walk.step(last=step == num_steps - 1)
        return walk.finish(prior_latents)

    def trace(
        self,
        model: LatentModel,
        x: Tensor,
        state: LadderState,
        num_steps: int,
        generator: torch.Generator,
        prior_latents: Tensor | None = None,
        *,
        scores: bool = False,
    ) -> tuple[Ladder, LadderInfo, LadderTrace]:
        """Do what `run` does, with the same draws, and keep every step of the rungs that run chains.

        With `scores` latents and scores are kept as well, which control variates and weights that see the score need.
        """
        check_positive("num_steps", num_steps)
        self._check_bottom(x, prior_latents)
        walk = _Walk(self, model, x, state, generator)
        steps: list[dict[str, Tensor]] = []
        for step in range(num_steps):
            walk.step(last=step == num_steps - 1 and not scores)
            kept = {"log_likelihood": walk.chains.log_likelihood, "energy": walk.chains.energy}
            if scores:
                kept |= {"latents": walk.chains.position, "score": walk.chains.score(walk.t)}
            steps.append(kept)
        stacked = {name: torch.stack([each[name] for each in steps]) for name in steps[0]}
        return *walk.finish(prior_latents), LadderTrace(flat(walk.t), **stacked)

    def running(self, model: LatentModel, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return temperatures and step sizes of the rungs that run chains, each (K', 1, 1) or (K', 1, B)."""
        like = next(model.parameters())
        t = self.inverse_temperatures.to(dtype=like.dtype, device=like.device if x is None else x.device)
        return columns(t)[self.lowest :], columns(self.step_sizes(t))[self.lowest :]

    def step_sizes(self, like: Tensor) -> Tensor:
        """Return the step size of every rung, (K,) or (K, B), in the number format of `like`."""
        sizes = torch.as_tensor(self.kernel.step_size, dtype=like.dtype, device=like.device)
        return (sizes if sizes.dim() else sizes.expand(len(self.inverse_temperatures))).clone()

    def _check_bottom(self, x: Tensor, prior_latents: Tensor | None) -> None:
        if self.bottom == "chains":
            return
        if prior_latents is None:
            raise InputError(f"`prior_latents` must be given for bottom {self.bottom!r}, got None.")
        if self.bottom == "dealt" and len(prior_latents) != self.num_chains * len(x):
            raise InputError(
                f"`prior_latents` must hold {self.num_chains} x {len(x)} draws to be dealt out to the images, "
                f"got {len(prior_latents)}."
            )


class _Walk:
    """Chains on their way, and what is counted while they run."""

    def __init__(
        self,
        sampler: LadderSampler,
        model: LatentModel,
        x: Tensor,
        state: LadderState,
        generator: torch.Generator,
    ):
        self.sampler, self.generator, self.kernel = sampler, generator, sampler.kernel
        self.target = Target(model, x, sampler.chunk_size)
        self.t, self.sizes = sampler.running(model, x)
        self.chains, self.begin = state.chains, state.chains.position
        self.done, self.num_evaluations = state.num_steps, state.num_evaluations
        self.num_steps = 0
        self.acceptance = self.t.new_zeros(len(self.t), len(x))
        self.score_norm = self.t.new_zeros(len(self.t))
        self.swap_probability = torch.zeros_like(self.score_norm[1:])
        self.trips: RoundTrips | None = None
        self.pair: tuple[Tensor, Tensor] | None = None
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def step(self, last: bool = False) -> Tensor:
        """Take one step on all rungs; return the acceptance probability of each chain, (K', M, B)."""
        kernel = self.kernel.on_rungs(slice(None), self.sizes)
        before = self.chains
        self.score_norm = self.chains.score(self.t).norm(dim=-1).mean((1, 2))
        take = kernel.last_step if last else kernel.step
        self.chains, info = take(self.target, self.chains, self.t, self.generator)
        self.num_evaluations += self.sampler.num_chains * len(self.t)
        self.acceptance += info.acceptance.mean(1)
        if info.proposal is not None:
            change = before.score(self.t) - info.proposal.score(self.t)
            self.pair = info.proposal.position - before.position, change
            self.pairs += [self.pair] if self.sampler.keep_pairs else []
        if self.sampler.exchange:
            self.chains, source, probability = exchange(self.chains, self.t, self.done % 2, self.generator)
            self.swap_probability += probability.mean((1, 2))
            self.trips = self.trips or RoundTrips(source)
            self.trips.update(source)
        self.done += 1
        self.num_steps += 1
        return info.acceptance

    def state(self) -> LadderState:
        """Return where the chains stand."""
        return LadderState(self.chains, self.done, self.num_evaluations)

    def finish(self, prior_latents: Tensor | None) -> tuple[Ladder, LadderInfo]:
        """Return the ladder, draws of the prior under the rungs that ran chains, and what happened."""
        chains, t, acceptance, score_norm = (
            self.chains,
            self.t,
            self.acceptance / self.num_steps,
            self.score_norm,
        )
        dealt = self.sampler.bottom == "dealt" and prior_latents is not None
        if dealt and prior_latents is not None:
            bottom = self.target.measure(prior_latents.reshape(1, *chains.position.shape[1:]))
            t = torch.cat([torch.zeros_like(t[:1]), t])
            acceptance = torch.cat([torch.ones_like(acceptance[:1]), acceptance])
            score_norm = torch.cat([bottom.prior_score.norm(dim=-1).mean().view(1), score_norm])
            chains = ChainState(*(torch.cat(pair) for pair in zip(bottom, chains, strict=True)))
        held = flat(t)
        ladder = Ladder(held, chains.position, chains.log_likelihood, chains.energy, prior_latents)
        info = LadderInfo(
            state=self.state(),
            inverse_temperatures=held,
            acceptance=acceptance,
            score_norm=score_norm,
            step_sizes=self.sampler.step_sizes(t)[-len(t) :],
            num_evaluations=self.num_evaluations + self.sampler.num_chains * dealt,
            moved=(self.chains.position != self.begin).any(-1),
            pairs=tuple(self.pairs),
            swap_rates=self.swap_probability / self.num_steps if self.sampler.exchange else None,
            round_trips=None if self.trips is None else self.trips.count,
        )
        return ladder, info


def flat(column: Tensor) -> Tensor:
    """Return (K,) of a column (K, 1, 1), or (K, B) of (K, 1, B)."""
    return column.squeeze(1) if column.shape[-1] > 1 else column.flatten()


def sample_ladder(
    model: LatentModel,
    x: Tensor,
    inverse_temperatures: Tensor,
    generator: torch.Generator,
    *,
    kernel: Kernel | None = None,
    num_chains: int = 2,
    num_steps: int = 100,
    num_burn_in: int = 100,
    exchange: bool = True,
    chunk_size: int | None = 1024,
) -> tuple[Ladder, LadderInfo, LadderTrace]:
    """Sample the power posteriors of images on every rung: start, adapt, trace.

    Args:
        model: any `LatentModel`.
        x: images (B, *image_shape), as the likelihood takes them.
        inverse_temperatures: (K,) or (K, B), e.g. `power_schedule(8, 3.0)`.
        generator: source of all randomness.
        kernel: None for MALA that begins with step size 0.1.
        num_chains: M, chains on each rung of each image.
        num_steps: steps that are kept, with step sizes frozen.
        num_burn_in: steps before, in which step sizes adapt.
        exchange: let neighbouring rungs swap states.
        chunk_size: the most latents evaluated at once; it bounds memory.

    Returns:
        Where the chains stand at the end, what happened, and every step with its latents and scores.

    Raises:
        InputError: a bad schedule, kernel or count.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 3, noise_std=0.5, weight_scale=1.0, seed=0)
        >>> x = torch.zeros(4, 3, dtype=torch.float64)
        >>> ladder, info, trace = tg.sample_ladder(twin, x, tg.power_schedule(5, 3.0), torch.Generator())
        >>> ladder.latents.shape, trace.log_likelihood.shape
        (torch.Size([5, 2, 4, 2]), torch.Size([100, 5, 2, 4]))
    """
    sampler = LadderSampler(
        inverse_temperatures, kernel or MALA(0.1), num_chains, exchange, chunk_size=chunk_size
    )
    state = sampler.start(model, x, generator)
    sampler, state = sampler.adapt(model, x, state, num_burn_in, generator)
    return sampler.trace(model, x, state, num_steps, generator, scores=True)
