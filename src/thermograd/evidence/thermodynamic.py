r"""Thermodynamic integration: log p(x) = integral of E_t[l] over t from 0 to 1.

d/dt E_t[l] = Var_t(l) >= 0, so left and right sums bound log p(x) in expectation, and the variances give the
slopes that the corrected trapezoid rule needs. Every rule is linear in moments on the rungs,

    sum_k w_k E_k + sum_k c_k V_k,    c_k = (Δt_k^2 - Δt_{k-1}^2) / 12, or 0 for an uncorrected rule,

and so is its error: sum_k w_k (l_k - E_k) + c_k ((l_k - E_k)^2 - V_k) is one number a step and chain. Its time
series is what the standard error is computed from, so that rungs coupled by exchange count as coupled.

References:
    Lartillot, Philippe (2006), Computing Bayes factors using thermodynamic integration.
    Friel, Pettitt (2008), Marginal likelihood estimation via power posteriors.
    Friel, Hurn, Wyse (2014), Improving power posterior estimation of statistical evidence.
"""

from typing import Literal

import torch
from torch import Tensor

from thermograd.errors import InputError
from thermograd.evidence.control_variates import controlled, stein_functions
from thermograd.evidence.result import Estimate, checked_trace
from thermograd.ladders.diagnostics import ladder_warnings, monte_carlo_error, quadrature_warnings
from thermograd.ladders.quadrature import (
    corrected_trapezoid,
    left_sum,
    left_weights,
    right_sum,
    right_weights,
    trapezoid_weights,
)
from thermograd.ladders.record import LadderInfo, LadderTrace
from thermograd.samplers.target import columns

Rule = Literal["trapezoid", "corrected", "left", "right"]


def thermodynamic_integration(
    trace: LadderTrace,
    rule: Rule = "corrected",
    control_variates: bool = False,
    *,
    info: LadderInfo | None = None,
) -> Estimate:
    """Estimate log p(x) from the log-likelihoods along a ladder.

    The quadrature error is estimated for the corrected rule by leaving out every other rung (its error falls
    like the fourth power of the steps), for other rules by their distance to the corrected one. `lower` and
    `upper` are the left and right sums: whatever the rule's error, the truth lies between their expectations.

    Args:
        trace: every step of a ladder, its lower end among the rungs; with latents and scores for control variates.
            Independent draws may come as S steps of one chain, or as one step of M chains.
        rule: "corrected" (trapezoid with slopes), "trapezoid", "left" or "right".
        control_variates: remove from the integrand what functions of known mean explain.
        info: what happened while the ladder was sampled, or None for draws that no chain made.

    Raises:
        InputError: an unknown rule, a trace without its lower end, or too few draws.
    """
    t, draws = checked_trace(trace)
    weights, slopes = _coefficients(t, rule)
    num_draws = draws.shape[0] * draws.shape[2]
    if control_variates:
        functions = _functions(trace)
        values = controlled(draws, functions)
        expected = values.mean((0, 2))
        squares = controlled((draws - expected.unsqueeze(1)).square(), functions)
    else:
        values = draws
        expected = values.mean((0, 2))
        # The mean is fitted to the same draws, which costs one of them.
        squares = (draws - expected.unsqueeze(1)).square() * num_draws / (num_draws - 1)
    variance = squares.mean((0, 2))
    integral = (columns(weights) * values + columns(slopes) * squares).sum(1)
    error = monte_carlo_error(integral)
    estimate = integral.mean((0, 1))
    quadrature = _quadrature_error(t, expected, variance, estimate, rule)
    return Estimate(
        method=f"thermodynamic-{rule}" + ("-controlled" if control_variates else ""),
        log_evidence=estimate,
        monte_carlo_error=error,
        quadrature_error=quadrature,
        lower=left_sum(t, expected),
        upper=right_sum(t, expected),
        inverse_temperatures=t,
        expected_log_likelihood=expected,
        variance_log_likelihood=variance,
        num_evaluations=0.0 if info is None else info.num_evaluations,
        warnings=(*ladder_warnings(info, trace), *quadrature_warnings(error, quadrature)),
        by_chain=integral.mean(0),
    )


def _coefficients(t: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Return the weights of E_k and of V_k, both (K,) or (K, B)."""
    none = torch.zeros_like(t)
    if rule == "left":
        return left_weights(t), none
    if rule == "right":
        return right_weights(t), none
    if rule == "trapezoid":
        return trapezoid_weights(t), none
    if rule != "corrected":
        raise InputError(f"`rule` must be trapezoid, corrected, left or right, got {rule!r}.")
    square = t.diff(dim=0).square() / 12
    return trapezoid_weights(t), torch.cat([square, none[:1]]) - torch.cat([none[:1], square])


def _functions(trace: LadderTrace) -> Tensor:
    if trace.latents is None or trace.score is None:
        raise InputError("`control_variates` need latents and scores in `trace`; sample it with scores=True.")
    return stein_functions(trace.latents.double(), trace.score.double())


def _quadrature_error(t: Tensor, expected: Tensor, variance: Tensor, estimate: Tensor, rule: Rule) -> Tensor:
    corrected = corrected_trapezoid(t, expected, variance)
    if rule != "corrected":
        return (corrected - estimate).abs()
    if len(t) == 2:
        return (right_sum(t, expected) - left_sum(t, expected)).abs() / 2
    keep = torch.arange(0, len(t), 2)
    if len(t) % 2 == 0:
        keep = torch.cat([keep, torch.tensor([len(t) - 1])])
    coarse = corrected_trapezoid(t[keep], expected[keep], variance[keep])
    return (corrected - coarse).abs() / 15
