"""What every kernel is: a start, a step, and a step size that may follow the acceptance."""

import inspect
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from thermograd.config import names
from thermograd.config.facts import KernelFacts
from thermograd.config.tables import Table
from thermograd.errors import InputError
from thermograd.samplers.target import ChainState, Info, Target


@dataclass(frozen=True)
class Kernel(ABC):
    """One step of a chain at inverse temperature t. Derive a frozen dataclass and write `step`.

    Args:
        step_size: h, a number or a tensor that broadcasts against the chains' axes (...).

    Attributes:
        name: as a config names it.
        target_acceptance: the mean acceptance that `step_size` is steered to, in (0, 1); None for a step size that
            stays as it is. Declare it as a field with a default, as `MALA` does, or as a class attribute.
        is_reversible: whether a step satisfies detailed balance with p_t, as annealed importance sampling needs.
        takes_covariance: whether its proposals can have a covariance, by `with_covariance`.
        moves_by_score: whether a step is `langevin_move` by the score alone, so that it can be taken without the
            rest of the state. A class that defines `step` must set it itself.

    Raises:
        InputError: `step_size` is a number and not positive, or `target_acceptance` outside (0, 1). Tensors are checked
            by `LadderSampler`.

    Example:
        >>> isinstance(tg.MALA(0.1), tg.Kernel)
        True
    """

    table: ClassVar[Table[KernelFacts]] = names.KERNELS
    name: ClassVar[str]
    is_reversible: ClassVar[bool] = False
    takes_covariance: ClassVar[bool] = False
    moves_by_score: ClassVar[bool] = False

    step_size: float | Tensor

    @classmethod
    def facts(cls) -> KernelFacts:
        """Return what is known of the kernel, as it is registered.

        Raises:
            InputError: it has no name, or cannot be made from a step size alone.
        """
        try:
            cls(1.0)
        except TypeError as error:
            raise InputError(f"`{cls.__name__}` must be made from a step size alone: {error}.") from None
        summary = (inspect.getdoc(cls) or "").partition("\n")[0]
        return KernelFacts(getattr(cls, "name", ""), summary=summary, takes_covariance=cls.takes_covariance)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "step" in vars(cls):
            cls.moves_by_score = vars(cls).get("moves_by_score", False)

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        if self.target_acceptance is not None and not 0 < self.target_acceptance < 1:
            raise InputError(f"`target_acceptance` must lie between 0 and 1, got {self.target_acceptance}.")

    @property
    def target_acceptance(self) -> float | None:
        """Return the mean acceptance that the step size is steered to, or None."""
        return None

    @property
    def factor(self) -> Tensor | None:
        """Return the factor L of the covariance of its proposals, or None where it has no such covariance."""
        return None

    def with_covariance(self, covariance: Tensor) -> "Kernel":
        """Return the kernel with proposals of covariances h^2 C, C (..., d, d).

        Raises:
            InputError: a kernel whose proposals take none.
        """
        raise InputError(f"`precondition` needs a kernel whose proposals take a covariance, got {self.name}.")

    def on_rungs(self, rungs: slice, step_size: Tensor) -> "Kernel":
        """Return the kernel of some of a ladder's rungs, whose settings meet chains (K', M, B)."""
        return replace(self, step_size=step_size)

    def init(self, target: Target, position: Tensor) -> ChainState:
        """Evaluate the target at the start (..., d)."""
        return target.evaluate(position)

    @abstractmethod
    def step(
        self, target: Target, state: ChainState, t: Tensor, generator: torch.Generator
    ) -> tuple[ChainState, Info]:
        """Take one step at inverse temperatures t, which broadcast against the chains' axes."""

    @staticmethod
    def accept(
        state: ChainState, proposal: ChainState, log_ratio: Tensor, generator: torch.Generator
    ) -> tuple[ChainState, Info]:
        """Move to the proposal with probability min(1, exp(log_ratio)), chain by chain.

        Args:
            state: where the chains stand.
            proposal: where they may go.
            log_ratio: (...), log of p_t(z') q(z|z') / (p_t(z) q(z'|z)).
            generator: source of all randomness.
        """
        # Outside the model's range the density is not a number; such a proposal is rejected.
        log_ratio = torch.where(log_ratio.isnan(), -torch.inf, log_ratio)
        uniform = torch.rand(
            log_ratio.shape, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device
        )
        accepted = uniform.log() < log_ratio
        return select(accepted, proposal, state), Info(log_ratio.clamp(max=0).exp(), proposal)

    def last_step(
        self, target: Target, state: ChainState, t: Tensor, generator: torch.Generator
    ) -> tuple[ChainState, Info]:
        """Take a step that none follows: the score of the likelihood may be left out where it ends."""
        return self.step(target, state, t, generator)


def select(condition: Tensor, yes: ChainState, no: ChainState) -> ChainState:
    """Return `yes` where the condition (...) holds and `no` elsewhere, chain by chain."""
    return ChainState(
        *(
            torch.where(condition.view(condition.shape + (1,) * (a.dim() - condition.dim())), a, b)
            for a, b in zip(yes, no, strict=True)
        )
    )


def adapted_step_size(
    step_size: Tensor, acceptance: Tensor, target_acceptance: float | None, gain: float
) -> Tensor:
    """Return h exp(gain (acceptance - target)), one Robbins-Monro step towards the target acceptance.

    Args:
        step_size: (K,), one for each rung.
        acceptance: (K,), mean over chains and images.
        target_acceptance: wanted mean; None returns the step sizes as they are.
        gain: step of the recursion; it must fall to 0 or stop before draws are used.
    """
    if target_acceptance is None:
        return step_size
    return step_size * torch.exp(gain * (acceptance - target_acceptance))


def check_step_size(step_size: float | Tensor) -> None:
    """Check a number; a tensor passes, since looking into it at each step would wait for the device.

    Raises:
        InputError: not positive or not finite.
    """
    if not isinstance(step_size, Tensor) and not (step_size > 0 and math.isfinite(step_size)):
        raise InputError(f"`step_size` must be positive, got {step_size}.")
