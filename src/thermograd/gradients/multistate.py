r"""Weights that let every draw of a ladder speak for every temperature: the multistate estimator (MBAR).

For one image with draws n = 1, ..., N of log-likelihood l_n, M of them on each of K rungs, the draws of all rungs are
one sample of the mixture of the K power posteriors. With f_j = log Z_j up to a constant shared by all rungs,

    p_nj = exp(t_j l_n - f_j) / sum_i exp(t_i l_n - f_i)        the share of rung j in draw n,
    sum_n p_nj = M for each j                                   which determines f,
    E_t[g] ~ sum_n w_n(t) g_n,   w(t) = softmax_n(t l_n - log sum_j exp(t_j l_n - f_j)),

at any t; for the temperature of a rung w_n(t_j) = p_nj / M. The weights lie in [0, 1] and sum to 1, and M = 1 is
enough. f minimises the convex function

    F(f) = sum_n log sum_j exp(t_j l_n - f_j) + M sum_j f_j.

Where no rungs overlap, the solution is known: in the order of l each rung takes M draws, in the order of t. Newton's
method from there takes 3 or 4 rounds on all that was tried; where a step would raise F, the fixed point f_j + log(sum_n
p_nj / M), which never does, takes its place. The fixed point alone takes hundreds of rounds.

References:
    Shirts and Chodera (2008), Statistically optimal analysis of samples from multiple equilibrium states.
    Tan (2004), On a likelihood approach for Monte Carlo integration. JASA.
    Klimovich, Shirts, Mobley (2015), Guidelines for the analysis of free energy calculations: the overlap matrix.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from thermograd.errors import InputError

TOLERANCE = 1e-10
MAX_ROUNDS = 200


class Multistate(NamedTuple):
    """The solution of the multistate equations of each image, in float64.

    Attributes:
        log_partition: f, (K, B): log Z of each rung over that of the first.
        log_shares: log p, (K, K, M, B): of rung j, the first axis, in the draw (k, m).
        log_mixture: log sum_j exp(t_j l_n - f_j), (K, M, B), up to a constant per image.
        residual: (B,), the largest |sum_n p_nj / M - 1| over rungs.
    """

    log_partition: Tensor
    log_shares: Tensor
    log_mixture: Tensor
    residual: Tensor

    @property
    def overlap(self) -> Tensor:
        """Return sum_n p_nj p_nk / M, (K, K, B): rows sum to 1; the identity means that no two rungs overlap."""
        shares = self.log_shares.exp()
        return torch.einsum("jkmb,ikmb->jib", shares, shares) / shares.shape[2]


def solve_multistate(log_likelihood: Tensor, inverse_temperatures: Tensor) -> Multistate:
    """Solve the multistate equations of each image.

    Args:
        log_likelihood: l, (K, M, B), in nats.
        inverse_temperatures: t, (K,), or (K, B) where each image has its own.

    Raises:
        InputError: temperatures of another shape.
    """
    num_rungs, num_chains, num_images = log_likelihood.shape
    if inverse_temperatures.shape not in ((num_rungs,), (num_rungs, num_images)):
        raise InputError(
            f"`inverse_temperatures` must have shape ({num_rungs},) or ({num_rungs}, {num_images}), "
            f"got {tuple(inverse_temperatures.shape)}."
        )
    t = inverse_temperatures.detach().double().view(num_rungs, -1).expand(-1, num_images)
    values = log_likelihood.detach().double()
    top = values.amax((0, 1))
    values = values - top  # changes no share, and keeps digits
    tilts = (t[:, None, None] * values).flatten(1, 2)  # (K, N, B)
    point = _Point(tilts, _sorted_start(t, values.flatten(0, 1)), num_chains)
    tolerance = (8 * torch.finfo(tilts.dtype).eps * tilts.abs().amax((0, 1))).clamp(min=TOLERANCE)
    for _ in range(MAX_ROUNDS):
        if (point.excess.abs() < tolerance).all():
            break
        newton = _Point(tilts, point.f + point.newton_step(), num_chains)
        falls = newton.value <= point.value + 1e-12 * point.value.abs()
        if not falls.all():
            newton = newton.where(falls, _Point(tilts, point.f + point.log_mass, num_chains))
        point = newton
    log_partition = point.f + t * top
    return Multistate(
        log_partition - log_partition[0],
        point.log_shares.unflatten(1, (num_rungs, num_chains)),
        point.log_mixture.unflatten(0, (num_rungs, num_chains)),
        point.excess.abs().amax(0),
    )


def state_weights(
    log_likelihood: Tensor, inverse_temperatures: Tensor, t: tuple[float, ...]
) -> tuple[Tensor, ...]:
    """Return w(t) for each t asked for, (K, M, B) in the log-likelihood's own format, summing to 1 for each image.

    Args:
        log_likelihood: l, (K, M, B), in nats.
        inverse_temperatures: of the rungs, (K,) or (K, B).
        t: where expectations are wanted, on a rung or not; far from all rungs few draws carry the weight.
    """
    values = log_likelihood.detach().double()
    mixture = solve_multistate(values, inverse_temperatures).log_mixture
    return tuple(
        (each * values - mixture).flatten(0, 1).softmax(0).view_as(values).to(log_likelihood.dtype)
        for each in t
    )


class _Point:
    """A guess of f (K, B), and what the equations say there."""

    def __init__(self, tilts: Tensor, f: Tensor, num_chains: int):
        self.f, self.num_chains = f, num_chains
        logits = tilts - f.unsqueeze(1)
        self.log_mixture = logits.logsumexp(0)  # (N, B)
        self.log_shares = logits - self.log_mixture  # (K, N, B)
        self.log_mass = self.log_shares.logsumexp(1) - math.log(num_chains)  # (K, B)
        self.value = self.log_mixture.sum(0) + num_chains * f.sum(0)

    @property
    def excess(self) -> Tensor:
        """Return sum_n p_nj / M - 1, (K, B), which is 0 at the solution."""
        return self.log_mass.expm1()

    def newton_step(self) -> Tensor:
        """Return -H^-1 dF/df, (K, B), with the constant that H leaves free at 0."""
        shares = self.log_shares.exp().movedim(-1, 0)  # (B, K, N)
        hessian = torch.diag_embed(shares.sum(-1)) - shares @ shares.mT
        size = hessian.shape[-1]
        # 1 / K adds curvature M along the constant; the rest keeps rungs that overlap nowhere from dividing by 0.
        ridge = 1 / size + 1e-12 * torch.eye(size, dtype=hessian.dtype, device=hessian.device)
        step = torch.linalg.solve(hessian + self.num_chains * ridge, self.excess.mT.unsqueeze(-1))
        return self.num_chains * step.squeeze(-1).mT

    def where(self, condition: Tensor, other: "_Point") -> "_Point":
        """Return this point for the images (B,) where the condition holds, and the other one elsewhere."""
        chosen = object.__new__(_Point)
        chosen.num_chains = self.num_chains
        for name in ("f", "log_mixture", "log_shares", "log_mass", "value"):
            setattr(chosen, name, torch.where(condition, getattr(self, name), getattr(other, name)))
        return chosen


def _sorted_start(t: Tensor, values: Tensor) -> Tensor:
    """Return the solution for rungs that do not overlap, (K, B): each takes its M draws in the order of l.

    Neighbours j, j + 1 then meet halfway between two draws, where t_j l - f_j = t_{j+1} l - f_{j+1}.
    """
    num_rungs = len(t)
    ordered = values.sort(0).values.unflatten(0, (num_rungs, -1))  # (K, M, B)
    steps = t.diff(dim=0) * (ordered[:-1, -1] + ordered[1:, 0]) / 2
    return torch.cat([torch.zeros_like(t[:1]), steps.cumsum(0)])
