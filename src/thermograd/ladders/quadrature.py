r"""Quadrature over inverse temperature: integrals over [0, 1] from values on the rungs of a schedule.

Values have the rungs on their leading axis, (K, ...), and integrals have the remaining axes, (...). The weights of
every rule sum to 1, the length of [0, 1]. The integral of a rising integrand, such as E_t[l], lies between its left and
right sums.
"""

import torch
from torch import Tensor

from thermograd.errors import InputError
from thermograd.ladders.schedules import check_schedule


def left_weights(inverse_temperatures: Tensor) -> Tensor:
    """Return w_k = t_{k+1} - t_k and w_N = 0, (K,) or (K, B)."""
    check_schedule(inverse_temperatures)
    return torch.cat([inverse_temperatures.diff(dim=0), torch.zeros_like(inverse_temperatures[:1])])


def right_weights(inverse_temperatures: Tensor) -> Tensor:
    """Return w_0 = 0 and w_k = t_k - t_{k-1}, (K,) or (K, B)."""
    check_schedule(inverse_temperatures)
    return torch.cat([torch.zeros_like(inverse_temperatures[:1]), inverse_temperatures.diff(dim=0)])


def trapezoid_weights(inverse_temperatures: Tensor) -> Tensor:
    """Return the mean of the left and right weights, (K,); sum of w_k t_k is exactly 1/2 on any schedule."""
    return (left_weights(inverse_temperatures) + right_weights(inverse_temperatures)) / 2


def left_sum(inverse_temperatures: Tensor, values: Tensor) -> Tensor:
    """Return the left Riemann sum of `values` (K, ...), (...): a lower bound where they rise."""
    return _weighted(left_weights(inverse_temperatures), values)


def right_sum(inverse_temperatures: Tensor, values: Tensor) -> Tensor:
    """Return the right Riemann sum of `values` (K, ...), (...): an upper bound where they rise."""
    return _weighted(right_weights(inverse_temperatures), values)


def trapezoid(inverse_temperatures: Tensor, values: Tensor) -> Tensor:
    """Return the trapezoid sum of `values` (K, ...), (...): exact where they are linear in t."""
    return _weighted(trapezoid_weights(inverse_temperatures), values)


def corrected_trapezoid(inverse_temperatures: Tensor, values: Tensor, variances: Tensor) -> Tensor:
    r"""Return the trapezoid sum corrected by the slopes at the rungs, exact for cubics in t.

    sum_k Δt_k (E_k + E_{k+1})/2 - sum_k (Δt_k^2/12) (V_{k+1} - V_k), where dE/dt = V.

    Args:
        inverse_temperatures: (K,), a valid schedule.
        values: (K, ...), E_t[l] on the rungs.
        variances: (K, ...), Var_t(l) on the rungs, which is the slope of E_t[l].

    Returns:
        (...)

    Raises:
        InputError: a bad schedule, or shapes that do not match.

    References:
        Friel, Hurn, Wyse (2014), Improving power posterior estimation of statistical evidence.
    """
    if values.shape != variances.shape:
        raise InputError(
            f"`variances` must have the shape of `values`, {tuple(values.shape)}, "
            f"got {tuple(variances.shape)}."
        )
    plain = trapezoid(inverse_temperatures, values)
    correction = inverse_temperatures.to(values).diff(dim=0).square() / 12
    return plain - _contract(correction, variances.diff(dim=0))


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    if values.ndim < 1 or len(values) != len(weights):
        raise InputError(
            f"`values` must have {len(weights)} rungs on the leading axis, got shape {tuple(values.shape)}."
        )
    return _contract(weights.to(values), values)


def _contract(weights: Tensor, values: Tensor) -> Tensor:
    """Sum over rungs: weights (K,), or (K, B) that meet the images on the last axis of the values (K, ..., B)."""
    spread = weights.view(len(weights), *[1] * (values.dim() - weights.dim()), *weights.shape[1:])
    return (spread * values).sum(0)
