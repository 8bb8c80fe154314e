r"""Inverse-temperature schedules: float64 tensors (K,) that rise from exactly 0 to exactly 1.

`num_rungs` K counts both ends, so a schedule has N = K - 1 intervals. The adapted schedules cut [0, 1] into
intervals of equal length under a measured density on t: sqrt(Var_t(l)), the speed along the path of power
posteriors, or the rate at which swaps between neighbouring rungs are rejected.
"""

import math

import torch
from torch import Tensor

from thermograd.errors import InputError


def check_schedule(inverse_temperatures: Tensor) -> None:
    """Check that temperatures rise strictly from exactly 0 to exactly 1, for each image where they are its own.

    Args:
        inverse_temperatures: (K,) or (K, B), K at least 2.

    Raises:
        InputError: another shape, a value that is not finite, another first or last value, or one that does
            not rise.
    """
    if inverse_temperatures.ndim not in (1, 2) or len(inverse_temperatures) < 2:
        shape = tuple(inverse_temperatures.shape)
        raise InputError(
            f"`inverse_temperatures` must have shape (K,) or (K, B) with K at least 2, got {shape}."
        )
    t = inverse_temperatures.detach().cpu().reshape(len(inverse_temperatures), -1)
    for bad, wanted in (
        (~t.isfinite(), "be finite"),
        (_at(t, 0) & (t != 0), "start at exactly 0"),
        (_at(t, -1) & (t != 1), "end at exactly 1"),
    ):
        if bad.any():
            k, i = bad.nonzero()[0].tolist()
            raise InputError(f"`inverse_temperatures` must {wanted}, got {float(t[k, i])} at rung {k}.")
    falls = ~(t.diff(dim=0) > 0)
    if falls.any():
        k, i = falls.nonzero()[0].tolist()
        raise InputError(
            f"`inverse_temperatures` must rise, got {float(t[k + 1, i])} after {float(t[k, i])} at rung {k + 1}."
        )


def _at(t: Tensor, rung: int) -> Tensor:
    """Return where a table (K, B) is of one rung."""
    where = torch.zeros_like(t, dtype=torch.bool)
    where[rung] = True
    return where


def linear_schedule(num_rungs: int) -> Tensor:
    """Return t_k = k/N, (K,)."""
    return power_schedule(num_rungs, 1.0)


def power_schedule(num_rungs: int, power: float) -> Tensor:
    """Return t_k = (k/N)^p, (K,).

    p > 1 puts more rungs near the prior (p around 5 suits the evidence), p < 1 near the posterior.

    Args:
        num_rungs: K, both ends counted.
        power: p > 0.

    Raises:
        InputError: K below 2, p not positive, or a p so extreme that neighbouring rungs round to the same
            number.

    References:
        Friel, Pettitt (2008), Marginal likelihood estimation via power posteriors.

    Example:
        >>> tg.power_schedule(3, 2.0)
        tensor([0.0000, 0.2500, 1.0000], dtype=torch.float64)
    """
    check_num_rungs(num_rungs)
    _check_positive("power", power)
    return rising(fractions(num_rungs) ** power, "power", power)


def geometric_schedule(num_rungs: int, smallest: float) -> Tensor:
    """Return t_0 = 0 and t_k = smallest^((N - k)/(N - 1)) for k = 1, ..., N, so t_1 = `smallest`, (K,).

    Args:
        num_rungs: K, both ends counted, at least 3 so that `smallest` has a rung.
        smallest: t_1, between 0 and 1.

    Raises:
        InputError: K below 3 or `smallest` outside (0, 1).
    """
    if num_rungs < 3:
        raise InputError(f"`num_rungs` must be at least 3 for a geometric schedule, got {num_rungs}.")
    if not 0 < smallest < 1:
        raise InputError(f"`smallest` must lie between 0 and 1, got {smallest}.")
    t = torch.cat([torch.zeros(1, dtype=torch.float64), smallest ** (1 - fractions(num_rungs - 1))])
    return rising(t, "smallest", smallest)


def sigmoid_schedule(num_rungs: int, steepness: float) -> Tensor:
    """Return the logistic curve stretched onto [0, 1], t_k = (1 + tanh(c (k/N - 1/2) / 2) / tanh(c/4)) / 2.

    It crowds both ends alike: t_k + t_{N-k} = 1.

    Args:
        num_rungs: K, both ends counted.
        steepness: c > 0, slope of the logistic curve; c near 0 gives the linear schedule.

    Raises:
        InputError: K below 2, c not positive, or a c so large that neighbouring rungs round to the same
            number.
    """
    check_num_rungs(num_rungs)
    _check_positive("steepness", steepness)
    curve = torch.tanh(steepness * (fractions(num_rungs) - 0.5) / 2) / math.tanh(steepness / 4)
    return rising((1 + curve) / 2, "steepness", steepness)


def rising(t: Tensor, name: str, value: object) -> Tensor:
    """Return a schedule with its ends made exact, or refuse one whose rungs round to the same number."""
    t[0], t[-1] = 0.0, 1.0
    if not bool((t.float().diff() > 0).all()):  # chains run in float32
        raise InputError(f"`{name}` must keep {len(t)} rungs apart in float32, got {value}.")
    return t


def fractions(num_rungs: int) -> Tensor:
    """Return k/N, (K,)."""
    return torch.arange(num_rungs, dtype=torch.float64) / (num_rungs - 1)


def check_num_rungs(num_rungs: int) -> None:
    """Refuse a ladder of fewer than two rungs."""
    if num_rungs < 2:
        raise InputError(f"`num_rungs` must be at least 2, got {num_rungs}.")


def _check_positive(name: str, value: float) -> None:
    if not value > 0 or not math.isfinite(value):
        raise InputError(f"`{name}` must be positive, got {value}.")
