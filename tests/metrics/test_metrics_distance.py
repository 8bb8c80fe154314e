"""Distances between feature sets: closed forms, invariance, parity with torch-fidelity, honest errors."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from thermograd.errors import InputError
from thermograd.metrics import (
    frechet_at_infinity,
    frechet_distance,
    frechet_standard_error,
    kernel_distance,
    nearest_neighbours,
)


def correlated(count: int, num_features: int, seed: int) -> Tensor:
    """Features that are neither centred nor independent nor Gaussian."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(num_features, num_features, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, num_features, generator=generator, dtype=torch.float64)
    return (noise + 0.3 * noise**2) @ mix + 1.5


def with_exact_moments(count: int, mean: Tensor, covariance: Tensor, seed: int) -> Tensor:
    """Samples whose sample mean and covariance are exactly those given."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, len(mean), generator=generator, dtype=torch.float64)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(x.T)), x.T, upper=False).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def recorded_features() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(2024)
    mix = rng.standard_normal((32, 32)) / 6
    real = rng.standard_normal((600, 32)) @ mix + 0.5
    fake = 1.2 * rng.standard_normal((500, 32)) @ mix.T + 0.3
    return torch.from_numpy(real.astype(np.float32)), torch.from_numpy(fake.astype(np.float32))


@pytest.mark.parametrize(("count", "num_features"), [(600, 32), (1000, 3)])
def test_frechet_of_a_set_with_itself_is_zero(count: int, num_features: int):
    x = correlated(count, num_features, seed=0)
    assert abs(frechet_distance(x, x)) < 1e-6 * float(torch.cov(x.T).trace())


def test_frechet_of_itself_is_zero_where_features_are_dead():
    x = correlated(600, 20, seed=0)
    x = torch.cat([x, torch.zeros(600, 12)], dim=1)
    assert abs(frechet_distance(x, x)) < 1e-6 * float(torch.cov(x.T).trace())


def test_frechet_equals_closed_form_for_exact_moments():
    # For 2 x 2 matrices tr (C1 C2)^(1/2) = sqrt(tr C1 C2 + 2 sqrt(det C1 C2)); these two do not commute.
    mean1, mean2 = torch.tensor([0.3, -1.0]).double(), torch.tensor([1.0, 0.5]).double()
    c1, c2 = (
        torch.tensor([[2.0, 0.8], [0.8, 1.0]]).double(),
        torch.tensor([[0.5, -0.3], [-0.3, 1.5]]).double(),
    )
    product = c1 @ c2
    cross = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    expected = (mean1 - mean2).square().sum() + c1.trace() + c2.trace() - 2 * cross
    value = frechet_distance(with_exact_moments(50, mean1, c1, 1), with_exact_moments(70, mean2, c2, 2))
    assert value == pytest.approx(float(expected), rel=1e-9)


def test_frechet_does_not_change_when_features_are_permuted_or_rotated():
    real, fake = correlated(300, 8, seed=1), correlated(200, 8, seed=2)
    value = frechet_distance(real, fake)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    rotation = torch.linalg.qr(correlated(8, 8, seed=4)).Q
    assert frechet_distance(real[:, order], fake[:, order]) == pytest.approx(value, rel=1e-9)
    assert frechet_distance(real @ rotation, fake @ rotation) == pytest.approx(value, rel=1e-9)
    assert frechet_distance(fake, real) == pytest.approx(value, rel=1e-9)
    assert value > 1


def test_frechet_of_shrunk_fakes_is_the_closed_form_and_rises():
    # FD(X, aX) = (1 - a)^2 (|m|^2 + tr C): the square root of C a^2 C is a C.
    x = correlated(300, 8, seed=1)
    size = float(x.mean(0).square().sum() + torch.cov(x.T).trace())
    for a in (0.9, 0.7, 0.4, 0.1):
        assert frechet_distance(x, a * x) == pytest.approx((1 - a) ** 2 * size, rel=1e-9)


def test_agrees_with_torch_fidelity_on_the_same_features():
    # Recorded from torch-fidelity 0.4.0: fid_statistics_to_metric, which averages in float32, and kernel_mmd.
    real, fake = recorded_features()
    assert frechet_distance(real, fake) == pytest.approx(20.847518992692954, rel=1e-6)
    value = kernel_distance(real[:500], fake, seed=0).value
    assert value == pytest.approx(0.466452510196508, rel=1e-9)


def test_frechet_at_infinity_is_unbiased_and_its_error_is_honest():
    truth = 0.5**2 + (1.3 - 1) ** 2
    scores, plain = [], []
    for repeat in range(40):
        generator = torch.Generator().manual_seed(100 + repeat)
        real = torch.randn(120, 4, generator=generator)
        fake = torch.randn(160, 4, generator=generator)
        fake[:, 0] = fake[:, 0] * 1.3 + 0.5
        value, error = frechet_at_infinity(real, fake, seed=repeat)
        scores.append((value - truth) / error)
        plain.append(frechet_distance(real, fake) - truth)
    z, plain_bias = torch.tensor(scores), torch.tensor(plain)
    standard_error = z.std() / math.sqrt(len(z))
    assert abs(z.mean()) < 4 * standard_error
    # A score with an error from 10 groups is near Student's t with 9 degrees: standard deviation 1.13.
    assert z.std() == pytest.approx(1.13, abs=4 * 1.13 / math.sqrt(2 * len(z)))
    # The test above has the power to see the bias that is taken off.
    assert plain_bias.mean() > 4 * plain_bias.std() / math.sqrt(len(z))


def test_frechet_at_infinity_of_one_distribution_is_zero():
    generator = torch.Generator().manual_seed(5)
    real, fake = torch.randn(2000, 6, generator=generator), torch.randn(2000, 6, generator=generator)
    value, error = frechet_at_infinity(real, fake, seed=0)
    assert abs(value) < 4 * error
    assert error < frechet_distance(real, fake)


def test_frechet_standard_error_is_the_spread_over_draws():
    values, errors = [], []
    for repeat in range(100):
        generator = torch.Generator().manual_seed(repeat)
        real, fake = torch.randn(200, 2, generator=generator), torch.randn(150, 2, generator=generator) + 1
        values.append(frechet_distance(real, fake))
        errors.append(frechet_standard_error(real, fake, seed=repeat))
    ratio = torch.tensor(errors).square().mean() / torch.tensor(values).var()
    # Relative errors: of the variance of 100 values sqrt(2 / 99), of 100 jackknife variances sqrt(2 / 900).
    assert abs(ratio - 1) < 4 * math.sqrt(2 / 99 + 2 / 900)


def test_kernel_distance_is_unbiased_over_splits_of_one_set():
    # Over random splits of a fixed set, each pair is as often within as between: the expectation is 0.
    pool = correlated(80, 3, seed=7)
    values, biased = [], []
    for repeat in range(300):
        order = torch.randperm(80, generator=torch.Generator().manual_seed(repeat))
        x, y = pool[order[:40]], pool[order[40:]]
        values.append(kernel_distance(x, y, seed=0).value)
        diagonal = sum(((g.square().sum(1) / 3 + 1) ** 3).mean() for g in (x, y)) / 40
        biased.append(values[-1] + float(diagonal) * 39 / 40)
    values = torch.tensor(values)
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean()) < 4 * error
    # With the diagonal left in, as a biased estimate does, this test would fail.
    assert torch.tensor(biased).mean() > 4 * error


def test_kernel_distance_counts_every_pair_once():
    real, fake = correlated(47, 5, seed=1), correlated(33, 5, seed=2)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / 5 + 1) ** 3

    xx, yy, xy = kernel(real, real), kernel(fake, fake), kernel(real, fake)
    expected = (xx.sum() - xx.trace()) / (47 * 46) + (yy.sum() - yy.trace()) / (33 * 32) - 2 * xy.mean()
    assert kernel_distance(real, fake, seed=3).value == pytest.approx(float(expected), rel=1e-9)


def test_kernel_standard_error_is_the_spread_over_draws():
    values, errors = [], []
    for repeat in range(150):
        generator = torch.Generator().manual_seed(repeat)
        real, fake = torch.randn(100, 3, generator=generator), torch.randn(120, 3, generator=generator) + 0.7
        value, error = kernel_distance(real, fake, seed=repeat)
        values.append(value)
        errors.append(error)
    ratio = torch.tensor(errors).square().mean() / torch.tensor(values).var()
    # Tails of a cubic kernel are heavier than a Gaussian's: kurtosis near 4 instead of 3.
    assert abs(ratio - 1) < 4 * math.sqrt(3 / 149 + 3 / 9 / 150)


def test_frechet_with_too_few_images_says_how_many_and_offers_the_kernel_distance():
    x = torch.randn(63, 32, generator=torch.Generator().manual_seed(0))
    with pytest.raises(
        InputError, match=r"`fake` must hold at least 64 images .*got 63; the kernel distance"
    ):
        frechet_distance(torch.cat([x, x]), x)
    with pytest.raises(InputError, match=r"`real` must hold at least 128 images"):
        frechet_at_infinity(torch.cat([x, x]), torch.cat([x, x, x]), seed=0)
    frechet_distance(torch.cat([x, x]), torch.cat([x, x[:1]]))


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (torch.zeros(50), torch.zeros(50, 2), r"`real` must have shape \(N, F\), got \(50,\)"),
        (torch.zeros(50, 3), torch.zeros(50, 2), "`fake` must have 3 features as `real` has, got 2"),
        (torch.zeros(50, 2), torch.full((50, 2), math.nan), "`fake` must be finite"),
        (torch.zeros(50, 2), torch.zeros(19, 2), "at least 20 a set .*got 50, 19"),
    ],
)
def test_bad_features_are_named(real: Tensor, fake: Tensor, message: str):
    with pytest.raises(InputError, match=message):
        kernel_distance(real, fake, seed=0)


def test_neighbours_are_those_of_a_full_comparison():
    generator = torch.Generator().manual_seed(0)
    queries, candidates = (
        torch.rand(7, 1, 4, 4, generator=generator),
        torch.rand(50, 1, 4, 4, generator=generator),
    )
    # Far from the origin, |a|^2 + |b|^2 - 2ab would not give exactly 0 for a copy.
    queries, candidates = queries + 1000, candidates + 1000
    queries[2] = candidates[31]
    every = (queries[:, None] - candidates[None]).flatten(2).double().norm(dim=2)
    found = nearest_neighbours(queries, candidates, k=3, chunk_size=8)
    expected = every.sort(dim=1)
    assert torch.equal(found.indices, expected.indices[:, :3])
    torch.testing.assert_close(found.distances, expected.values[:, :3])
    assert found.indices[2, 0] == 31
    assert found.distances[2, 0] == 0


@pytest.mark.parametrize("k", [0, 51])
def test_neighbours_refuse_a_bad_count(k: int):
    with pytest.raises(InputError, match=f"`k` must lie in 1 to 50, the number of candidates, got {k}"):
        nearest_neighbours(torch.zeros(2, 3), torch.zeros(50, 3), k=k)


def test_neighbours_refuse_other_shapes():
    with pytest.raises(InputError, match=r"`queries` must have shape \(N, \*\(3,\)\), got \(2, 4\)"):
        nearest_neighbours(torch.zeros(2, 4), torch.zeros(50, 3))
