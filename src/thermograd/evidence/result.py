"""What every method of estimating the evidence returns."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thermograd.errors import Caution, InputError
from thermograd.ladders.ladder import LadderTrace


@dataclass(frozen=True)
class Evidence:
    """Estimates of log p(x) for B images, in nats.

    The two errors are of different kinds and are never added: chance, which more draws reduce, and quadrature,
    which is fixed by the schedule.

    Attributes:
        method: how it was estimated.
        log_evidence: (B,).
        monte_carlo_error: (B,), a standard error; autocorrelation and the coupling of rungs are counted.
        quadrature_error: (B,), an estimate of the rule's error on this schedule; 0 for methods without one.
        lower: (B,), an estimated lower bound, or None: the left sum of thermodynamic integration, or the
            forward pass of annealing where prior draws are exact.
        upper: (B,), an estimated upper bound, or None: the right sum, or the reverse pass of annealing.
        inverse_temperatures: (K,).
        expected_log_likelihood: (K, B), E_t[l], or None where the method does not visit the power posteriors.
        variance_log_likelihood: (K, B), Var_t(l), or None.
        num_evaluations: generator evaluations with gradient spent on each image.
        warnings: a caution for each reason to doubt the numbers.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(4, torch.Generator().manual_seed(1))
        >>> tg.estimate_evidence(twin, x).log_evidence.shape
        torch.Size([4])
    """

    method: str
    log_evidence: Tensor
    monte_carlo_error: Tensor
    quadrature_error: Tensor
    lower: Tensor | None
    upper: Tensor | None
    inverse_temperatures: Tensor
    expected_log_likelihood: Tensor | None
    variance_log_likelihood: Tensor | None
    num_evaluations: float
    warnings: tuple[Caution, ...]


def checked_trace(trace: LadderTrace) -> tuple[Tensor, Tensor]:
    """Return temperatures (K,) and log-likelihoods (S, K, M, B) in float64, checked for an integral over t.

    Raises:
        InputError: no rung at t = 0, fewer than two draws, or values that are not finite.
    """
    values = trace.log_likelihood
    if not (trace.inverse_temperatures[0] == 0).all():
        raise InputError("`trace` must hold draws of each image at t = 0; sample it with bottom 'chains'.")
    if values.shape[0] * values.shape[2] < 2:
        raise InputError("`trace` must hold at least 2 draws on each rung, got 1.")
    if not values.isfinite().all():
        raise InputError("`trace` must hold finite log-likelihoods, got a value that is not.")
    return trace.inverse_temperatures.double(), values.detach().double()


def log_mean_exp(values: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return log of the mean of exp(values) over `dim`."""
    dims = (dim,) if isinstance(dim, int) else dim
    count = torch.tensor([values.shape[d] for d in dims], dtype=values.dtype, device=values.device).prod()
    return values.logsumexp(dim) - count.log()
