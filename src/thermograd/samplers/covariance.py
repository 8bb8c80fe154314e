r"""A chain's own covariance, learnt from its proposals at no evaluation.

Every proposal of MALA evaluates the score where it leads, so a step tells how the score changes along one direction:

    move u = z' - z,    change y = ∇ log p_t(z) - ∇ log p_t(z') ≈ P u,

with P the precision of p_t, for decoders I + t J^T J / s^2. The update of Broyden, Fletcher, Goldfarb and Shanno makes
a covariance C that says so, C y = u, out of another and keeps it positive definite:

    BFGS(C) = (I - u y^T / y·u) C (I - y u^T / y·u) + u u^T / y·u,        C <- (1 - g) C + g BFGS(C).

A gain g below 1 averages over the places where a chain has been. A pair is left out that says that the density is
flatter than any posterior should be, or that would make C wider than the base distribution.

References:
    Zhang and Sutton (2011), Quasi-Newton methods for Markov chain Monte Carlo. NeurIPS.
    Girolami and Calderhead (2011), Riemann manifold Langevin and Hamiltonian Monte Carlo methods. JRSS B.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

SMALLEST_PRECISION = 0.3
"""Of the density along a move, in units of the base distribution's, for the pair to be taken."""
LARGEST_VARIANCE = 4.0
"""Mean eigenvalue of a covariance, in units of the base distribution's, beyond which a pair is left out."""


def base_covariance(position: Tensor, base_std: float) -> Tensor:
    """Return s0^2 I, where learning begins, for each of some positions (..., d): (..., d, d)."""
    identity = torch.eye(position.shape[-1]).to(position)
    return (base_std**2 * identity).expand(*position.shape, position.shape[-1]).clone()


def learnt_covariance(
    covariance: Tensor, move: Tensor, change: Tensor, gain: float, base_std: float = 1.0
) -> Tensor:
    """Return covariances (..., d, d) after one pair each.

    Args:
        covariance: (..., d, d), symmetric and positive definite.
        move: u, (..., d).
        change: y, (..., d); a pair with a number that is not finite is left out.
        gain: g in (0, 1].
        base_std: s0, the unit of length.
    """
    curvature = (change * move).sum(-1)
    product = (covariance @ change.unsqueeze(-1)).squeeze(-1)
    rho = 1 / torch.where(curvature > 0, curvature, 1.0)
    square = rho.square() * (change * product).sum(-1) + rho
    cross = (rho.unsqueeze(-1) * move).unsqueeze(-1) * product.unsqueeze(-2)
    outer = square[..., None, None] * (move.unsqueeze(-1) * move.unsqueeze(-2))  # symmetric to the last bit
    difference = outer - cross - cross.mT
    trace = (covariance + difference).diagonal(dim1=-2, dim2=-1).sum(-1)
    taken = curvature * base_std**2 > SMALLEST_PRECISION * move.square().sum(-1)
    taken &= trace < LARGEST_VARIANCE * base_std**2 * move.shape[-1]  # false where it is not a number
    return torch.where(taken[..., None, None], covariance + gain * difference, covariance)


def learn_from_chains(
    covariance: Tensor, pairs: Iterable[tuple[Tensor, Tensor]], gain: float, base_std: float
) -> Tensor:
    """Return covariances (K, B, d, d) after the pairs of some steps of M chains, moves and changes (K, M, B, d)."""
    for move, change in pairs:
        for u, y in zip(move.unbind(1), change.unbind(1), strict=True):
            covariance = learnt_covariance(covariance, u, y, gain, base_std)
    return covariance


def factor_of(covariance: Tensor) -> Tensor:
    """Return lower triangular L with L L^T = C, (..., d, d); that of the mean variance where rounding spoilt C."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=torch.finfo(covariance.dtype).tiny)
    plain = torch.eye(covariance.shape[-1]).to(covariance) * variance.sqrt()[..., None, None]
    return torch.where(failed.bool()[..., None, None], plain, factor)
