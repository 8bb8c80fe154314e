r"""Unadjusted Langevin algorithm, the short-run sampler of Pang et al. (2020).

    z' = z + (h^2 / 2) ∇ log p_t(z) + h ξ,    ξ ~ N(0, I)

h is the `step_size` as papers quote it. Without a test of acceptance the chain is biased at any h > 0: on
N(0, 1) its stationary variance is 1 / (1 - h^2 / 4).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thermograd.samplers.kernel import Kernel
from thermograd.samplers.target import ChainState, Info, Target


@dataclass(frozen=True)
class ULA(Kernel):
    """Unadjusted Langevin kernel.

    Args:
        step_size: h, a number or a tensor that broadcasts against the chains' axes (...).

    Raises:
        InputError: `step_size` is a number and not positive; tensors are checked by `LadderSampler`.

    Example:
        >>> tg.ULA(0.1).target_acceptance is None
        True
    """

    name: ClassVar[str] = "ula"
    moves_by_score: ClassVar[bool] = True

    def step(
        self, target: Target, state: ChainState, t: Tensor, generator: torch.Generator
    ) -> tuple[ChainState, Info]:
        """Take one step at inverse temperatures t, which broadcast against the chains' axes."""
        proposal = langevin_proposal(state, t, self.step_size, generator)
        return target.evaluate(proposal), Info(torch.ones_like(state.log_prior))

    def last_step(
        self, target: Target, state: ChainState, t: Tensor, generator: torch.Generator
    ) -> tuple[ChainState, Info]:
        """Take a step that none follows: the new position needs no score of the likelihood."""
        proposal = langevin_proposal(state, t, self.step_size, generator)
        return target.measure(proposal), Info(torch.ones_like(state.log_prior))


def langevin_proposal(
    state: ChainState, t: Tensor, step_size: float | Tensor, generator: torch.Generator
) -> Tensor:
    """Return z + (h^2/2) ∇ log p_t(z) + h ξ, (..., d)."""
    return langevin_move(state.position, state.score(t), step_size, generator)


def langevin_move(
    position: Tensor, score: Tensor, step_size: float | Tensor, generator: torch.Generator
) -> Tensor:
    """Return z + (h^2/2) score + h ξ, (..., d)."""
    h = torch.as_tensor(step_size, dtype=position.dtype, device=position.device).unsqueeze(-1)
    noise = torch.randn(position.shape, generator=generator, dtype=h.dtype, device=h.device)
    return position + (h.square() / 2) * score + h * noise
