"""Estimates of the evidence: that of one run, and that of independent repeats with an honest interval."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from thermograd.errors import Caution, InputError, import_extra
from thermograd.ladders.inference_data import groups
from thermograd.ladders.record import LadderTrace

if TYPE_CHECKING:
    import pandas

Status = Literal["interval", "range", "lower-bound"]
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """Estimates of log p(x) for B images from one run of one method, in nats.

    The two errors are of different kinds and are never added: chance, which more draws reduce, and quadrature,
    which is fixed by the schedule. Neither sees a mode that the run did not find; `Evidence` compares repeats.

    Attributes:
        method: how it was estimated.
        log_evidence: (B,).
        monte_carlo_error: (B,), a standard error; autocorrelation and the coupling of rungs are counted.
        quadrature_error: (B,), an estimate of the rule's error on this schedule; 0 for methods without one.
        lower: (B,), an estimated lower bound, or None: the left sum of thermodynamic integration, or the
            forward pass of annealing where prior draws are exact.
        upper: (B,), an estimated upper bound, or None: the right sum, or the reverse pass of annealing.
        inverse_temperatures: (K,) or (K, B).
        expected_log_likelihood: (K, B), E_t[l], or None where the method does not visit the power posteriors.
        variance_log_likelihood: (K, B), Var_t(l), or None.
        num_evaluations: generator evaluations with gradient spent on each image.
        warnings: a caution for each reason to doubt the numbers.
        by_chain: (M, B), estimates of each chain alone, which are independent of each other, or None.
    """

    method: str
    log_evidence: Tensor
    monte_carlo_error: Tensor
    quadrature_error: Tensor
    lower: Tensor | None
    upper: Tensor | None
    inverse_temperatures: Tensor
    expected_log_likelihood: Tensor | None
    variance_log_likelihood: Tensor | None
    num_evaluations: float
    warnings: tuple[Caution, ...]
    by_chain: Tensor | None = None


@dataclass(frozen=True)
class Evidence:
    """Log p(x) of B images from independent repeats, with 95 % intervals where repeats support one, in nats.

    Where the status is "range" the repeats disagree by more than independent errors allow, or have not mixed: `low` and
    `high` are the extremes of the repeats. Where it is "lower-bound" the weights hang on few particles: exp(estimate)
    has mean p(x), so `low`, the estimate less log 20, lies above log p(x) in at most 5 % of cases (Markov), and `high`
    is infinite.

    Attributes:
        method: how it was estimated.
        log_evidence: (B,).
        low: (B,), the lower end of the interval or range.
        high: (B,), the upper end.
        status: for each image, "interval", "range" or "lower-bound".
        reasons: for each image, the kinds of reasons against an interval: "spread", "weights", "stuck-chains",
            "no-mixing", "disagreement", "few-ancestors", "drift".
        replicates: (R, B), the independent estimates.
        quadrature_error: (B,), an estimate of the rule's bias, part of the interval; 0 for methods without one.
        log_partition_error: standard error of log Z_a, which all images share; 0 for methods that need none.
        num_evaluations: generator evaluations with gradient for each image, the bank's share among them.
        warnings: a caution for each reason to doubt the numbers.
        inverse_temperatures: (K, B), or None where no ladder was sampled.
        expected_log_likelihood: (K, B), E_t[l], or None.
        variance_log_likelihood: (K, B), Var_t(l), or None.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(4, torch.Generator().manual_seed(1))
        >>> tg.estimate_evidence(twin, x).log_evidence.shape
        torch.Size([4])
    """

    method: str
    log_evidence: Tensor
    low: Tensor
    high: Tensor
    status: tuple[Status, ...]
    reasons: tuple[tuple[str, ...], ...]
    replicates: Tensor
    quadrature_error: Tensor
    log_partition_error: float
    num_evaluations: float
    warnings: tuple[Caution, ...]
    inverse_temperatures: Tensor | None = None
    expected_log_likelihood: Tensor | None = None
    variance_log_likelihood: Tensor | None = None

    @property
    def standard_error(self) -> Tensor:
        """Return the standard error of the mean of the repeats, (B,), without the shared error of log Z_a."""
        return self.replicates.std(0) / len(self.replicates) ** 0.5

    @property
    def num_doubtful(self) -> int:
        """Return how many images have no interval."""
        return sum(status != "interval" for status in self.status)

    def mean(self) -> dict[str, float | int | None]:
        """Return the mean over all images, its errors, and how many have no interval.

        Doubtful images stay in: leaving them out would make the mean hang on which images are hard. `error` is half of
        a 95 % interval from the spread of the repeats' means, so that what images share counts as shared, and the
        mean of the stated biases. `standard_error_over_images` says how far other images would give another mean.
        """
        count, values = len(self.status), self.log_evidence.cpu()
        spread = float(self.replicates.mean(1).std()) / len(self.replicates) ** 0.5
        chance = quantile(len(self.replicates)) * math.hypot(spread, self.log_partition_error)
        return {
            "value": float(values.mean()),
            "error": chance + float(self.quadrature_error.mean()),
            "standard_error_over_images": float(values.std()) / count**0.5 if count > 1 else None,
            "num_images": count,
            "num_doubtful": self.num_doubtful,
        }

    def columns(self) -> dict[str, list[float] | list[str]]:
        """Return the table of images by column: log_evidence, low, high, status, reasons, spread, quadrature_error."""
        return {
            "log_evidence": self.log_evidence.tolist(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "status": list(self.status),
            "reasons": [" ".join(kinds) for kinds in self.reasons],
            "spread": self.replicates.std(0).tolist(),
            "quadrature_error": self.quadrature_error.tolist(),
        }

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return the table of images as a data frame."""
        pandas = import_extra("pandas")

        return pandas.DataFrame(self.columns()).rename_axis("image")

    def to_arviz(self) -> Any:
        """Return the repeats for ArviZ.

        `posterior` holds log_evidence (chain 0, one draw per repeat, image). `constant_data` holds `low`, `high` and
        `has_interval` of each image, and where rungs were visited E_t[l] and Var_t(l) (rung, image) with their
        temperatures.

        Raises:
            InputError: ArviZ is not installed.
        """
        ends: dict[str, Any] = {
            "low": ("image", self.low.cpu().numpy()),
            "high": ("image", self.high.cpu().numpy()),
            "has_interval": ("image", [status == "interval" for status in self.status]),
        }
        by_rung = {
            "inverse_temperature": self.inverse_temperatures,
            "expected_log_likelihood": self.expected_log_likelihood,
            "variance_log_likelihood": self.variance_log_likelihood,
        }
        for name, values in by_rung.items():
            if values is not None:
                ends[name] = (("rung", "image")[: values.dim()], values.cpu().numpy())
        repeats = {"log_evidence": (("chain", "draw", "image"), self.replicates.cpu().numpy()[None])}
        return groups({"posterior": repeats, "constant_data": ends}, {})

    def __repr__(self) -> str:
        """Return one line instead of tensors."""
        mean = self.mean()
        return (
            f"Evidence({self.method}, {len(self.status)} images, mean {mean['value']:.2f} ± {mean['error']:.2f} nats, "
            f"{self.num_doubtful} without an interval)"
        )


def quantile(num_replicates: int) -> float:
    """Return Student's two-sided 95 % quantile of the spread of repeats."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, num_replicates - 1))


def checked_trace(trace: LadderTrace) -> tuple[Tensor, Tensor]:
    """Return temperatures (K,) or (K, B) and log-likelihoods (S, K, M, B) in float64, checked for an integral over t.

    Raises:
        InputError: no rung at t = 0, fewer than two draws, or values that are not finite.
    """
    values = trace.log_likelihood
    if not (trace.inverse_temperatures[0] == 0).all():
        raise InputError("`trace` must hold draws of each image at t = 0; sample it with bottom 'chains'.")
    if values.shape[0] * values.shape[2] < 2:
        raise InputError("`trace` must hold at least 2 draws on each rung, got 1.")
    if not values.isfinite().all():
        raise InputError("`trace` must hold finite log-likelihoods, got a value that is not.")
    return trace.inverse_temperatures.double(), values.detach().double()


def log_mean_exp(values: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return log of the mean of exp(values) over `dim`."""
    dims = (dim,) if isinstance(dim, int) else dim
    count = torch.tensor([values.shape[d] for d in dims], dtype=values.dtype, device=values.device).prod()
    return values.logsumexp(dim) - count.log()
