r"""What chains are worth: effective sample size, R-hat, the standard error of a mean, and warnings.

A trace has steps on its first axis and chains on its second, (S, M, ...); the axes behind are free, so a
trace of log-likelihoods (S, K, M, B) is passed as `trace.transpose(1, 2)`.

With rho_s the autocorrelation at lag s, S M draws are worth S M / tau independent ones,

    tau = 1 + 2 sum_s rho_s,

summed in pairs of lags for as long as the pairs are positive, and forced to fall (Geyer's initial monotone
sequence). Chains are cut in halves first, so that a drift shows as disagreement between halves.

References:
    Geyer (1992), Practical Markov chain Monte Carlo. Statistical Science.
    Vehtari, Gelman, Simpson, Carpenter, Bürkner (2021), Rank-normalization, folding, and localization: an
        improved R-hat. Bayesian Analysis.
"""

import math

import torch
from torch import Tensor

from thermograd.errors import Caution, InputError
from thermograd.ladders.record import LadderInfo, LadderTrace

R_HAT_LIMIT = 1.1
SWAP_RATE_LIMIT = 0.05
ACCEPTANCE_LIMIT = 0.05


def effective_sample_size(trace: Tensor) -> Tensor:
    """Return how many independent draws a trace is worth for its mean, (...).

    On an autoregression x' = a x + noise it tends to S M (1 - a) / (1 + a). A trace that never changes
    counts every draw, since its mean has no error. It is at most S M log10(S M): antithetic chains can beat
    independence. From 10 steps on it is ArviZ's (method "mean").

    Args:
        trace: (S, M, ...), S at least 4.

    Raises:
        InputError: fewer than 4 steps, or values that are not finite.
    """
    halves = _halves(trace)
    num_steps, num_chains = halves.shape[:2]
    within, pooled = _variances(halves)
    covariance = _autocovariance(halves).mean(1)
    rho = 1 - (within - covariance) / torch.where(pooled > 0, pooled, 1.0)
    rho[0] = 1.0
    lags = rho[: num_steps // 2 * 2].unflatten(0, (-1, 2))
    pairs = lags.sum(1)
    whole = (pairs > 0).cumprod(0)
    if num_steps >= 5:  # the last pairs of lags are noise
        whole[(num_steps - 3) // 2 :] = 0
    tau = -1 + 2 * (pairs.cummin(0).values * whole).sum(0)
    if num_steps >= 5:  # of the first pair that is left out, the even lag counts once where it is positive
        first = whole.sum(0, keepdim=True)
        even, pair = lags[:, 0].gather(0, first)[0], pairs.gather(0, first)[0]
        tau = tau + torch.where(pair > 0, even, even.clamp(min=0))
    total = num_steps * num_chains
    tau = tau.clamp(min=1 / math.log10(total))
    return torch.where(pooled > 0, total / tau, float(total))


def monte_carlo_error(trace: Tensor) -> Tensor:
    """Return the standard error of a trace's mean over steps and chains, (...).

    From the effective sample size where a chain has at least 4 steps; from the spread of the chains' means
    where it has fewer, so that M independent draws may come as one step of M chains.

    Args:
        trace: (S, M, ...).

    Raises:
        InputError: fewer than 4 steps and fewer than 2 chains, or values that are not finite.
    """
    _check_trace(trace)
    num_steps, num_chains = trace.shape[:2]
    if num_steps >= 4:
        _, pooled = _variances(_halves(trace))
        return (pooled / effective_sample_size(trace)).sqrt()
    if num_chains < 2:
        raise InputError(f"`trace` must have at least 4 steps or 2 chains, got shape {tuple(trace.shape)}.")
    return trace.double().mean(0).std(0) / math.sqrt(num_chains)


def r_hat(trace: Tensor) -> Tensor:
    """Return the rank-normalised split R-hat, (...): 1 where all halves of all chains agree.

    The larger of two: of the ranks' normal scores, which sees chains at different places, and of those of
    the distance to the median, which sees chains of different widths. Infinite where chains never move and
    differ.

    Args:
        trace: (S, M, ...), S at least 4.

    Raises:
        InputError: fewer than 4 steps, or values that are not finite.
    """
    halves = _halves(trace)
    ordered = halves.flatten(0, 1).sort(0).values
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return torch.maximum(_r_hat(_normal_scores(halves)), _r_hat(_normal_scores((halves - median).abs())))


def ladder_warnings(info: LadderInfo | None, trace: LadderTrace | None = None) -> list[Caution]:
    """Return a caution for each sign that the chains of a ladder have not mixed.

    Kinds: "r-hat", "stuck-chains", "acceptance", "swap-rate", and "no-mixing" where rungs exchanged states over a trace
    of at least 4 K steps and no state made a round trip for half of the images. R-hat is that of the log-likelihood,
    for each rung and image; it needs a trace of 4 steps.

    Args:
        info: what happened while chains ran; None for draws that no chain made.
        trace: every step of them, or None.
    """
    warnings = (
        [] if trace is None else _trace_warnings(trace, None if info is None else info.acceptance.mean(1))
    )
    if info is None:
        return warnings
    acceptance = info.acceptance.mean(1)
    t = info.inverse_temperatures.reshape(len(acceptance), -1).mean(1)
    if (acceptance < ACCEPTANCE_LIMIT).any():
        rung = int(acceptance.argmin())
        warnings.append(
            Caution(
                "acceptance",
                f"acceptance {float(acceptance[rung]):.3f} at t = {float(t[rung]):.3g} is below "
                f"{ACCEPTANCE_LIMIT}: chains hardly move; use a smaller step size, or let it adapt for longer.",
            )
        )
    if info.round_trips is not None and trace is not None and len(trace.log_likelihood) >= 4 * len(t):
        share = float((info.round_trips.sum(0) == 0).double().mean())
        if share >= 0.5:
            warnings.append(
                Caution(
                    "no-mixing",
                    f"no state travelled from the lowest rung to the highest and back for {share:.0%} of images: "
                    f"the ladder has not mixed, and what it says may hang on where chains began; run more steps.",
                )
            )
    if info.swap_rates is not None and (info.swap_rates < SWAP_RATE_LIMIT).any():
        pair = int(info.swap_rates.argmin())
        warnings.append(
            Caution(
                "swap-rate",
                f"swap rate {float(info.swap_rates[pair]):.3f} between t = {float(t[pair]):.3g} and "
                f"{float(t[pair + 1]):.3g} is below {SWAP_RATE_LIMIT}: rungs are too far apart; use more of them.",
            )
        )
    return warnings


def _trace_warnings(trace: LadderTrace, acceptance: Tensor | None) -> list[Caution]:
    warnings, values = [], trace.log_likelihood
    t = trace.inverse_temperatures.reshape(values.shape[1], -1).mean(1)
    if len(values) >= 4:
        found = r_hat(values.transpose(1, 2))
        if (found > R_HAT_LIMIT).any():
            worst = found.amax(-1)
            rung = int(worst.argmax())
            share = float((found > R_HAT_LIMIT).double().mean())
            warnings.append(
                Caution(
                    "r-hat",
                    f"R-hat exceeds {R_HAT_LIMIT} for {share:.1%} of rungs and images (worst "
                    f"{float(worst[rung]):.2f} at t = {float(t[rung]):.3g}): chains have not mixed; run more steps.",
                )
            )
    stuck = (values == values[0]).all(0).sum((1, 2))
    num_chains = values[0, 0].numel()
    acceptance = torch.full((len(t),), 0.5) if acceptance is None else acceptance[-len(t) :]
    by_chance = num_chains * (1 - acceptance.to(t)) ** (len(values) - 1)
    stuck = torch.where(by_chance < 0.01, stuck, 0)
    if (stuck > 0).any():
        rung = int(stuck.argmax())
        warnings.append(
            Caution(
                "stuck-chains",
                f"{int(stuck[rung])} of {num_chains} chains never moved at t = {float(t[rung]):.3g}, so their error "
                f"bars mean nothing: use a smaller step size.",
            )
        )
    return warnings


def quadrature_warnings(monte_carlo: Tensor, quadrature: Tensor) -> list[Caution]:
    """Return a caution of kind "quadrature" if the median of that error (B,) exceeds the median of chance (B,)."""
    random, fixed = float(monte_carlo.median()), float(quadrature.median())
    if not fixed > random:
        return []
    return [
        Caution(
            "quadrature",
            f"quadrature error ({fixed:.3g} nats) exceeds Monte Carlo error ({random:.3g} nats): more chains or "
            f"steps do not help; use more rungs.",
        )
    ]


def _check_trace(trace: Tensor) -> None:
    if trace.ndim < 2 or trace.shape[0] * trace.shape[1] == 0:
        raise InputError(f"`trace` must have shape (S, M, ...), got {tuple(trace.shape)}.")
    if not trace.isfinite().all():
        raise InputError("`trace` must be finite, got a value that is not.")


def _halves(trace: Tensor) -> Tensor:
    """Return the halves of each chain, (S // 2, 2 M, ...) in float64; an odd middle step is left out."""
    _check_trace(trace)
    if len(trace) < 4:
        raise InputError(f"`trace` must have at least 4 steps, got {len(trace)}.")
    half = len(trace) // 2
    return torch.cat([trace[:half], trace[len(trace) - half :]], 1).double()


def _variances(trace: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean variance within chains, and the pooled one that counts disagreement between them."""
    num_steps = len(trace)
    within = trace.var(0).mean(0)
    return within, (num_steps - 1) / num_steps * within + trace.mean(0).var(0)


def _autocovariance(trace: Tensor) -> Tensor:
    """Return the autocovariance of each chain at lags 0 to S - 1, (S, M, ...), sums divided by S."""
    num_steps = len(trace)
    centred = trace - trace.mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * num_steps, dim=0)  # padded, so that the ends do not wrap
    return torch.fft.irfft(spectrum.abs().square(), n=2 * num_steps, dim=0)[:num_steps] / num_steps


def _normal_scores(trace: Tensor) -> Tensor:
    """Return the normal quantiles of ranks over steps and chains; equal values share their mean rank."""
    values = trace.flatten(0, 1).movedim(0, -1).contiguous()
    ordered = values.sort(-1).values
    first = torch.searchsorted(ordered, values)
    last = torch.searchsorted(ordered, values, right=True)
    rank = (first + last + 1).double() / 2
    scores = torch.special.ndtri((rank - 3 / 8) / (values.shape[-1] + 1 / 4))
    return scores.movedim(-1, 0).unflatten(0, trace.shape[:2])


def _r_hat(trace: Tensor) -> Tensor:
    within, pooled = _variances(trace)
    moves = torch.where(within > 0, within, 1.0)
    stuck = torch.where(pooled > 0, torch.inf, 1.0)
    return torch.where(within > 0, (pooled / moves).sqrt(), stuck)
