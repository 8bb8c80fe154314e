r"""Stepping-stone sampling: a product of short importance-sampling steps between neighbouring rungs.

    log p(x) = sum_k log E_{t_k}[exp(Δt_k l)],    Δt_k = t_{k+1} - t_k, over all rungs but the last

There is no quadrature error. With stationary draws and rungs independent of each other exp(estimate) is
unbiased, so the estimate itself lies low, by about half its variance.

References:
    Xie, Lewis, Fan, Kuo, Chen (2011), Improving marginal likelihood estimation for Bayesian phylogenetic model
        selection. Systematic Biology.
"""

import torch
from torch import Tensor

from thermograd.errors import Caution
from thermograd.evidence.result import Estimate, checked_trace, log_mean_exp
from thermograd.ladders.diagnostics import ladder_warnings, monte_carlo_error
from thermograd.ladders.record import LadderInfo, LadderTrace
from thermograd.samplers.target import columns

SPREAD_LIMIT = 1.5


def stepping_stone(trace: LadderTrace, info: LadderInfo | None = None) -> Estimate:
    """Estimate log p(x) by stepping stones.

    The standard error is that of the linearised estimate (the delta method): at each step and chain the sum over
    rungs of exp(Δt_k l) / mean - 1, as one time series, so that rungs coupled by exchange count as coupled.

    Args:
        trace: every step of a ladder, its lower end among the rungs; independent draws may come as one step of M
            chains.
        info: what happened while it was sampled, or None for draws that no chain made.

    Raises:
        InputError: a trace without its lower end, or too few draws.
    """
    t, values = checked_trace(trace)
    log_weights = columns(t.diff(dim=0)) * values[:, :-1]
    log_ratio = log_mean_exp(log_weights, (0, 2))
    relative = (log_weights - log_ratio.unsqueeze(1)).exp() - 1
    expected, draws = values.mean((0, 2)), values.transpose(1, 2).flatten(0, 1)
    variance = draws.var(0)
    return Estimate(
        method="stepping-stone",
        log_evidence=log_ratio.sum(0),
        monte_carlo_error=monte_carlo_error(relative.sum(1)),
        quadrature_error=torch.zeros_like(log_ratio[0]),
        lower=None,
        upper=None,
        inverse_temperatures=t,
        expected_log_likelihood=expected,
        variance_log_likelihood=variance,
        num_evaluations=0.0 if info is None else info.num_evaluations,
        warnings=(*ladder_warnings(info, trace), *_spread_warnings(t, variance)),
        by_chain=log_mean_exp(log_weights, 0).sum(0),
    )


def _spread_warnings(t: Tensor, variance: Tensor) -> list[Caution]:
    """Return a caution of kind "skewed" if a mean of exponentials hangs on a few draws."""
    spread = exponent_spread(t, variance)
    skewed = spread > SPREAD_LIMIT
    if not skewed.any():
        return []
    return [
        Caution(
            "skewed",
            f"exponents of {int(skewed.sum())} of {len(spread)} images have standard deviations above {SPREAD_LIMIT} "
            f"between neighbouring rungs (largest {float(spread.max()):.1f}): these estimates are skewed and their "
            f"error bars too small; use more rungs.",
        )
    ]


def exponent_spread(t: Tensor, variance: Tensor) -> Tensor:
    """Return the largest standard deviation of Δt_k l over the steps of each image's ladder, (B,)."""
    steps = t.diff(dim=0)
    return ((steps if steps.dim() == 2 else steps.unsqueeze(-1)) * variance[:-1].sqrt()).amax(0)
