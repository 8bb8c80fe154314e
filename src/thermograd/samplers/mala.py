r"""Metropolis-adjusted Langevin algorithm: the Langevin proposal with a test that makes it exact.

A proposal z' ~ q(·|z) = N(z + (h^2/2) ∇ log p_t(z), h^2 I) is accepted with probability

    min(1, p_t(z') q(z|z') / (p_t(z) q(z'|z))),

so the chain's stationary distribution is p_t itself, at any step size. Each chain is tested by itself.

With a factor L of a covariance C = L L^T the proposal is N(z + (h^2/2) C ∇ log p_t(z), h^2 C): steps as long as the
density is wide, in every direction. It is the same chain in the coordinates L^-1 z, so it is as exact, as long as C
does not depend on where the chain stands.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from thermograd.samplers.covariance import factor_of
from thermograd.samplers.kernel import Kernel
from thermograd.samplers.target import ChainState, Info, Target


@dataclass(frozen=True)
class MALA(Kernel):
    """Metropolis-adjusted Langevin kernel.

    Args:
        step_size: h, a number or a tensor that broadcasts against the chains' axes (...).
        target_acceptance: what the step size is steered to; 0.574 is optimal in high dimension. None keeps it.
        factor: L, lower triangular (..., d, d), which broadcasts against the chains' axes; on a ladder (K', B, d, d) of
            the rungs that run chains. None for the identity.
        antithetic: chains (..., M, B, d) take opposite noise in pairs 2 m, 2 m + 1, M even. Each has its own law
            as before; the mean over a pair varies less where the density is near to symmetric about its mean.

    Raises:
        InputError: `step_size` is a number and not positive, or `target_acceptance` outside (0, 1).

    References:
        Roberts and Tweedie (1996), Exponential convergence of Langevin distributions. Bernoulli.
        Roberts and Rosenthal (1998), Optimal scaling of discrete approximations to Langevin diffusions. JRSS
            B.
        Girolami and Calderhead (2011), Riemann manifold Langevin and Hamiltonian Monte Carlo methods. JRSS B.

    Example:
        >>> tg.MALA(0.1).target_acceptance
        0.574
    """

    name: ClassVar[str] = "mala"
    is_reversible: ClassVar[bool] = True
    takes_covariance: ClassVar[bool] = True

    target_acceptance: float | None = 0.574
    factor: Tensor | None = None
    antithetic: bool = False

    def with_covariance(self, covariance: Tensor) -> "MALA":
        """Return the kernel with proposals of covariances h^2 C, C (..., d, d)."""
        return replace(self, factor=factor_of(covariance))

    def on_rungs(self, rungs: slice, step_size: Tensor) -> "MALA":
        """Return the kernel of some of a ladder's rungs, whose settings meet chains (K', M, B)."""
        factor = None if self.factor is None else self.factor[rungs].unsqueeze(1)
        return replace(self, step_size=step_size, factor=factor)

    def step(
        self, target: Target, state: ChainState, t: Tensor, generator: torch.Generator
    ) -> tuple[ChainState, Info]:
        """Take one step at inverse temperatures t, which broadcast against the chains' axes."""
        h = self._column(state.position)
        noise = torch.randn(state.position.shape, generator=generator, dtype=h.dtype, device=h.device)
        if self.antithetic:
            first = noise[..., ::2, :, :]
            noise = torch.stack([first, -first], -3).flatten(-4, -3)
        move = h * (noise + (h / 2) * self._whitened_score(state, t))
        step = move if self.factor is None else (self.factor @ move.unsqueeze(-1)).squeeze(-1)
        proposal = target.evaluate(state.position + step)
        log_ratio = proposal.log_density(t) - state.log_density(t)
        log_ratio += self._log_proposal_ratio(noise, move, self._whitened_score(proposal, t))
        return self.accept(state, proposal, log_ratio, generator)

    def _log_proposal_ratio(self, noise: Tensor, move: Tensor, score: Tensor) -> Tensor:
        """Return log q(z|z') - log q(z'|z), (...): the noise that led to z' against the one that would lead back.

        Args:
            noise: ξ, (..., d).
            move: L^-1 (z' - z), (..., d).
            score: L^T ∇ log p_t(z'), (..., d).
        """
        h = self._column(move)
        back = move / h + (h / 2) * score
        return (noise.square() - back.square()).sum(-1) / 2

    def _column(self, like: Tensor) -> Tensor:
        """Return the step size as it meets latents, (..., 1)."""
        return torch.as_tensor(self.step_size, dtype=like.dtype, device=like.device).unsqueeze(-1)

    def _whitened_score(self, state: ChainState, t: Tensor) -> Tensor:
        """Return L^T ∇ log p_t, the score in the coordinates L^-1 z, (..., d)."""
        score = state.score(t)
        return score if self.factor is None else (self.factor.mT @ score.unsqueeze(-1)).squeeze(-1)
