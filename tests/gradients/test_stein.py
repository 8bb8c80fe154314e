"""Stein weights on Gaussian targets, where what they correct is known."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from thermograd.gradients.stein import ridge, stein_weights
from thermograd.models.linear_gaussian import LinearGaussian
from thermograd.testing.exact_ladders import seeded

Weights = Callable[[Tensor], Tensor]


def draws(num: int, images: int, dim: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return z (N, B, d) of N(m, P^-1) for a precision P of its own per image, h = -P (z - m), and m."""
    generator = seeded(seed)
    root = torch.randn(images, dim, dim, generator=generator, dtype=torch.float64) / math.sqrt(dim)
    precision = root @ root.mT + 0.5 * torch.eye(dim, dtype=torch.float64)
    mean = torch.randn(images, dim, generator=generator, dtype=torch.float64)
    factor = torch.linalg.cholesky(torch.linalg.inv(precision))
    noise = torch.randn(num, images, dim, generator=generator, dtype=torch.float64)
    shift = torch.einsum("bij,nbj->nbi", factor, noise)
    return mean + shift, -torch.einsum("bij,nbj->nbi", precision, shift), mean


def equal(score: Tensor) -> Tensor:
    return torch.full_like(score[..., 0], 1 / len(score))


def sign_turned(score: Tensor) -> Tensor:
    return 2 * equal(score) - stein_weights(score)


def with_stored_covariance(score: Tensor) -> Tensor:
    """Weights whose C comes from other draws of the same targets."""
    _, stored, _ = draws(len(score), score.shape[1], score.shape[2], 77)
    mean = score.mean(0)
    centred = stored - stored.mean(0)
    covariance = torch.einsum("nbi,nbj->bij", centred, centred) / len(score)
    slope = torch.linalg.solve(covariance, mean.unsqueeze(-1)).squeeze(-1)
    return (1 - ((score - mean) * slope).sum(-1)) / len(score)


def without_centring(score: Tensor) -> Tensor:
    mean = score.mean(0)
    second = torch.einsum("nbi,nbj->bij", score, score) / len(score)
    slope = torch.linalg.solve(second, mean.unsqueeze(-1)).squeeze(-1)
    return (1 - (score * slope).sum(-1)) / len(score)


def error(weights: Weights, num: int = 64, images: int = 200, dim: int = 4) -> float:
    """Return the error of the mean of z over that of the plain mean, root mean squares over images."""
    z, score, mean = draws(num, images, dim, 1)
    found = (weights(score).unsqueeze(-1) * z).sum(0)
    return float((found - mean).norm() / (z.mean(0) - mean).norm())


def test_the_mean_of_a_gaussian_is_exact_but_for_the_ridge():
    """What is linear in the score is corrected down to the ridge: sum W h = ridge s C^-1 h̄, one part in 100."""
    assert error(stein_weights) < 3 * ridge(64, 4)
    _, score, _ = draws(64, 5, 4, 2)
    mean = score.mean(0)
    centred = score - mean
    covariance = torch.einsum("nbi,nbj->bij", centred, centred) / 64
    added = ridge(64, 4) * covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(4).double()
    left = (added @ torch.linalg.solve(covariance + added, mean.unsqueeze(-1))).squeeze(-1)
    torch.testing.assert_close((stein_weights(score).unsqueeze(-1) * score).sum(0), left)


@pytest.mark.parametrize("mistake", [sign_turned, with_stored_covariance, equal])
def test_planted_mistakes_are_not_exact(mistake):
    assert error(mistake) > 10 * ridge(64, 4)


@pytest.mark.parametrize("num", [1, 2, 3, 7, 40])
def test_weights_of_an_image_sum_to_1(num):
    _, score, _ = draws(num, 6, 16, 3)
    torch.testing.assert_close(stein_weights(score).sum(0), torch.ones(6).double())
    if num == 40:
        assert float((without_centring(score).sum(0) - 1).abs().max()) > 0.01


def test_scores_that_do_not_differ_give_equal_weights():
    score = torch.randn(1, 3, 5, generator=seeded(0)).expand(4, 3, 5)
    assert torch.equal(stein_weights(score), torch.full((4, 3), 0.25))
    assert torch.equal(stein_weights(torch.zeros(4, 3, 5)), torch.full((4, 3), 0.25))


def test_the_bias_falls_like_one_over_draws():
    """Of E|z|^2 on N(0, I), N = 16, 32, 64: the slope of log bias against log N is -1 within 4 errors."""
    num_images, dim = 40_000, 2
    z = torch.randn(64, num_images, dim, generator=seeded(4), dtype=torch.float64)
    value = z.square().sum(-1)
    means, errors = [], []
    for num in (16, 32, 64):
        parts = [slice(first, first + num) for first in range(0, 64, num)]
        found = torch.stack([(stein_weights(-z[part]) * value[part]).sum(0) for part in parts]).mean(0) - dim
        means.append(found.mean())
        errors.append(found.std() / math.sqrt(num_images))
    mean, spread = torch.stack(means), torch.stack(errors)
    assert float((mean.abs() / spread).min()) > 8  # there is a bias to speak of
    fit = torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64) / math.log(2)
    slope = float(fit @ mean.abs().log())
    uncertainty = float(((fit * spread / mean.abs()).square().sum()).sqrt())
    assert uncertainty < 0.1
    assert abs(slope + 1) < 4 * uncertainty, f"{slope:.3f} with error {uncertainty:.3f}"


def test_variance_of_the_gradient_falls_on_the_closed_form_twin():
    """Of W on the twin of docs/validation.md, 40 exact draws: the mean square error, against the plain mean's."""
    twin = LinearGaussian.random(16, 256, 0.3, 0.08, seed=0)
    x = twin.sample_images(16, seeded(1))
    exact = twin.evidence_gradient(x)["weight"]
    generator, ratios = seeded(2), []
    for _ in range(20):
        z = twin.sample_power_posterior(x, torch.ones(1), 40, generator)[0]
        state = twin.evaluate(x, z)
        squares = []
        for rule in (stein_weights, equal):
            weights = rule(state.likelihood_score + state.prior_score) / len(x)
            residual = x - twin.decode(z)
            gradient = torch.einsum("nb,nbp,nbd->pd", weights, residual, z) / twin.noise_std**2
            squares.append(float((gradient - exact).square().sum()))
        ratios.append(squares)
    stein, plain = torch.tensor(ratios).mT
    ratio = float(stein.mean() / plain.mean())
    spread = float((stein - ratio * plain).std() / math.sqrt(len(stein)) / plain.mean())
    assert ratio + 4 * spread < 0.5, f"{ratio:.3f} with error {spread:.3f}"


def test_the_order_of_draws_rotations_and_scales_change_nothing_else():
    _, score, _ = draws(12, 3, 4, 5)
    weights = stein_weights(score)
    order = torch.randperm(12, generator=seeded(6))
    torch.testing.assert_close(stein_weights(score[order]), weights[order])
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=seeded(7), dtype=torch.float64))
    torch.testing.assert_close(stein_weights(1e4 * score @ rotation), weights)
    torch.testing.assert_close(stein_weights(score[:, 1:2]), weights[:, 1:2])


def test_in_float32_and_small_numbers_nothing_is_lost():
    _, score, _ = draws(12, 3, 4, 5)
    single = stein_weights(score.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, stein_weights(score).float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(stein_weights(1e-20 * score), stein_weights(score))


def test_one_chain_that_stands_far_out_is_weighed_down_and_switches_nothing_off():
    """Five states of each of four chains on N(0, I), of which one stands 30 standard deviations out in every image."""
    z = torch.randn(20, 100, 4, generator=seeded(8), dtype=torch.float64)
    z[::4] = 30 * z[:1] / z[:1].norm(dim=-1, keepdim=True)
    weights = stein_weights(-z)
    assert float(weights[::4].sum(0).abs().max()) < 0.05
    found = (weights.unsqueeze(-1) * z).sum(0).norm()
    moving = torch.cat([z[1::4], z[2::4], z[3::4]]).mean(0).norm()
    assert float(found) < 0.5 * float(moving)  # better than the plain mean of the chains that move


def test_draws_that_have_not_arrived_are_worth_at_least_one():
    """All scores point far to one side: without the bound single weights would reach thousands."""
    score = 1e3 + torch.randn(6, 50, 3, generator=seeded(9), dtype=torch.float64)
    weights = stein_weights(score)
    squares = weights.square().sum(0)
    assert float(squares.max()) < 1 + 1e-9
    assert float(squares.min()) > 0.5
    torch.testing.assert_close(weights.sum(0), torch.ones(50).double())
