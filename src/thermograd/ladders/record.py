"""What a sampler hands back beside draws: where its chains stand, what happened, and every step of the way."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from thermograd.errors import InputError
from thermograd.ladders.inference_data import of_chains
from thermograd.ladders.ladder import Ladder
from thermograd.samplers.target import ChainState


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

    def to_arviz(self) -> Any:
        """Return the chains for ArviZ: `posterior` and `sample_stats`, with a coordinate `rung` of temperatures.

        Raises:
            InputError: ArviZ is not installed.
        """
        return of_chains(self.inverse_temperatures, self.log_likelihood, self.energy, self.latents)

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
