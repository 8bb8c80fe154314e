"""Methods of evidence on the twin: the estimate of log p(x) against its exact value, and its intervals."""

import math
from collections.abc import Iterator

from torch import Tensor

from thermograd.errors import Caution
from thermograd.evidence import (
    METHODS,
    Estimate,
    Evidence,
    EvidenceSettings,
    estimate_evidence,
    stepping_stone,
    thermodynamic_integration,
)
from thermograd.evidence.result import LEVEL
from thermograd.ladders.schedules import power_schedule
from thermograd.models.linear_gaussian import LinearGaussian
from thermograd.validation.common import (
    NUM_RUNGS,
    Row,
    Settings,
    as_one_step,
    exact_ladder,
    stream,
    verdict,
    within_chance,
)

NUM_EVALUATIONS, NUM_BANK = 4000, 4000
CHANCE = 1e-4
NUM_EXACT = 90


def evidence_rows(
    twin: LinearGaussian, x: Tensor, settings: Settings, warnings: list[Caution]
) -> Iterator[Row]:
    """Yield each method of evidence with chains of its own, and two on exact draws."""
    truth = twin.log_evidence(x).detach()
    for number, method in enumerate(METHODS):
        how = EvidenceSettings(method=method, num_evaluations=NUM_EVALUATIONS, num_bank=NUM_BANK)
        result = estimate_evidence(twin, x, how, generator=stream(settings, 10 + number))
        warnings += [caution.under(method) for caution in result.warnings]
        yield _interval_row(method, result, truth)
    t = power_schedule(NUM_RUNGS, 3.0)
    trace = as_one_step(exact_ladder(twin, x, t, NUM_EXACT, stream(settings, 19)))
    for name, one in (
        ("exact draws, corrected trapezoid", thermodynamic_integration(trace, "corrected")),
        ("exact draws, stepping-stone", stepping_stone(trace)),
    ):
        yield _exact_row(name, one, truth)


def _interval_row(name: str, result: Evidence, truth: Tensor) -> Row:
    """Count the intervals that hold the truth; more misses than chance allows at 95 % fail.

    Images without an interval are counted in the verdict and judge nothing: to give none is what a method owes them.
    """
    from scipy.stats import binom

    kept = [i for i, status in enumerate(result.status) if status == "interval"]
    missed = sum(not bool(result.low[i] <= truth[i] <= result.high[i]) for i in kept)
    ok = not kept or binom.sf(missed - 1, len(kept), 1 - LEVEL) > CHANCE
    said = f"{len(kept) - missed} of {len(kept)} intervals hold the truth"
    left = len(truth) - len(kept)
    said = ("ok: " if ok else "FAILED: ") + said + (f", {left} without" if left else "")
    return _row(name, result.num_evaluations, result.log_evidence - truth, ok, said)


def _exact_row(name: str, result: Estimate, truth: Tensor) -> Row:
    """Compare the mean with the truth; a stated quadrature error, or the log of a mean of weights, may explain a bias.

    The log of a mean of weights lies low by half its variance (Jensen).
    """
    difference = result.log_evidence - truth
    bias, error = float(difference.mean()), float(difference.std()) / math.sqrt(len(truth))
    allowed = float(result.quadrature_error.mean()) + float(result.monte_carlo_error.square().mean()) / 2
    within = within_chance(truth.new_tensor(bias / error), len(truth))
    ok = (
        within
        or within_chance(truth.new_tensor((abs(bias) - allowed) / error), len(truth))
        or abs(bias) < allowed
    )
    return _row(
        name, NUM_RUNGS * NUM_EXACT, difference, ok, verdict(ok, "" if within else "biased as stated")
    )


def _row(name: str, num_evaluations: float, difference: Tensor, ok: bool, said: str) -> Row:
    spread = float(difference.std())
    return Row(
        name,
        num_evaluations,
        float(difference.mean()),
        spread / math.sqrt(len(difference)),
        spread,
        float(difference.square().mean().sqrt()),
        None,
        ok,
        said,
    )
