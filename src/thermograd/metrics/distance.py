"""Fréchet and kernel distance between two sets of feature vectors, with their errors.

For features with means m1, m2 and covariances C1, C2, the Fréchet distance (squared, as is the custom) is

    FD = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

It is biased upwards by about c/N at N samples, so it compares only at equal counts; `frechet_at_infinity`
takes the bias off. The kernel distance is the unbiased estimate of the squared maximum mean discrepancy with
k(x, y) = (x.y / F + 1)^3. Both go through torchmetrics, in float64.

References:
    Heusel et al. 2017 (Fréchet); Bińkowski et al. 2018 (kernel); Chong and Forsyth 2020 (infinite samples).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from thermograd.errors import InputError
from thermograd.metrics._imports import torchmetrics_image
from thermograd.streams import stream

NUM_GROUPS = 10
"""Groups of the jackknife; a standard error from 10 groups is itself known to about 24 %."""

MAX_PARTS = 4
"""`frechet_at_infinity` splits samples into 1, 2, ... up to this many parts."""


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    standard_error: float


class _Identity(nn.Module):
    """Tells torchmetrics that the images are the features."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Return the Fréchet distance between two sets of features.

    Args:
        real: (N, F).
        fake: (M, F).

    Raises:
        InputError: where N or M is below 2 F, since then the covariances are too poor; or for tensors that do
            not fit.

    Example:
        >>> features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> abs(tg.frechet_distance(features, features)) < 1e-6
        True
    """
    _check_enough(real, fake, factor=2)
    return _frechet(real.double(), fake.double())


def frechet_standard_error(real: Tensor, fake: Tensor, *, seed: int) -> float:
    """Return the standard error of `frechet_distance` over draws of both sets, by a jackknife."""
    _check_enough(real, fake, factor=2)
    return _jackknife(_frechet, real.double(), fake.double(), seed)


def frechet_at_infinity(real: Tensor, fake: Tensor, *, seed: int) -> Estimate:
    """Return the Fréchet distance extrapolated to infinitely many samples of both sets.

    Both sets are split into k = 1, 2, ... parts; the mean distance of pairs of parts is near FD + c k, and a
    least-squares line through them ends at FD for k = 0. Chong and Forsyth extrapolate in the fakes alone,
    with all the data there is as the reference; here the reference is a sample too, so its bias goes as well,
    and two halves of one set tend to 0. The value may come out below 0. The standard error is a jackknife of
    all this over groups of both sets.

    Args:
        real: (N, F).
        fake: (M, F).
        seed: of the splits.

    Raises:
        InputError: where N or M is below 4 F, since two parts of 2 F each are the least that make a line.
    """
    _check_enough(real, fake, factor=4)
    num_parts = min(MAX_PARTS, min(len(real), len(fake)) // (2 * real.shape[1]))
    real, fake = _shuffled(real.double(), seed, "real-parts"), _shuffled(fake.double(), seed, "fake-parts")

    def extrapolate(real: Tensor, fake: Tensor) -> float:
        parts = torch.arange(1, num_parts + 1, dtype=torch.float64)
        values = []
        for k in range(1, num_parts + 1):
            pairs = zip(real.tensor_split(k), fake.tensor_split(k))
            values.append(sum(_frechet(r, f) for r, f in pairs) / k)
        y = torch.tensor(values, dtype=torch.float64)
        slope = ((parts - parts.mean()) * y).sum() / (parts - parts.mean()).square().sum()
        return float(y.mean() - slope * parts.mean())

    return Estimate(extrapolate(real, fake), _jackknife(extrapolate, real, fake, seed))


def kernel_distance(real: Tensor, fake: Tensor, *, seed: int) -> Estimate:
    """Return the unbiased squared maximum mean discrepancy with the cubic kernel, over all pairs of samples.

        MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j)

    It may be below 0. The standard error is a jackknife over groups of both sets. Its usual estimate, the
    mean over random subsets of 1,000, has the same expectation and a larger error; its spread over subsets
    is not a standard error.

    Args:
        real: (N, F).
        fake: (M, F).
        seed: of the groups.

    Raises:
        InputError: for fewer than 20 samples, or tensors that do not fit.

    Example:
        >>> one, other = torch.randn(2, 200, 4, generator=torch.Generator().manual_seed(0))
        >>> tg.kernel_distance(one, other, seed=0).value < 0.5
        True
    """
    _check_features(real, fake)
    least = 2 * NUM_GROUPS
    if min(len(real), len(fake)) < least:
        raise InputError(
            f"`images` must be at least {least} a set for the kernel distance, got {len(real)}, {len(fake)}."
        )
    poly_kernel = torchmetrics_image("kid").poly_kernel
    x = _shuffled(real.double(), seed, "real-groups").tensor_split(NUM_GROUPS)
    y = _shuffled(fake.double(), seed, "fake-groups").tensor_split(NUM_GROUPS)

    def sums(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
        """Sum the kernel over each pair of groups."""
        return torch.stack([torch.stack([poly_kernel(g, h).sum() for h in b]) for g in a])

    def diagonal(a: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([((g.square().sum(1) / g.shape[1] + 1) ** 3).sum() for g in a])

    xx, yy, xy = sums(x, x), sums(y, y), sums(x, y)
    xx_diagonal, yy_diagonal = diagonal(x), diagonal(y)
    num_x, num_y = torch.tensor([len(g) for g in x]), torch.tensor([len(g) for g in y])

    def estimate(kept: Tensor) -> float:
        n, m = num_x[kept].sum(), num_y[kept].sum()
        within_x = (xx[kept][:, kept].sum() - xx_diagonal[kept].sum()) / (n * (n - 1))
        within_y = (yy[kept][:, kept].sum() - yy_diagonal[kept].sum()) / (m * (m - 1))
        return float(within_x + within_y - 2 * xy[kept][:, kept].sum() / (n * m))

    groups = torch.arange(NUM_GROUPS)
    without = torch.tensor([estimate(groups[groups != g]) for g in groups], dtype=torch.float64)
    return Estimate(estimate(groups), _jackknife_error(without))


def _frechet(real: Tensor, fake: Tensor) -> float:
    metric = torchmetrics_image("fid").FrechetInceptionDistance(feature=_Identity(real.shape[1]))
    # The distance does not change with the origin; sums about a far one would cancel badly.
    centre = real.mean(0)
    metric.update(real - centre, real=True)
    metric.update(fake - centre, real=False)
    return float(metric.compute())


def _jackknife(statistic: Callable[[Tensor, Tensor], float], real: Tensor, fake: Tensor, seed: int) -> float:
    """Return the standard error of a two-sample statistic, one group of each sample left out at a time."""
    real_group = torch.randperm(len(real), generator=stream(seed, "real-groups")) % NUM_GROUPS
    fake_group = torch.randperm(len(fake), generator=stream(seed, "fake-groups")) % NUM_GROUPS
    values = [statistic(real[real_group != g], fake[fake_group != g]) for g in range(NUM_GROUPS)]
    return _jackknife_error(torch.tensor(values, dtype=torch.float64))


def _jackknife_error(values: Tensor) -> float:
    return float(((len(values) - 1) * values.var(unbiased=False)).sqrt())


def _shuffled(features: Tensor, seed: int, name: str) -> Tensor:
    return features[torch.randperm(len(features), generator=stream(seed, name))]


def _check_features(real: Tensor, fake: Tensor) -> None:
    for name, features in (("real", real), ("fake", fake)):
        if features.ndim != 2:
            raise InputError(f"`{name}` must have shape (N, F), got {tuple(features.shape)}.")
        if not features.isfinite().all():
            raise InputError(f"`{name}` must be finite, got values that are not.")
    if real.shape[1] != fake.shape[1]:
        raise InputError(f"`fake` must have {real.shape[1]} features as `real` has, got {fake.shape[1]}.")


def _check_enough(real: Tensor, fake: Tensor, factor: int) -> None:
    _check_features(real, fake)
    least = factor * real.shape[1]
    for name, features in (("real", real), ("fake", fake)):
        if len(features) < least:
            raise InputError(
                f"`{name}` must hold at least {least} images ({factor} x {real.shape[1]} features) for this"
                f" Fréchet distance, got {len(features)}; the kernel distance can do with fewer."
            )
