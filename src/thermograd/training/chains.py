"""The chains of a run: where they stand, their step sizes, and the temperatures at which they run.

A visit draws the prior and the ladder of a batch from where its chains stand; `keep` stores where they ended, and lets
step sizes and the schedule follow what was seen. A probe visits and keeps nothing, so measuring changes no training.

The step size of rung k for image i is h_k f_ik. The common h_k follows the mean acceptance of all images, as training
needs it early on; the image's own factor f_ik, which is stored with its chains, follows how much its acceptance differs
from that mean. With `precondition: secant` each rung of an image has a covariance of its proposals as well, learnt from
visit to visit and frozen within one. A stored chain that has not moved for `restart_after` visits begins anew at a draw
of the prior, chosen by its likelihood, with a factor of 1 and the covariance of the base distribution.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from thermograd.config import names
from thermograd.config.schema import LearningConfig
from thermograd.errors import Caution, InputError
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES
from thermograd.ladders.adapted import RunningMoments
from thermograd.ladders.ladder import Ladder
from thermograd.ladders.named import SCHEDULES, make_schedule
from thermograd.ladders.record import LadderInfo
from thermograd.ladders.sampler import Bottom, LadderSampler
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.covariance import base_covariance, learn_from_chains
from thermograd.samplers.kernel import adapted_step_size
from thermograd.samplers.named import make_kernel
from thermograd.samplers.prior import PriorDraws
from thermograd.samplers.target import Target, columns
from thermograd.streams import stream
from thermograd.training.prior_chains import PriorChains

LARGEST_STORE = 4 * 2**30
"""Bytes of stored chains beyond which a run is refused; fewer rungs, chains or images make them smaller."""
LARGEST_LOG_FACTOR = 4.0
"""Of an image's own step size over the common one, either way."""
LONGEST_STAND = 10_000
"""Visits without a move that are counted at most."""
LEARNING_GAIN = 0.4
"""By which a stored covariance follows each proposal of its chains."""
STANDING_STEPS = 8
"""Steps without a move from which on a chain counts as standing: 1 in 1,000 by chance at MALA's target acceptance."""
STANDING_LIMIT = 0.01
"""Share of standing chains above which a run says so."""
NUM_CANDIDATES = 64
"""Draws of the prior among which a chain that begins anew chooses."""


@dataclass(frozen=True)
class Draws:
    """What one visit sampled: draws of the prior, where chains ran there, the ladder, and what happened on it."""

    prior: PriorDraws | None
    ladder: Ladder
    info: LadderInfo


def standing_cautions(record: Mapping[str, float]) -> list[Caution]:
    """Return a caution of kind "standing-chains" where what `Chains.keep` returned tells of too many."""
    share = record.get("standing_chains", 0.0)
    if share <= STANDING_LIMIT:
        return []
    return [
        Caution(
            "standing-chains",
            f"{share:.1%} of stored chains have not moved for {STANDING_STEPS} steps or more, so their images are "
            f"learnt from one place: use more steps, or a smaller posterior_chains.step_size.",
        )
    ]


class Chains:
    """Prior chains, stored posterior chains, their step sizes and the schedule of a run.

    Args:
        config: the run.
        model: the model that is sampled; its device and number format are taken.
        num_images: size of the training set, for chains that are stored for each image.

    Raises:
        InputError: stored chains would take more memory than `LARGEST_STORE`.
    """

    def __init__(self, config: LearningConfig, model: LatentModel, num_images: int):
        self.config = config
        like = next(model.parameters())
        self.device = like.device
        gradient, chains = config.gradient, config.posterior_chains
        rules = ESTIMATORS[gradient.estimator], PRIOR_RULES[gradient.prior_rule]
        self.bottom: Bottom = "shared"
        if any(rule.needs_prior_rung for rule in rules):
            self.bottom = "chains" if chains.exchange else "dealt"
        self.keeps_states = any(rule.uses_scores or rule.states == "all" for rule in rules)
        self.runs_prior_chains = self.bottom != "chains" or names.POSTERIOR_STARTS[chains.start].reads_prior
        self.schedule = make_schedule(gradient.schedule, gradient.num_rungs)
        self.step_sizes = torch.full((gradient.num_rungs,), chains.step_size, device=self.device)
        self.moments = RunningMoments(gradient.num_rungs, decay=0.99)
        self.swap_rates: Tensor | None = None
        self.stored = self._make_store(model, num_images) if chains.persists else None
        shape = (0, 0, 0) if self.stored is None else self.stored.shape[:3]
        self.log_factors = torch.zeros(shape[:2], dtype=like.dtype, device=self.device)
        self.num_still = torch.zeros(shape, dtype=torch.int16, device=self.device)
        self.num_restarted = torch.zeros((), dtype=torch.int64)
        self.covariances: Tensor | None = None
        self.base_std = model.base_std
        if chains.learns_covariance and self.stored is not None:
            self.covariances = base_covariance(self.stored[:, :, 0], model.base_std)
        # A ladder of its own t = 0 needs no prior chains, but further updates of the energy run them.
        runs = self.runs_prior_chains or config.prior_chains.num_updates > 1
        persists = runs and not config.prior_chains.is_short_run
        self.prior = PriorChains(config, model, persists, self.stream)

    @property
    def num_running_rungs(self) -> int:
        """Return the rungs that run chains of their own for each image."""
        return self.config.gradient.num_rungs - (self.bottom != "chains")

    def stream(self, name: str, step: int) -> torch.Generator:
        """Return the stream of chains, which `chain_stream` exchanges for another of the same seed."""
        number = self.config.chain_stream
        name = f"chain-stream-{number}-{name}" if number else name
        return stream(self.config.seed, name, step, self.device)

    def _make_store(self, model: LatentModel, num_images: int) -> Tensor:
        shape = (num_images, self.num_running_rungs, self.config.gradient.num_chains)
        size = 4 * math.prod(shape) * model.latent_dim
        learnt = self.config.posterior_chains.learns_covariance
        square = 4 * math.prod(shape[:2]) * model.latent_dim**2 * learnt
        if size + square > LARGEST_STORE:
            raise InputError(
                f"`posterior_chains.start` persistent would store {size / 2**30:.1f} GiB of chains "
                f"{f'and {square / 2**30:.1f} GiB of covariances ' if learnt else ''}"
                f"(at most {LARGEST_STORE / 2**30:.0f}): lower gradient.num_rungs or num_chains, "
                f"{'set precondition to none, ' if learnt else ''}or choose another start."
            )
        return model.sample_base(shape, self.stream("stored-chains", 0))

    # --- a visit ---

    def draw(self, model: LatentModel, x: Tensor, index: Tensor, step: int, name: str = "") -> Draws:
        """Sample the prior and the ladder of a batch, from where the stored chains stand.

        Args:
            model: what the chains evaluate, in the precision that is wanted.
            x: images (B, *image_shape).
            index: (B,), which training images they are, for chains that are stored.
            step: counter of the random streams, and of the visits whose parity says which rungs swap first.
            name: prefix of the random streams; measurements have one of their own.
        """
        chains = self.config.posterior_chains
        prior = self.prior.draw(model, step, name) if self.runs_prior_chains else None
        latents = None if prior is None else prior.latents
        generator = self.stream(f"{name}posterior-chains", step)
        sampler = self.sampler(index)
        at: Any = chains.start if self.stored is None else self.stored[index].permute(1, 2, 0, 3)
        num_start_steps = chains.num_start_steps
        state = sampler.start(model, x, generator, at, prior_latents=latents, num_steps=num_start_steps)
        state = state.after(step * chains.num_steps)
        if not self.keeps_states:
            return Draws(prior, *sampler.run(model, x, state, chains.num_steps, generator, latents))
        _, info, trace = sampler.trace(model, x, state, chains.num_steps, generator, latents, scores=True)
        score = None if latents is None else model.prior_score(latents)
        return Draws(prior, replace(trace.as_draws(latents), prior_score=score), info)

    def sampler(self, index: Tensor) -> LadderSampler:
        """Return the sampler of a visit to images `index` (B,), at the temperatures and step sizes as they stand."""
        config, sizes = self.config, self.step_sizes
        if self.stored is not None and config.posterior_chains.image_gain:
            factors = sizes.new_ones(len(sizes), len(index))
            factors[-self.num_running_rungs :] = self.log_factors[index].exp().T
            sizes = sizes.unsqueeze(1) * factors
        kernel = make_kernel(config.posterior_chains.kernel, sizes)
        if self.covariances is not None:
            kernel = kernel.with_covariance(self.covariances[index].transpose(0, 1))
        if config.posterior_chains.antithetic:
            kernel = replace(kernel, antithetic=True)  # type: ignore[call-arg]
        return LadderSampler(
            self.schedule,
            kernel,
            config.gradient.num_chains,
            config.posterior_chains.exchange,
            self.bottom,
            config.compute.chunk_size,
            keep_pairs=self.covariances is not None,
        )

    def keep(self, model: LatentModel, x: Tensor, draws: Draws, index: Tensor, step: int) -> dict[str, float]:
        """Store chains for their next visit, and let step sizes and the schedule follow what was seen.

        Returns:
            `standing_chains`, the share of all stored chains that have not moved for longer than chance explains;
            `restarted_chains`, the number that have begun anew so far, and `restart_evaluations` spent on them now.
        """
        record: dict[str, float] = {}
        if self.stored is not None:
            lost = self._store(model, x, draws, index, step)
            self._learn(draws.info, index, lost.all(1))
            standing = self.num_still * self.config.posterior_chains.num_steps >= STANDING_STEPS
            self.num_restarted += lost.sum().cpu()
            record = {
                "standing_chains": float(standing.double().mean()),
                "restarted_chains": float(self.num_restarted),
                "restart_evaluations": float(NUM_CANDIDATES * lost.any(0).any(0).sum()),
            }
        if draws.prior is not None:
            self.prior.keep(draws.prior)
        acceptance, target = self._acceptance(draws.info)
        rungs, gain = slice(-len(acceptance), None), self.config.posterior_chains.adaptation_gain
        self.step_sizes[rungs] = adapted_step_size(self.step_sizes[rungs], acceptance.mean(1), target, gain)
        self._adapt_schedule(draws, step)
        return record

    def _acceptance(self, info: LadderInfo) -> tuple[Tensor, float | None]:
        """Return that of the rungs that ran chains, (K', B), and what it is steered to."""
        target = make_kernel(self.config.posterior_chains.kernel, 1.0).target_acceptance
        return info.acceptance[-self.num_running_rungs :], target

    def _store(self, model: LatentModel, x: Tensor, draws: Draws, index: Tensor, step: int) -> Tensor:
        """Store where the chains of a visit stand; return which begin anew, (K', M, B)."""
        assert self.stored is not None
        still = torch.where(draws.info.moved, 0, self.num_still[index].permute(1, 2, 0) + 1)
        position = draws.info.state.chains.position
        lost = still >= (self.config.posterior_chains.restart_after or math.inf)
        images = lost.any(0).any(0).nonzero().flatten()
        if len(images):
            position = position.clone()
            places = self._anew(model, x[images], images, draws, step)
            position[:, :, images] = torch.where(
                lost[:, :, images].unsqueeze(-1), places, position[:, :, images]
            )
        self.stored[index] = position.permute(2, 0, 1, 3)
        kept = torch.where(lost, 0, still).clamp(max=LONGEST_STAND).to(torch.int16)
        self.num_still[index] = kept.permute(2, 0, 1)
        return lost

    def _learn(self, info: LadderInfo, index: Tensor, lost: Tensor) -> None:
        """Let each image's factor follow its acceptance and its covariance the proposals; where chains are lost, reset.

        Args:
            info: of the visit.
            index: (B,).
            lost: (K', B), where all chains begin anew.
        """
        acceptance, target = self._acceptance(info)
        if target is not None:
            gain = self.config.posterior_chains.image_gain
            moved = self.log_factors[index].T + gain * (acceptance - acceptance.mean(1, keepdim=True))
            moved = moved.clamp(-LARGEST_LOG_FACTOR, LARGEST_LOG_FACTOR)
            self.log_factors[index] = torch.where(lost, 0.0, moved).T
        if self.covariances is not None:
            old = self.covariances[index].transpose(0, 1)
            new = learn_from_chains(old, info.pairs, LEARNING_GAIN, self.base_std)
            begin = base_covariance(new[..., 0], self.base_std)
            self.covariances[index] = torch.where(lost[..., None, None], begin, new).transpose(0, 1)

    def _anew(self, model: LatentModel, x: Tensor, images: Tensor, draws: Draws, step: int) -> Tensor:
        """Return a place to begin anew for each chain of some images of a visit, (K', M, b, d).

        Importance resampling: of `NUM_CANDIDATES` draws of the prior, or of draws on the image's own rung t = 0 where
        no prior chains ran, each chain takes one with probability proportional to p(x|z)^t.
        """
        generator = self.stream("restarts", step)
        num_rungs, num_chains, _ = draws.info.moved.shape
        if draws.prior is not None:
            pick = torch.randint(
                len(draws.prior.latents), (NUM_CANDIDATES,), generator=generator, device=self.device
            )
            candidates = draws.prior.latents[pick].unsqueeze(1).expand(-1, len(x), -1)
        else:
            candidates = draws.ladder.latents[0][:, images]
        log_likelihood = Target(model, x, self.config.compute.chunk_size).measure(candidates).log_likelihood
        t = columns(self.schedule.to(log_likelihood))[-num_rungs:]
        probability = (t * log_likelihood).softmax(1).transpose(1, 2)  # (K', b, candidates)
        chosen = torch.multinomial(
            probability.flatten(0, 1), num_chains, replacement=True, generator=generator
        )
        chosen = chosen.view(num_rungs, len(x), num_chains).transpose(1, 2)
        return candidates[chosen, torch.arange(len(x), device=self.device)]

    def _adapt_schedule(self, draws: Draws, step: int) -> None:
        schedule = self.config.gradient.schedule
        kind = SCHEDULES[schedule.kind]
        if kind.adapt is None:
            return
        if kind.follows == "variances":
            self.moments.update(draws.ladder.log_likelihood)
            if (step + 1) % schedule.adapt_every == 0:
                new = kind.adapt(self.schedule, self.moments.variance)
                self.moments.move(self.schedule, new)
                self.schedule = new
        elif kind.follows == "swap-rates" and draws.info.swap_rates is not None:
            rates = draws.info.swap_rates.double().cpu()
            self.swap_rates = rates if self.swap_rates is None else 0.95 * self.swap_rates + 0.05 * rates
            if (step + 1) % schedule.adapt_every == 0:
                self.schedule = kind.adapt(self.schedule, self.swap_rates)

    # --- saving ---

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a resumed run needs."""
        tensors = {"schedule": self.schedule, "step_sizes": self.step_sizes} | self.prior.tensors()
        tensors |= {f"moments.{name}": tensor for name, tensor in self.moments.tensors().items()}
        if self.stored is not None:
            tensors |= {
                "log_factors": self.log_factors,
                "num_still": self.num_still,
                "num_restarted": self.num_restarted,
            }
        optional = {"stored": self.stored, "covariances": self.covariances, "swap_rates": self.swap_rates}
        return tensors | {name: tensor for name, tensor in optional.items() if tensor is not None}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` returned."""
        self.schedule = tensors["schedule"]
        self.step_sizes = tensors["step_sizes"].to(self.device)
        self.prior.load_tensors(tensors)
        self.moments.load({name: tensors[f"moments.{name}"] for name in self.moments.tensors()})
        if self.stored is not None:
            self.stored = tensors["stored"].to(self.device)
            self.log_factors = tensors["log_factors"].to(self.device)
            self.num_still = tensors["num_still"].to(self.device)
            self.num_restarted = tensors["num_restarted"].cpu()
        if self.covariances is not None:
            self.covariances = tensors["covariances"].to(self.device)
        self.swap_rates = tensors.get("swap_rates")
