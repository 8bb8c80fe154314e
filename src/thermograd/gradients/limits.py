"""What each rule of weights estimates: what its mean tends to as draws become exact and chains many."""

from typing import NamedTuple

import torch
from torch import Tensor

from thermograd.ladders.quadrature import trapezoid_weights


class Limit(NamedTuple):
    """What a rule estimates: sum over k of c[k] E_k[∇l] + d[k] Cov_k(l, ∇l), with ∇E for the prior; both (K,).

    Example:
        >>> tg.Limit(torch.tensor([0.0, 1.0]), torch.zeros(2)).expectation  # of maximum likelihood
        tensor([0., 1.])
    """

    expectation: Tensor
    covariance: Tensor


def limit_maximum_likelihood(t: Tensor) -> Limit:
    """Return E_1[∇l]."""
    last = torch.zeros_like(t)
    last[-1] = 1
    return Limit(last, torch.zeros_like(t))


def limit_detached(t: Tensor) -> Limit:
    """Return sum w_k E_k[∇l], with the trapezoid weights."""
    return Limit(trapezoid_weights(t), torch.zeros_like(t))


def limit_complete(t: Tensor) -> Limit:
    """Return sum w_k (E_k[∇l] + t_k Cov_k(l, ∇l))."""
    return Limit(trapezoid_weights(t), trapezoid_weights(t) * t)


def limit_right_sum(t: Tensor) -> Limit:
    """Return sum Δt_k E_{k+1}[∇l]."""
    return Limit(torch.cat([t.new_zeros(1), t.diff()]), torch.zeros_like(t))


def limit_contrast(t: Tensor) -> Limit:
    """Return E_0[∇E] - E_1[∇E]."""
    ends = torch.zeros_like(t)
    ends[0], ends[-1] = 1, -1
    return Limit(ends, torch.zeros_like(t))


def limit_covariance(t: Tensor) -> Limit:
    """Return -sum w_k Cov_k(l, ∇E)."""
    return Limit(torch.zeros_like(t), -trapezoid_weights(t))


def limit_detached_objective(t: Tensor) -> Limit:
    """Return sum over k > 0 of (w_k / t_k)(E_0[∇E] - E_k[∇E]) - w_0 Cov_0(l, ∇E)."""
    weights = trapezoid_weights(t)
    expectation, covariance = torch.zeros_like(t), torch.zeros_like(t)
    expectation[1:] = -weights[1:] / t[1:]
    expectation[0] = -expectation[1:].sum()
    covariance[0] = -weights[0]
    return Limit(expectation, covariance)
