"""Schedules that follow what was measured on a ladder: variances, swap rates, or weights of particles."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from thermograd.errors import InputError
from thermograd.ladders.schedules import check_num_rungs, check_schedule, fractions, rising


def next_temperature(
    log_likelihood: Tensor,
    inverse_temperatures: Tensor,
    share: float | Tensor,
    log_weights: Tensor | None = None,
) -> Tensor:
    r"""Return the largest temperature up to 1 at which weights exp(Δt l) keep an effective size.

    The conditional effective size (sum W w)^2 / sum W w^2, w = exp(Δt l), falls from 1 as Δt grows; bisection finds
    where it reaches `share`, for each column by itself.

    Args:
        log_likelihood: l of the particles, (M, *C).
        inverse_temperatures: t, (*C).
        share: wanted effective size as a share of M, a number or (*C).
        log_weights: log W, (M, *C); None for equal weights.

    Returns:
        (*C)
    """
    values = log_likelihood.double()
    weights = (torch.zeros_like(values) if log_weights is None else log_weights.double()).log_softmax(0)

    def enough(t: Tensor) -> Tensor:
        step = (t - inverse_temperatures.double()) * values
        return 2 * (weights + step).logsumexp(0) - (weights + 2 * step).logsumexp(0) >= wanted

    wanted = torch.as_tensor(share, dtype=values.dtype, device=values.device).log()
    low = inverse_temperatures.double()
    high = torch.ones_like(low)
    arrives = enough(high)
    for _ in range(50):
        middle = (low + high) / 2
        fine = enough(middle)
        low, high = torch.where(fine, middle, low), torch.where(fine, high, middle)
    return torch.where(arrives, 1.0, low).to(inverse_temperatures)


def equal_length_schedule(
    inverse_temperatures: Tensor, variances: Tensor, num_rungs: int | None = None
) -> Tensor:
    r"""Return the schedule of equal thermodynamic length, equal parts of the integral of sqrt(Var_t(l)) dt.

    Every step then has about the same (t_{k+1} - t_k)^2 Var(l). sqrt(Var) is interpolated linearly between
    the rungs where it was measured, and the length, its integral, is inverted exactly.

    Args:
        inverse_temperatures: (K,), a valid schedule where variances were measured.
        variances: (K,), Var_t(l), in nats squared.
        num_rungs: rungs of the new schedule, both ends counted; as many as the old one if None.

    Returns:
        (num_rungs,)

    Raises:
        InputError: a bad schedule, or variances that are negative, not finite, all zero, or of another shape.
    """
    check_schedule(inverse_temperatures)
    t = inverse_temperatures.double().cpu()
    variances = _check_measured("variances", variances, len(t))
    speed = variances.sqrt()
    return _equal_parts(t, speed[:-1], speed[1:], len(t) if num_rungs is None else num_rungs, "variances")


def equal_swap_schedule(
    inverse_temperatures: Tensor, swap_rates: Tensor, num_rungs: int | None = None
) -> Tensor:
    r"""Return the schedule whose neighbouring rungs reject swaps equally often.

    The summed rejection rate up to rung k, sum_{j<k} (1 - swap_rates_j), is interpolated linearly in t and
    cut into equal parts. It hardly depends on where the rungs stand, once they are close, which is why this
    works.

    Args:
        inverse_temperatures: (K,), a valid schedule where swap rates were measured.
        swap_rates: (K - 1,), mean swap probability of each pair of neighbours.
        num_rungs: rungs of the new schedule, both ends counted; as many as the old one if None.

    Returns:
        (num_rungs,)

    Raises:
        InputError: a bad schedule, or rates outside [0, 1], all 1, or of another shape.

    References:
        Syed, Bouchard-Côté, Deligiannidis, Doucet (2022), Non-reversible parallel tempering. JRSS B.
    """
    check_schedule(inverse_temperatures)
    t = inverse_temperatures.double().cpu()
    swap_rates = _check_measured("swap_rates", swap_rates, len(t) - 1)
    if swap_rates.max() > 1:
        raise InputError(f"`swap_rates` must be at most 1, got {float(swap_rates.max())}.")
    density = (1 - swap_rates) / t.diff()
    return _equal_parts(t, density, density, len(t) if num_rungs is None else num_rungs, "swap_rates")


@dataclass
class RunningMoments:
    r"""Exponentially averaged mean and variance of the log-likelihood on each rung.

    The variance is Var_t(l) under one image's power posterior, averaged over images: draws of the same image
    are compared with one another, never with those of another image, whose evidence differs. One chain an
    image has no such spread; there, pass a trace over steps. Its draws are correlated, so it understates
    every variance a little.

    The averages are normalised: after one update they equal that update's moments.

    Attributes:
        num_rungs: K.
        decay: weight kept by the past at an update, in [0, 1).
        weight: (), total weight seen, 1 - decay^n after n updates.
        mean: (K,), in nats.
        variance: (K,), in nats squared.
    """

    num_rungs: int
    decay: float
    weight: Tensor = field(init=False)
    mean: Tensor = field(init=False)
    variance: Tensor = field(init=False)

    def __post_init__(self) -> None:
        check_num_rungs(self.num_rungs)
        if not 0 <= self.decay < 1:
            raise InputError(f"`decay` must lie in [0, 1), got {self.decay}.")
        self.weight = torch.zeros((), dtype=torch.float64)
        self.mean = torch.zeros(self.num_rungs, dtype=torch.float64)
        self.variance = torch.zeros(self.num_rungs, dtype=torch.float64)

    def update(self, log_likelihood: Tensor) -> None:
        """Take in the log-likelihoods of one ladder.

        Args:
            log_likelihood: (K, M, B) with at least two chains, or a trace over steps (S, K, M, B) with S * M
                >= 2.

        Raises:
            InputError: another shape, fewer than two draws per image and rung, or values that are not finite.
        """
        draws = log_likelihood.detach().double().cpu()
        if draws.ndim == 3:
            draws = draws.unsqueeze(0)
        if draws.ndim != 4 or draws.shape[1] != self.num_rungs:
            shape = tuple(log_likelihood.shape)
            raise InputError(
                f"`log_likelihood` must have shape ({self.num_rungs}, M, B) or (S, {self.num_rungs}, M, B), "
                f"got {shape}."
            )
        draws = draws.transpose(0, 1).flatten(1, 2)
        if draws.shape[1] < 2:
            raise InputError(
                f"`log_likelihood` must hold at least 2 draws per image and rung, "
                f"chains or a trace over steps, got {draws.shape[1]}."
            )
        if not draws.isfinite().all():
            raise InputError("`log_likelihood` must be finite, got a value that is not.")
        self.weight = self.decay * self.weight + (1 - self.decay)
        gain = (1 - self.decay) / self.weight
        self.mean = self.mean + gain * (draws.mean((1, 2)) - self.mean)
        self.variance = self.variance + gain * (draws.var(1).mean(1) - self.variance)

    def move(self, old: Tensor, new: Tensor) -> None:
        """Carry the averages from the rungs of an old schedule to those of a new one, interpolated linearly.

        Args:
            old: (K,), the schedule on which they were measured.
            new: (K,), the schedule that follows.

        Raises:
            InputError: a bad schedule, or one of another length.
        """
        for schedule in (old, new):
            check_schedule(schedule)
            if len(schedule) != self.num_rungs:
                raise InputError(
                    f"`inverse_temperatures` must have {self.num_rungs} rungs, got {len(schedule)}."
                )
        old, new = old.double().cpu(), new.double().cpu()
        below = (torch.searchsorted(old, new, right=True) - 1).clamp(max=self.num_rungs - 2)
        share = (new - old[below]) / (old[below + 1] - old[below])
        self.mean = torch.lerp(self.mean[below], self.mean[below + 1], share)
        self.variance = torch.lerp(self.variance[below], self.variance[below + 1], share)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint must keep."""
        return {"weight": self.weight, "mean": self.mean, "variance": self.variance}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` returned.

        Raises:
            InputError: a missing tensor, or one for another number of rungs.
        """
        for name, current in self.tensors().items():
            if name not in tensors or tensors[name].shape != current.shape:
                got = tuple(tensors[name].shape) if name in tensors else None
                raise InputError(f"`{name}` must have shape {tuple(current.shape)}, got {got}.")
            setattr(self, name, tensors[name].double().cpu().clone())


def _equal_parts(t: Tensor, left: Tensor, right: Tensor, num_rungs: int, name: str) -> Tensor:
    """Cut [0, 1] into equal parts of the integral of a density, linear from `left` to `right` on a piece."""
    check_num_rungs(num_rungs)
    width = t.diff()
    pieces = width * (left + right) / 2
    total = torch.cat([pieces.new_zeros(1), pieces.cumsum(0)])
    if not total[-1] > 0:
        raise InputError(f"`{name}` must show some distance between the rungs, got none: {t.tolist()}.")
    wanted = fractions(num_rungs)[1:-1] * total[-1]
    # The interval whose end reaches the wanted length; one of length zero is never picked for it.
    piece = torch.searchsorted(total[1:], wanted).clamp(max=len(pieces) - 1)
    rest = wanted - total[piece]
    start, slope = left[piece], (right[piece] - left[piece]) / width[piece]
    root = (start.square() + 2 * slope * rest).clamp(min=0).sqrt()  # rounding alone can make it negative
    inner = t[piece] + torch.minimum(2 * rest / (start + root), width[piece])
    return rising(torch.cat([t[:1], inner, t[-1:]]), name, "values too uneven to separate the rungs")


def _check_measured(name: str, values: Tensor, length: int) -> Tensor:
    if values.shape != (length,):
        raise InputError(f"`{name}` must have shape ({length},), got {tuple(values.shape)}.")
    values = values.detach().double().cpu()
    bad = ~(values.isfinite() & (values >= 0))
    if bad.any():
        k = int(bad.nonzero()[0])
        raise InputError(f"`{name}` must be finite and not negative, got {float(values[k])} at rung {k}.")
    return values
