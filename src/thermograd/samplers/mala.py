r"""Metropolis-adjusted Langevin algorithm: the Langevin proposal with a test that makes it exact.

A proposal z' ~ q(·|z) = N(z + (h^2/2) ∇ log p_t(z), h^2 I) is accepted with probability

    min(1, p_t(z') q(z|z') / (p_t(z) q(z'|z))),

so the chain's stationary distribution is p_t itself, at any step size. Each chain is tested by itself.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thermograd.samplers.kernel import Kernel, select
from thermograd.samplers.langevin import langevin_proposal
from thermograd.samplers.target import ChainState, Info, Target


@dataclass(frozen=True)
class MALA(Kernel):
    """Metropolis-adjusted Langevin kernel.

    Args:
        step_size: h, a number or a tensor that broadcasts against the chains' axes (...).
        target_acceptance: what the step size is steered to; 0.574 is optimal in high dimension. None keeps it.

    Raises:
        InputError: `step_size` is a number and not positive, or `target_acceptance` outside (0, 1).

    References:
        Roberts and Tweedie (1996), Exponential convergence of Langevin distributions. Bernoulli.
        Roberts and Rosenthal (1998), Optimal scaling of discrete approximations to Langevin diffusions. JRSS
            B.

    Example:
        >>> tg.MALA(0.1).target_acceptance
        0.574
    """

    name: ClassVar[str] = "mala"
    is_reversible: ClassVar[bool] = True

    target_acceptance: float | None = 0.574

    def step(
        self, target: Target, state: ChainState, t: Tensor, generator: torch.Generator
    ) -> tuple[ChainState, Info]:
        """Take one step at inverse temperatures t, which broadcast against the chains' axes."""
        proposal = target.evaluate(langevin_proposal(state, t, self.step_size, generator))
        log_ratio = proposal.log_density(t) - state.log_density(t)
        log_ratio += self._log_proposal(proposal, state, t) - self._log_proposal(state, proposal, t)
        # Outside the model's range the density is not a number; such a proposal is rejected.
        log_ratio = torch.where(log_ratio.isnan(), -torch.inf, log_ratio)
        uniform = torch.rand(
            log_ratio.shape, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device
        )
        accept = uniform.log() < log_ratio
        return select(accept, proposal, state), Info(log_ratio.clamp(max=0).exp())

    def _log_proposal(self, source: ChainState, destination: ChainState, t: Tensor) -> Tensor:
        """Return log q(destination | source) up to its constant, (...)."""
        h = torch.as_tensor(self.step_size, dtype=source.position.dtype, device=source.position.device)
        mean = source.position + (h.square() / 2).unsqueeze(-1) * source.score(t)
        return -(destination.position - mean).square().sum(-1) / (2 * h.square())
