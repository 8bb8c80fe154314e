"""A sampler of the power posteriors: all rungs, chains and images of a ladder at once.

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
from thermograd.ladders.ladder import Ladder
from thermograd.ladders.record import LadderInfo, LadderState, LadderTrace
from thermograd.ladders.schedules import check_schedule
from thermograd.ladders.smc import chains_by_smc
from thermograd.ladders.walk import Walk
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.covariance import base_covariance, learn_from_chains
from thermograd.samplers.kernel import Kernel, adapted_step_size
from thermograd.samplers.target import ChainState, Target, columns

Start = Literal["base", "prior", "annealed", "smc"]
Bottom = Literal["chains", "dealt", "shared"]

LEARNING_GAIN, LEARNING_STEPS = 0.4, 25
"""Of a covariance in `adapt`: the gain of its first pairs, and the steps in which it falls by half."""


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
                (from the base distribution up the ladder), "smc" (particles carried from `prior_latents` to t = 1,
                for a ladder that runs chains there alone), or latents (K', M, B, d) to go on from.
            prior_latents: (M0, d), for a start from the prior and by smc.
            num_steps: steps on each rung of the annealed start; temperatures of the smc start.

        Raises:
            InputError: an unknown start, or one without what it needs.
        """
        check_positive("num_steps", num_steps)
        shape = (self.num_running_rungs, self.num_chains, len(x))
        target, spent = Target(model, x, self.chunk_size), 0
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
        elif at == "smc":
            if prior_latents is None or shape[0] != 1:
                raise InputError(
                    f"`at` smc needs `prior_latents`, and chains at t = 1 alone: got {shape[0]} rungs that run chains."
                )
            position, spent = chains_by_smc(target, prior_latents, self.num_chains, num_steps, generator)
        elif at == "base":
            position = model.sample_base(shape, generator)
        else:
            raise InputError(f"`at` must be base, prior, annealed, smc or latents, got {at!r}.")
        return LadderState(self.kernel.init(target, position), 0, spent + self.num_chains * shape[0])

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
            InputError: `num_steps` negative, or `precondition` for a kernel whose proposals take no covariance.
        """
        if num_steps < 0:
            raise InputError(f"`num_steps` must not be negative, got {num_steps}.")
        walk, covariance = self._walk(model, x, state, generator), None
        if precondition:
            covariance = base_covariance(walk.begin[:, 0], model.base_std)
            walk.kernel = walk.kernel.with_covariance(covariance)
        for step in range(num_steps):
            acceptance = walk.step()
            if covariance is not None and walk.pair is not None:
                gain = LEARNING_GAIN / (1 + step / LEARNING_STEPS)
                covariance = learn_from_chains(covariance, [walk.pair], gain, model.base_std)
                walk.kernel = walk.kernel.with_covariance(covariance)
            if self.kernel.target_acceptance is not None:
                mean = acceptance.mean(1 if walk.sizes.shape[-1] > 1 else (1, 2), keepdim=True)
                walk.sizes = adapted_step_size(
                    walk.sizes, mean, self.kernel.target_acceptance, gain=1 / (1 + step) ** 0.6
                )
        sizes = self.step_sizes(walk.t)
        sizes[self.lowest :] = walk.sizes.reshape(sizes[self.lowest :].shape)
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
        walk = self._walk(model, x, state, generator)
        for step in range(num_steps):
            walk.step(last=step == num_steps - 1)
        return self._finish(walk, prior_latents)

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
        walk = self._walk(model, x, state, generator)
        steps: list[dict[str, Tensor]] = []
        for step in range(num_steps):
            walk.step(last=step == num_steps - 1 and not scores)
            kept = {"log_likelihood": walk.chains.log_likelihood, "energy": walk.chains.energy}
            if scores:
                kept |= {"latents": walk.chains.position, "score": walk.chains.score(walk.t)}
            steps.append(kept)
        stacked = {name: torch.stack([each[name] for each in steps]) for name in steps[0]}
        return *self._finish(walk, prior_latents), LadderTrace(flat(walk.t), **stacked)

    def running(self, model: LatentModel, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return temperatures and step sizes of the rungs that run chains, each (K', 1, 1) or (K', 1, B)."""
        like = next(model.parameters())
        t = self.inverse_temperatures.to(dtype=like.dtype, device=like.device if x is None else x.device)
        return columns(t)[self.lowest :], columns(self.step_sizes(t))[self.lowest :]

    def step_sizes(self, like: Tensor) -> Tensor:
        """Return the step size of every rung, (K,) or (K, B), in the number format of `like`."""
        sizes = torch.as_tensor(self.kernel.step_size, dtype=like.dtype, device=like.device)
        return (sizes if sizes.dim() else sizes.expand(len(self.inverse_temperatures))).clone()

    def _walk(self, model: LatentModel, x: Tensor, state: LadderState, generator: torch.Generator) -> Walk:
        return Walk(
            Target(model, x, self.chunk_size),
            self.kernel,
            *self.running(model, x),
            state,
            generator,
            exchange=self.exchange,
            keep_pairs=self.keep_pairs,
        )

    def _finish(self, walk: Walk, prior_latents: Tensor | None) -> tuple[Ladder, LadderInfo]:
        """Return the ladder, draws of the prior under the rungs that ran chains, and what happened."""
        chains, t, acceptance, score_norm = walk.chains, walk.t, walk.acceptance, walk.score_norm
        dealt = self.bottom == "dealt" and prior_latents is not None
        if dealt and prior_latents is not None:
            bottom = walk.target.measure(prior_latents.reshape(1, *chains.position.shape[1:]))
            t = torch.cat([torch.zeros_like(t[:1]), t])
            acceptance = torch.cat([torch.ones_like(acceptance[:1]), acceptance])
            score_norm = torch.cat([bottom.prior_score.norm(dim=-1).mean().view(1), score_norm])
            chains = ChainState(*(torch.cat(pair) for pair in zip(bottom, chains, strict=True)))
        ladder = Ladder(flat(t), chains.position, chains.log_likelihood, chains.energy, prior_latents)
        info = LadderInfo(
            state=walk.state(),
            inverse_temperatures=flat(t),
            acceptance=acceptance,
            score_norm=score_norm,
            step_sizes=self.step_sizes(t)[-len(t) :],
            num_evaluations=walk.num_evaluations + self.num_chains * dealt,
            moved=(walk.chains.position != walk.begin).any(-1),
            pairs=tuple(walk.pairs),
            swap_rates=walk.swap_rates,
            round_trips=None if walk.trips is None else walk.trips.count,
        )
        return ladder, info

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


def flat(column: Tensor) -> Tensor:
    """Return (K,) of a column (K, 1, 1), or (K, B) of (K, 1, B)."""
    return column.squeeze(1) if column.shape[-1] > 1 else column.flatten()
