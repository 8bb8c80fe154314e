r"""The log Bayes factor of two models: how much better one explains the same images than the other.

    log B = sum over images of log p_a(x) - log p_b(x)

References:
    Calderhead, Girolami (2009), Estimating Bayes factors via thermodynamic integration and population MCMC.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thermograd.errors import InputError
from thermograd.evidence.result import Evidence, Status, quantile


@dataclass(frozen=True)
class BayesFactor:
    """The log Bayes factor of model a against model b on B images, with 95 % intervals, in nats.

    Attributes:
        log_factor: (B,), log p_a(x) - log p_b(x); above 0 where a explains an image better.
        low: (B,), the lower end of the interval; where the evidence of either model has none, of its range or bound.
        high: (B,), the upper end.
        status: for each image, "interval" where both models have one; else "range", or "lower-bound" where one has no
            upper end.
        reasons: for each image, the kinds of what speaks against an interval, of either model.
        total: of all images together.
        error: half of the total's 95 % interval, what images share counted as shared.
        bias: how far the stated biases of both models' estimates could move the total, beside the interval; they are of
            unknown sign, so they are never added to chance.

    Example:
        >>> a, b = (tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=s, seed=0) for s in (0.5, 0.6))
        >>> x = a.sample_images(4, torch.Generator().manual_seed(1))
        >>> found = tg.bayes_factor(tg.estimate_evidence(a, x), tg.estimate_evidence(b, x))
        >>> found.log_factor.shape
        torch.Size([4])
    """

    log_factor: Tensor
    low: Tensor
    high: Tensor
    status: tuple[Status, ...]
    reasons: tuple[tuple[str, ...], ...]
    total: float
    error: float
    bias: float

    @property
    def num_doubtful(self) -> int:
        """Return how many images have no interval under one of the models."""
        return sum(status != "interval" for status in self.status)

    def caution(self) -> str | None:
        """Return why the interval of the total is in doubt, or None where nothing speaks against it."""
        if not self.num_doubtful:
            if self.bias <= self.error:
                return None
            return f"The stated biases of the estimates, {self.bias:.2g} nats in total, exceed the interval."
        kinds = Counter(kind for kinds in self.reasons for kind in kinds)
        why = ", ".join(f"{kind}: {count}" for kind, count in sorted(kinds.items()))
        return (
            f"{self.num_doubtful} of {len(self.status)} images have no interval under one of the models ({why}), and "
            f"the total is as doubtful."
        )

    def record(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "total": self.total,
            "total_low": self.total - self.error,
            "total_high": self.total + self.error,
            "bias": self.bias,
            "per_image": self.total / len(self.status),
            "num_images": len(self.status),
            "num_doubtful": self.num_doubtful,
            "caution": self.caution(),
            "images": {
                **{name: getattr(self, name).tolist() for name in ("log_factor", "low", "high")},
                "status": list(self.status),
                "reasons": [" ".join(kinds) for kinds in self.reasons],
            },
        }

    def __repr__(self) -> str:
        """Return one line instead of tensors."""
        return (
            f"BayesFactor({self.total:.2f} ± {self.error:.2f} nats in total, {len(self.status)} images, "
            f"{self.num_doubtful} without an interval)"
        )


def bayes_factor(a: Evidence, b: Evidence) -> BayesFactor:
    """Return the log Bayes factor of a against b from their evidence of the same images, estimated independently.

    The repeats of both are paired by their number, which makes as many independent differences. The interval of an
    image is their mean ± Student's quantile times its standard error, in squares with those of log Z_a. That of the
    total takes the spread of the repeats' sums, so that what images share counts as shared. On models with known
    evidence they hold the truth in 95 % of cases.

    Args:
        a: evidence of B images under one model.
        b: evidence of the same images under the other, from random numbers of its own.

    Raises:
        InputError: other numbers of images or of repeats.

    Example:
        >>> twins = [tg.LinearGaussian.random(2, 6, 0.5, 0.3, seed) for seed in (1, 2)]
        >>> x = twins[0].sample_images(4, torch.Generator().manual_seed(0))
        >>> generator = torch.Generator().manual_seed(1)
        >>> a, b = (tg.estimate_evidence(twin, x, generator=generator) for twin in twins)
        >>> len(tg.bayes_factor(a, b).status)
        4
    """
    if a.replicates.shape != b.replicates.shape:
        words = [
            f"{each.shape[0]} repeats of {each.shape[1]} images" for each in (a.replicates, b.replicates)
        ]
        raise InputError(f"`b` must hold {words[0]} as `a` does, got {words[1]}.")
    replicates = a.replicates.detach().double().cpu() - b.replicates.detach().double().cpu()
    difference = a.log_evidence.detach().double().cpu() - b.log_evidence.detach().double().cpu()
    partition = math.hypot(a.log_partition_error, b.log_partition_error)
    half = _half_width(replicates, partition)
    low, high = difference - half, difference + half
    status: list[Status] = []
    for i, pair in enumerate(zip(a.status, b.status, strict=True)):
        if pair == ("interval", "interval"):
            status.append("interval")
            continue
        low[i] = float(a.low[i]) - float(b.high[i])
        high[i] = float(a.high[i]) - float(b.low[i])
        status.append("lower-bound" if "lower-bound" in pair else "range")
    count = len(status)
    total_half = _half_width(replicates.sum(1, keepdim=True), count * partition)
    return BayesFactor(
        log_factor=difference,
        low=low,
        high=high,
        status=tuple(status),
        reasons=tuple(
            tuple(dict.fromkeys((*mine, *other))) for mine, other in zip(a.reasons, b.reasons, strict=True)
        ),
        total=float(difference.sum()),
        error=float(total_half),
        bias=float(a.quadrature_error.sum() + b.quadrature_error.sum()),
    )


def _half_width(differences: Tensor, shared: float) -> Tensor:
    """Return Student's half width (B,) of the mean of differences (R, B), `shared` an error beside their own."""
    count = len(differences)
    return quantile(count) * (differences.var(0) / count + shared**2).sqrt()
