r"""Variance of a gradient estimator from small sums: its sources, signal-to-noise, bias, and 95 % intervals.

Let ĝ_br be the estimate on batch b (of n) in repeat r (of R), ḡ_b its mean over repeats, P the number of coordinates.
Kept are the Gram matrix G_bc = ḡ_b · ḡ_c and w_b = sum_r |ĝ_br - ḡ_b|^2; no gradient is. One-way analysis of variance:

    within   = sum_b w_b / (n (R - 1))                   E: P * chain variance
    between  = R sum_b |ḡ_b - ḡ|^2 / (n - 1)             E: P * (chain variance + R * batch variance)
    |mean|^2 = sum_{b != c} G_bc / (n (n - 1))           E: |E ĝ|^2

    chain variance = within / P        batch variance = (between - within) / (R P)        total = their sum

All are unbiased, so a batch variance or a squared mean near 0 may come out negative and is reported so. These are
variances over repeated draws of the estimator; the spread of the P coordinates of one gradient is none of them.

Intervals are jackknife-t over batches on a log scale; those of the batch part and the total join the intervals of
`between` and `within` (Zou and Donner's recovery of variance estimates), which keeps the skew of a mean square.

Where draws have heavy tails, a mean over a few batches lies below its expectation most of the time, and no interval
that knows nothing of the tail can reach it. The sign is that log w_b spreads over batches more than normal draws would
make it; then the interval of the chain variance is joined with Cox's for a log-normal mean, m + v/2 ± t sqrt(v/n + v^2
/ (2 (n - 1))) with m and v the mean and variance of the logs, and `heavy_tailed` says so. The geometric mean of w_b
over batches, the `typical` chain variance, has an interval that holds at any tail.

References:
    Faghri, Duvenaud, Fleet, Ba (2020), A study of gradient variance in deep learning.
    Searle, Casella, McCulloch (1992), Variance components.
    Zou and Donner (2008), Construction of confidence limits about effect measures: a general approach.
    Zhou and Gao (1997), Confidence intervals for the log-normal mean. Statistics in Medicine: Cox's method.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from thermograd.errors import InputError

Gradient = Mapping[str, Tensor]
LEVEL = 0.95
HEAVY_SPREAD = 0.6
"""Standard deviation over batches of the log of a batch's variance, above which draws count as heavy-tailed."""


class Estimate(NamedTuple):
    """A value and its 95 % interval, each (...); NaN where there is none."""

    value: Tensor
    low: Tensor
    high: Tensor

    def record(self) -> dict[str, float | None]:
        """Return the numbers of a single estimate by name, None for what there is not."""
        numbers = {name: float(number) for name, number in self._asdict().items()}
        return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


class Spread:
    """Running mean of gradients and the sum of their squared distances from it, by parameter (Welford)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: dict[str, Tensor] = {}
        self.squares: dict[str, float] = {}

    def add(self, gradient: Gradient) -> None:
        """Take in one gradient."""
        self.count += 1
        if self.count == 1:
            self.mean = {name: value.clone() for name, value in gradient.items()}
            self.squares = dict.fromkeys(gradient, 0.0)
            return
        for name, value in gradient.items():
            before = value - self.mean[name]
            self.mean[name] += before / self.count
            self.squares[name] += float(before.mul_(value - self.mean[name]).sum(dtype=torch.float64))


@dataclass(frozen=True)
class ReferenceMoments:
    """The same batches' reference gradients r_b, each the mean of independent long chains.

    Attributes:
        cross: (..., n, n), ḡ_b · r_c.
        gram: (..., n, n), r_b · r_c.
        squared_error: (..., n), squared standard error of r_b, summed over coordinates.
        draw_variance: (..., n), variance of the gradient of one exact draw per image, summed over coordinates.
    """

    cross: Tensor
    gram: Tensor
    squared_error: Tensor
    draw_variance: Tensor


@dataclass(frozen=True)
class Moments:
    """What is kept of the estimates of one block of coordinates.

    Attributes:
        num_parameters: P.
        num_repeats: R.
        gram: (..., n, n), G.
        within: (..., n), w.
        reference: moments with reference gradients, or None.
    """

    num_parameters: int
    num_repeats: int
    gram: Tensor
    within: Tensor
    reference: ReferenceMoments | None = None


def join(blocks: Sequence[Moments]) -> Moments:
    """Return the moments of several blocks as one, of as many coordinates as all of them.

    Raises:
        InputError: no block.
    """
    if not blocks:
        raise InputError("`blocks` must hold at least one block, got none.")
    references = [block.reference for block in blocks if block.reference is not None]
    reference = None
    if len(references) == len(blocks):
        reference = ReferenceMoments(
            *(
                torch.stack([getattr(each, field.name) for each in references]).sum(0)
                for field in fields(ReferenceMoments)
            )
        )
    return Moments(
        sum(block.num_parameters for block in blocks),
        blocks[0].num_repeats,
        torch.stack([block.gram for block in blocks]).sum(0),
        torch.stack([block.within for block in blocks]).sum(0),
        reference,
    )


def summarise(moments: Moments) -> dict[str, Estimate]:
    """Return every quantity of a block by name, variances and squares as means over its P coordinates.

    Always: `chain_variance`. From two batches on: `typical_chain_variance`, `batch_variance`, `total_variance`,
    `mean_square` (of E ĝ), `normalised_variance` = total / mean square, `signal_to_noise` = its inverse square root
    (infinite for a constant).
    With a reference: see `against_reference`. A ratio is NaN where what it divides by came out negative; intervals take
    three batches.

    Raises:
        InputError: fewer than 2 repeats.
    """
    if moments.num_repeats < 2:
        raise InputError(f"`repeats` must be at least 2, got {moments.num_repeats}.")
    num_batches, repeats, size = moments.within.shape[-1], moments.num_repeats, moments.num_parameters
    keep = _subsets(num_batches, moments.within)
    count = keep.sum(1)
    within = moments.within @ keep.mT / (count * (repeats - 1)) / size
    chain = jackknife(within, log=True)
    if num_batches < 2:
        return {"chain_variance": chain}
    each = moments.within / (repeats - 1) / size
    chain = _with_tail(chain, each, heavy_tailed(moments))
    diagonal, off_diagonal = _pair_sums(moments.gram, keep)
    between = repeats / (count - 1) * (diagonal - (diagonal + off_diagonal) / count) / size
    mean_square = off_diagonal / (count * (count - 1)) / size
    total = between / repeats + within * (1 - 1 / repeats)
    normalised = jackknife(_ratio(total, mean_square), log=True)
    mean_squares = jackknife(between, log=True)
    found = {
        "chain_variance": chain,
        "typical_chain_variance": _log_interval(each, cox=False),
        "batch_variance": _combine(mean_squares, 1 / repeats, chain, -1 / repeats),
        "total_variance": _combine(mean_squares, 1 / repeats, chain, 1 - 1 / repeats),
        "mean_square": jackknife(mean_square),
        "normalised_variance": normalised,
        "signal_to_noise": Estimate(
            normalised.value.rsqrt(), normalised.high.rsqrt(), normalised.low.clamp(min=0).rsqrt()
        ),
    }
    return found | against_reference(moments, total)


def against_reference(moments: Moments, total_variance: Tensor) -> dict[str, Estimate]:
    """Return what the reference gradients tell, with ∇_b the true gradient of batch b; nothing without one.

    With E_b the mean over batches, and the noise of ḡ_b and of the reference r_b subtracted from squares:

    - `reference_mean_square`: E_b |∇_b|^2 / P; `reference_relative_squared_error`: that of r_b, relative to it.
    - `squared_bias`: E_b |E[ĝ|b] - ∇_b|^2 / P, which may come out negative; `relative_squared_bias` over the above.
    - `mean_square_error`: squared bias + chain variance, of one estimate around its own batch's gradient;
      `relative_mean_square_error` over the reference's.
    - `draw_variance`: E_b of the variance of one exact draw per image, /P: the mean square error of one converged
      chain; `relative_draw_variance` over the reference's square.
    - `squared_bias_of_all_data`: |E ĝ - E ∇|^2 / P, that of the gradient of all data;
      `relative_squared_bias_of_all_data` over |E ∇|^2 / P. An estimator of another objective shows here: a batch's
      gradient is mostly its own noise, and a bias that is small beside that may be large beside E ∇.
    - `mean_square_error_of_all_data`: |E ĝ - E ∇|^2 / P + total variance, around the gradient of all data.
    - `cosine`: of E[ĝ|b] and ∇_b, pooled over batches; `cosine_of_one`: of one estimate ĝ_br and ∇_b.

    Args:
        moments: of a block.
        total_variance: (..., n + 1), of all batches and with each left out.
    """
    reference = moments.reference
    if reference is None:
        return {}
    num_batches, repeats, size = moments.within.shape[-1], moments.num_repeats, moments.num_parameters
    keep = _subsets(num_batches, moments.within)
    count = keep.sum(1)

    def mean(values: Tensor) -> Tensor:
        return values @ keep.mT / count / size

    difference = moments.gram - reference.cross - reference.cross.mT + reference.gram
    noise = moments.within / (repeats * (repeats - 1))
    square = moments.gram.diagonal(dim1=-2, dim2=-1)
    product = mean(reference.cross.diagonal(dim1=-2, dim2=-1))
    length = mean(reference.gram.diagonal(dim1=-2, dim2=-1) - reference.squared_error)
    bias = mean(difference.diagonal(dim1=-2, dim2=-1) - noise - reference.squared_error)
    error = bias + mean(moments.within) / (repeats - 1)
    pairs = count * (count - 1) * size
    mean_bias = _pair_sums(difference, keep)[1] / pairs
    mean_length = _pair_sums(reference.gram, keep)[1] / pairs
    return {
        "reference_mean_square": jackknife(length, log=True),
        "reference_relative_squared_error": jackknife(
            _ratio(mean(reference.squared_error), length), log=True
        ),
        "squared_bias": jackknife(bias),
        "relative_squared_bias": jackknife(_ratio(bias, length)),
        "mean_square_error": jackknife(error, log=True),
        "relative_mean_square_error": jackknife(_ratio(error, length), log=True),
        "draw_variance": jackknife(mean(reference.draw_variance), log=True),
        "relative_draw_variance": jackknife(_ratio(mean(reference.draw_variance), length), log=True),
        "squared_bias_of_all_data": jackknife(mean_bias),
        "relative_squared_bias_of_all_data": jackknife(_ratio(mean_bias, mean_length)),
        "mean_square_error_of_all_data": jackknife(mean_bias + total_variance, log=True),
        "cosine": jackknife(_ratio(product, _root(mean(square - noise) * length))),
        "cosine_of_one": jackknife(_ratio(product, _root(mean(square + moments.within / repeats) * length))),
    }


def jackknife(values: Tensor, log: bool = False) -> Estimate:
    """Return a value with its jackknife-t 95 % interval.

    Args:
        values: (..., n + 1): of all n batches, then with each left out.
        log: work on the logarithm where all values are positive.

    Returns:
        Each (...); the interval is NaN for fewer than 3 batches.
    """
    value, num_batches = values[..., 0], values.shape[-1] - 1
    if num_batches < 3:
        nothing = torch.full_like(value, torch.nan)
        return Estimate(value, nothing, nothing)
    half = _half_width(values)
    plain = Estimate(value, value - half, value + half)
    if not log:
        return plain
    positive = (values > 0).all(-1)
    logarithms = torch.where(positive.unsqueeze(-1), values, 1.0).log()
    factor = _half_width(logarithms).exp()
    return Estimate(
        value,
        torch.where(positive, value / factor, plain.low),
        torch.where(positive, value * factor, plain.high),
    )


def heavy_tailed(moments: Moments) -> Tensor:
    """Return whether a block's draws have heavy tails, (...): log w_b spreads by more than normal draws would make it.

    The limit is 1.5 times the spread of the log of chi-squared with R - 1 degrees of freedom in each of at most 5
    directions, and at least `HEAVY_SPREAD`.
    """
    from scipy.special import polygamma

    freedom = (moments.num_repeats - 1) * min(moments.num_parameters, 5)
    limit = max(HEAVY_SPREAD, 1.5 * math.sqrt(float(polygamma(1, freedom / 2))))
    within = moments.within
    if within.shape[-1] < 3:
        return torch.zeros_like(within[..., 0], dtype=torch.bool)
    return (within > 0).all(-1) & (within.clamp(min=torch.finfo(within.dtype).tiny).log().std(-1) > limit)


def _with_tail(plain: Estimate, values: Tensor, heavy: Tensor) -> Estimate:
    """Join an interval with Cox's for the mean of log-normal values (..., n), where tails are heavy."""
    cox = _log_interval(values, cox=True)
    low, high = torch.minimum(plain.low, cox.low), torch.maximum(plain.high, cox.high)
    return Estimate(plain.value, torch.where(heavy, low, plain.low), torch.where(heavy, high, plain.high))


def _log_interval(values: Tensor, cox: bool) -> Estimate:
    """Return the geometric mean of positive values (..., n) with Student's interval, or Cox's log-normal mean."""
    from scipy.special import stdtrit

    num, logarithms = values.shape[-1], values.log()
    centre = logarithms.mean(-1)
    variance = logarithms.var(-1) if num > 2 else torch.full_like(centre, torch.nan)
    square = variance / num
    if cox:
        centre, square = centre + variance / 2, square + variance.square() / (2 * (num - 1))
    half = float(stdtrit(num - 1, (1 + LEVEL) / 2)) * square.sqrt()
    return Estimate(centre.exp(), (centre - half).exp(), (centre + half).exp())


def _half_width(values: Tensor) -> Tensor:
    from scipy.special import stdtrit

    rest = values[..., 1:]
    num_batches = rest.shape[-1]
    variance = (num_batches - 1) * (rest - rest.mean(-1, keepdim=True)).square().mean(-1)
    return float(stdtrit(num_batches - 1, (1 + LEVEL) / 2)) * variance.sqrt()


def _combine(first: Estimate, a: float, second: Estimate, b: float) -> Estimate:
    """Return a first + b second, a > 0, with the interval recovered from those of both."""
    value = a * first.value + b * second.value
    down = (second.low if b > 0 else second.high) - second.value
    up = (second.high if b > 0 else second.low) - second.value
    low = value - torch.hypot(a * (first.value - first.low), b * down)
    return Estimate(value, low, value + torch.hypot(a * (first.high - first.value), b * up))


def _subsets(num_batches: int, like: Tensor) -> Tensor:
    """Return which batches count, (n + 1, n): all of them, then all but each."""
    everything = torch.ones(1, num_batches, dtype=like.dtype)
    return torch.cat([everything, 1 - torch.eye(num_batches, dtype=like.dtype)])


def _pair_sums(gram: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of a Gram matrix's diagonal and of the rest, over the batches kept, each (..., n + 1)."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1) @ keep.mT
    return diagonal, ((gram @ keep.mT) * keep.mT).sum(-2) - diagonal


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """Return top / bottom, NaN where the bottom, an unbiased estimate of a square, is not positive."""
    return torch.where(bottom > 0, top / torch.where(bottom > 0, bottom, 1.0), torch.nan)


def _root(square: Tensor) -> Tensor:
    return torch.where(square > 0, square.clamp(min=0).sqrt(), torch.nan)
