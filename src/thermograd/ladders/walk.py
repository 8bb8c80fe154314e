"""Chains on their way along the rungs of a ladder: steps, swaps, and what is counted meanwhile."""

import torch
from torch import Tensor

from thermograd.ladders.record import LadderState
from thermograd.samplers.kernel import Kernel
from thermograd.samplers.replica_exchange import RoundTrips, exchange
from thermograd.samplers.target import Target


class Walk:
    """Chains on the way, one step after another.

    Args:
        target: what they sample.
        kernel: with its settings on every rung.
        t: temperatures of the rungs that run chains, (K', 1, 1) or (K', 1, B).
        sizes: their step sizes, shaped as `t`.
        state: where the chains stand.
        generator: source of all randomness.
        exchange: let neighbouring rungs swap states after each step.
        keep_pairs: keep what a covariance of proposals can be learnt from.

    Attributes:
        chains: where the chains stand now.
        pair: the move that the last step proposed and the change of the score along it, or None.
        acceptance: (K', B), mean acceptance probability of the steps so far; 0 before the first.
        swap_rates: (K' - 1,), mean swap probability of each pair, or None without exchange.
        score_norm: (K',), mean length of the score where the last step set out from.
    """

    def __init__(
        self,
        target: Target,
        kernel: Kernel,
        t: Tensor,
        sizes: Tensor,
        state: LadderState,
        generator: torch.Generator,
        *,
        exchange: bool,
        keep_pairs: bool,
    ):
        self.target, self.kernel, self.t, self.sizes, self.generator = target, kernel, t, sizes, generator
        self.exchange, self.keep_pairs = exchange, keep_pairs
        self.chains, self.begin = state.chains, state.chains.position
        self.done, self.num_evaluations = state.num_steps, state.num_evaluations
        self.num_steps = 0
        self.score_norm = t.new_zeros(len(t))
        self.trips: RoundTrips | None = None
        self.pair: tuple[Tensor, Tensor] | None = None
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self._acceptance = t.new_zeros(len(t), self.begin.shape[2])
        self._swap_probability = torch.zeros_like(self.score_norm[1:])

    def step(self, last: bool = False) -> Tensor:
        """Take one step on all rungs; return the acceptance probability of each chain, (K', M, B)."""
        kernel = self.kernel.on_rungs(slice(None), self.sizes)
        before = self.chains
        self.score_norm = self.chains.score(self.t).norm(dim=-1).mean((1, 2))
        take = kernel.last_step if last else kernel.step
        self.chains, info = take(self.target, self.chains, self.t, self.generator)
        self.num_evaluations += len(self.t) * self.begin.shape[1]
        self._acceptance += info.acceptance.mean(1)
        if info.proposal is not None:
            change = before.score(self.t) - info.proposal.score(self.t)
            self.pair = info.proposal.position - before.position, change
            self.pairs += [self.pair] if self.keep_pairs else []
        if self.exchange:
            self.chains, source, probability = exchange(self.chains, self.t, self.done % 2, self.generator)
            self._swap_probability += probability.mean((1, 2))
            self.trips = self.trips or RoundTrips(source)
            self.trips.update(source)
        self.done += 1
        self.num_steps += 1
        return info.acceptance

    @property
    def acceptance(self) -> Tensor:
        """Return the mean acceptance probability of the steps so far."""
        return self._acceptance / max(1, self.num_steps)

    @property
    def swap_rates(self) -> Tensor | None:
        """Return the mean swap probability of each pair of neighbours."""
        return self._swap_probability / max(1, self.num_steps) if self.exchange else None

    def state(self) -> LadderState:
        """Return where the chains stand."""
        return LadderState(self.chains, self.done, self.num_evaluations)
