r"""Stein weights: expectations from all states of a few chains, corrected by what the score must average to.

Let z_n, n = 1, ..., N, be the draws of one image and h_n = ∇_z log p(z_n) their scores, of d numbers. At stationarity
E[∇_z log p] = 0 whatever p is, so that a mean score other than 0 is chance, or a sign that chains have not arrived, and
an integrand that is linear in the score can be corrected for it. With h̄ the mean score,

    C = mean_n (h_n - h̄)(h_n - h̄)^T + ridge (tr C / d) I,    a_n = h̄^T C^-1 (h_n - h̄),    W_n = (1 - a_n) / N.

W sums to 1 and knows nothing of the integrand f: sum_n W_n f(z_n) is the intercept, at h = 0, of a ridge regression of
f on h, so one weighted backward pass serves all parameters. Its limit is E[f], with a bias that falls like 1/N. It is
exact for f linear in h, thus on Gaussian targets for f linear in z, but for the ridge.

What keeps it from harm: the regression itself gives a chain that stands far out next to no weight, so no image and no
chain is left out. Where the draws' mean score is large beside their spread, the intercept lies far outside the draws,
and weights grow without bound; a is therefore shrunk until mean a^2 <= N - 1, which says that the weighted sum is worth
no less than one draw: sum W^2 <= 1. Near
stationarity mean a^2 is about d/N, so that the bound is far away.

References:
    Oates, Girolami, Chopin (2017), Control functionals for Monte Carlo integration. JRSS B.
    Mira, Solgi, Imparato (2013), Zero variance Markov chain Monte Carlo for Bayesian estimators.
"""

import torch
from torch import Tensor


def ridge(num_draws: int, latent_dim: int) -> float:
    """Return the share of the mean variance that is added to each direction: 0.1 for N < 2 d, 0.01 above."""
    return 0.1 if num_draws < 2 * latent_dim else 0.01


def stein_weights(score: Tensor) -> Tensor:
    """Return the weights of each image's draws, (N, B), which sum to 1 over N; in the score's own format.

    Equal weights where all draws of an image have the same score, as a single draw has.

    Args:
        score: ∇_z log p at the draws, (N, B, d); all states of all chains count.
    """
    num_draws, _, latent_dim = score.shape
    h = score.detach().double().transpose(0, 1)  # (B, N, d)
    mean = h.mean(1, keepdim=True)
    centred = h - mean
    covariance = centred.mT @ centred / num_draws
    scale = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
    scale = torch.where(scale > 0, scale, 1.0)[:, None, None]
    identity = torch.eye(latent_dim, dtype=h.dtype, device=h.device)
    factor, _ = torch.linalg.cholesky_ex(covariance / scale + ridge(num_draws, latent_dim) * identity)
    slope = torch.cholesky_solve(mean.mT / scale, factor)  # C^-1 h̄, (B, d, 1)
    correction = (centred @ slope).squeeze(-1)  # a, (B, N)
    square = correction.square().mean(1, keepdim=True)
    bound = (num_draws - 1) / torch.where(square > 0, square, 1.0)
    correction = correction * bound.clamp(max=1).sqrt()
    return ((1 - correction) / num_draws).mT.to(score.dtype)
