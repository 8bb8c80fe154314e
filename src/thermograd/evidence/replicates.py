"""From independent repeats to intervals, ranges and lower bounds."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thermograd.errors import Caution
from thermograd.evidence.result import Estimate, Evidence, Status, log_mean_exp, quantile

SPREAD_LIMIT = 1.0
"""Standard deviation of repeats, in nats, from which on no interval is given: exponentials of such repeats are far from
normal, and the smaller ones of four come from places that miss most of the mass."""


@dataclass(frozen=True)
class Replicates:
    """Independent estimates of log p(x), and what is known to be wrong with them.

    Attributes:
        estimates: (R, B), in nats.
        poor: by kind of reason, images (B,) whose repeats cannot be trusted.
        num_evaluations: for each image, of all repeats together.
        log_partition_error: of log Z_a, shared by images and repeats.
        by_mean_weight: whether the log of the mean of exp(estimates) is taken: weights with mean p(x) call for it, and
            repeats that missed most of the mass then count for little.
        bound: (B,), log of weights with mean p(x) from which a lower bound is taken; None where those are `estimates`.
        bias: (B,), an allowance for bias that the interval is widened by, or None.
        detail: a ladder's estimate, whose temperatures and moments go into the result; or None.
        warnings: that the method itself gave.
    """

    estimates: Tensor
    poor: dict[str, Tensor]
    num_evaluations: float
    log_partition_error: float = 0.0
    by_mean_weight: bool = False
    bound: Tensor | None = None
    bias: Tensor | None = None
    detail: Estimate | None = None
    warnings: tuple[Caution, ...] = field(default=())


def combine(method: str, found: Replicates, warnings: list[Caution], bank_share: float) -> Evidence:
    """Judge each image by itself and return its interval, range or lower bound.

    An interval is the estimate ± the t quantile times the repeats' standard error, in squares with that of log Z_a,
    plus the stated quadrature error.
    """
    estimates = found.estimates.double()
    count = len(estimates)
    value = log_mean_exp(estimates, 0) if found.by_mean_weight else estimates.mean(0)
    spread, bias = estimates.std(0), torch.zeros_like(value)
    if found.bias is not None:
        bias = found.bias.to(value)
    elif found.detail is not None:
        bias = found.detail.quadrature_error.to(value)
    poor = {**found.poor, "spread": ~(spread <= SPREAD_LIMIT)}
    reasons = [tuple(kind for kind, images in poor.items() if bool(images[i])) for i in range(len(value))]
    status: list[Status] = [
        "interval" if not kinds else "lower-bound" if {"weights", "drift"} & set(kinds) else "range"
        for kinds in reasons
    ]
    half = quantile(count) * (spread.square() / count + found.log_partition_error**2).sqrt() + bias
    low, high = value - half, value + half
    for i, kind in enumerate(status):
        if kind == "range":
            low[i], high[i] = estimates[:, i].min() - bias[i], estimates[:, i].max() + bias[i]
        elif kind == "lower-bound":
            weight = value[i] if found.bound is None else found.bound[i]
            low[i], high[i] = weight - math.log(20), math.inf
    detail = found.detail
    return Evidence(
        method=method,
        log_evidence=value,
        low=low,
        high=high,
        status=tuple(status),
        reasons=tuple(reasons),
        replicates=estimates,
        quadrature_error=bias,
        log_partition_error=found.log_partition_error,
        num_evaluations=found.num_evaluations + bank_share,
        warnings=(*warnings, *found.warnings, *_doubtful(reasons)),
        inverse_temperatures=None if detail is None else detail.inverse_temperatures,
        expected_log_likelihood=None if detail is None else detail.expected_log_likelihood,
        variance_log_likelihood=None if detail is None else detail.variance_log_likelihood,
    )


def _doubtful(reasons: list[tuple[str, ...]]) -> list[Caution]:
    """Return a caution of kind "no-interval" that counts images by reason, if there are any."""
    if not any(reasons):
        return []
    kinds = sorted({kind for each in reasons for kind in each})
    counts = ", ".join(f"{kind}: {sum(kind in each for each in reasons)}" for kind in kinds)
    return [
        Caution(
            "no-interval",
            f"{sum(bool(each) for each in reasons)} of {len(reasons)} images have no interval ({counts}), and the mean "
            f"is as doubtful: spend more evaluations.",
        )
    ]
