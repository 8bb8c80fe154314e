r"""Modes of the posterior, and the mixture of Gaussians at them: a start next to the target.

A mode z_s is where ascent from a draw of the prior ends, and H_s = -∇∇ log p(z_s, x) by central differences of scores
(2 d evaluations with gradient, no second derivative of the model). The mixture

    q(z) = sum_s w_s N(z; z_s, H_s^-1),    w_s ∝ p(z_s, x) |H_s|^(-1/2)

is normalised, so annealing from q to the posterior gives log ∫ p(x|z) exp(-E) p0 dz = log p(x) + log Z_a. Covariances
are inflated, for weights of a narrower start hang on rare draws. A mode that no ascent found is missed by all that
follows: q only serves together with independent repeats, whose starts differ.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thermograd.progress import steps
from thermograd.samplers.target import ChainState, Target

INFLATION = 2.0  # of covariances: weights of a start wider than the target are bounded
RATE = 0.3  # of Adam, in units of the base distribution's standard deviation


@dataclass(frozen=True)
class GaussianMixture:
    """A normalised mixture of S Gaussians for each column.

    Attributes:
        mean: (S, *C, d).
        scale: (S, *C, d, d), lower triangular factors of the covariances.
        log_weight: (S, *C), normalised.
    """

    mean: Tensor
    scale: Tensor
    log_weight: Tensor

    def sample(self, number: int, generator: torch.Generator) -> Tensor:
        """Draw latents (number, *C, d); components are stratified."""
        count, columns = len(self.mean), self.log_weight.shape[1:]
        edges = self.log_weight.exp().cumsum(0).flatten(1).mT.contiguous()
        shift = torch.rand((len(edges), 1), generator=generator, dtype=edges.dtype, device=edges.device)
        points = (torch.arange(number, device=edges.device) + shift) / number
        pick = torch.searchsorted(edges, points).clamp(max=count - 1).mT.reshape(number, *columns)
        noise = torch.randn(
            (number, *self.mean.shape[1:]), generator=generator, dtype=edges.dtype, device=edges.device
        )
        mean = self.mean.gather(0, pick.unsqueeze(-1).expand(-1, *self.mean.shape[1:]))
        scale = self.scale.gather(0, pick[..., None, None].expand(-1, *self.scale.shape[1:]))
        return mean + (scale @ noise.unsqueeze(-1)).squeeze(-1)

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return log q (M, *C) and its score (M, *C, d) at latents (M, *C, d)."""
        away = z.unsqueeze(1) - self.mean
        white = torch.linalg.solve_triangular(self.scale, away.unsqueeze(-1), upper=False)
        pulls = torch.linalg.solve_triangular(self.scale.mT, white, upper=True).squeeze(-1)
        spread = self.scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = z.shape[-1] * math.log(2 * math.pi) / 2
        parts = self.log_weight - spread - constant - white.squeeze(-1).square().sum(-1) / 2
        log_density = parts.logsumexp(1)
        share = (parts - log_density.unsqueeze(1)).exp()
        return log_density, -(share.unsqueeze(-1) * pulls).sum(1)


@dataclass(frozen=True)
class FromMixture(Target):
    """The path from a mixture to the posterior: log p(x, z) - log q is annealed, exp(-E) p0 not normalised by Z_a."""

    mixture: GaussianMixture | None = None

    def evaluate(self, z: Tensor) -> ChainState:
        """Evaluate at z (M, *C, d), with log p(x|z) exp(-E) p0 / q in the place of l, and q in that of the prior."""
        assert self.mixture is not None
        state = super().evaluate(z)
        log_density, score = self.mixture.evaluate(z)
        joint = state.log_likelihood - state.energy + self.model.log_base(z)
        return state._replace(
            log_likelihood=joint - log_density,
            log_prior=log_density,
            likelihood_score=state.likelihood_score + state.prior_score - score,
            prior_score=score,
        )


@dataclass(frozen=True)
class Whitened(Target):
    """A target in coordinates y, z = A y, in which MALA steps alike in all directions.

    Attributes:
        inner: the target in z.
        scale: A, (*C, d, d).
    """

    inner: Target | None = None
    scale: Tensor | None = None

    def evaluate(self, y: Tensor) -> ChainState:
        """Evaluate at y (M, *C, d); densities are those in z, whose constant log |A| plays no part."""
        assert self.inner is not None
        assert self.scale is not None
        state = self.inner.evaluate(torch.einsum("...ij,...j->...i", self.scale, y))
        turned = (
            torch.einsum("...ji,...j->...i", self.scale, score)
            for score in (state.likelihood_score, state.prior_score)
        )
        return ChainState(y, state.log_likelihood, state.energy, state.log_prior, *turned)


@dataclass(frozen=True)
class Backwards(Target):
    """The path of `inner` walked from its end to its start: p_t ∝ exp((1 - t) r) p_0."""

    inner: Target | None = None

    def evaluate(self, z: Tensor) -> ChainState:
        """Evaluate at z with -r in the place of l, and the end of the path in that of the prior."""
        assert self.inner is not None
        state = self.inner.evaluate(z)
        return state._replace(
            log_likelihood=-state.log_likelihood,
            log_prior=state.log_prior + state.log_likelihood,
            likelihood_score=-state.likelihood_score,
            prior_score=state.prior_score + state.likelihood_score,
        )


def find_modes(target: Target, start: Tensor, num_steps: int) -> tuple[Tensor, Tensor]:
    """Climb log p(x, z) by Adam from latents (S, *C, d); return the best places seen and their log p(x|z) p(z)."""
    z, best = start, start
    mean, square = torch.zeros_like(z), torch.zeros_like(z)
    highest = torch.full_like(z[..., 0], -torch.inf)
    one = torch.ones_like(highest)
    for step in steps(range(num_steps), "steps to the modes"):
        state = target.evaluate(z)
        density, score = state.log_density(one), state.score(one).nan_to_num()
        better = density > highest
        best, highest = torch.where(better.unsqueeze(-1), z, best), torch.where(better, density, highest)
        mean = 0.9 * mean + 0.1 * score
        square = 0.95 * square + 0.05 * score.square()
        rate = RATE * target.model.base_std * (1 - 0.95 * step / num_steps)
        unbiased = (square / (1 - 0.95 ** (step + 1))).sqrt() + torch.finfo(z.dtype).tiny
        z = z + rate * mean / (1 - 0.9 ** (step + 1)) / unbiased
    return best, highest


def mixture_at_modes(target: Target, modes: Tensor, log_density: Tensor) -> GaussianMixture:
    """Return the mixture of Gaussians at modes (S, *C, d), with precisions from central differences of scores.

    A direction in which log p is flatter than the base distribution, or not concave, takes that one's width.
    """
    d, base = modes.shape[-1], target.model.base_std
    step = 0.02 * base
    eye = torch.eye(d, dtype=modes.dtype, device=modes.device).view(d, *[1] * (modes.dim() - 1), d)
    shifted = torch.cat([modes + step * eye, modes - step * eye])  # (2 d, S, *C, d)
    state = target.evaluate(shifted.flatten(0, 1))
    score = state.score(torch.ones_like(state.log_prior)).unflatten(0, (2 * d, -1))
    hessian = ((score[d:] - score[:d]) / (2 * step)).movedim(0, -1)
    values, vectors = torch.linalg.eigh((hessian + hessian.mT) / 2)
    values = values.nan_to_num(nan=base**-2).clamp(min=base**-2)
    covariance = INFLATION * vectors @ torch.diag_embed(1 / values) @ vectors.mT
    weight = log_density - values.log().sum(-1) / 2
    return GaussianMixture(modes, torch.linalg.cholesky(covariance), weight.log_softmax(0))


def common_scale(mixture: GaussianMixture) -> Tensor:
    """Return A (*C, d, d) with A A^T the inverse of the components' mean precision, weighed as they are."""
    inverse = torch.cholesky_inverse(mixture.scale)
    precision = (mixture.log_weight.exp()[..., None, None] * inverse).sum(0)
    lower = torch.linalg.cholesky(precision)
    return torch.linalg.inv(lower).mT
