"""Methods of evidence on the twin: the estimate of log p(x) against its exact value."""

import math
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from thermograd.errors import Caution
from thermograd.evidence import (
    METHODS,
    Evidence,
    estimate_evidence,
    stepping_stone,
    thermodynamic_integration,
)
from thermograd.evidence.estimate import ANNEALED_CHAINS
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


def evidence_rows(
    twin: LinearGaussian, x: Tensor, settings: Settings, warnings: list[Caution]
) -> Iterator[Row]:
    """Yield each method of evidence with chains of its own, and two on exact draws of the same number."""
    truth = twin.log_evidence(x).detach()
    for number, method in enumerate(METHODS):
        generator = stream(settings, 10 + number)
        result = estimate_evidence(twin, x, method=method, generator=generator)
        warnings += [caution.under(method) for caution in result.warnings]
        yield _evidence_row(method, result, truth)
    t = power_schedule(NUM_RUNGS, 3.0)
    trace = as_one_step(exact_ladder(twin, x, t, 90, stream(settings, 19)))
    for name, result in (
        ("exact draws, corrected trapezoid", thermodynamic_integration(trace, "corrected")),
        ("exact draws, stepping-stone", stepping_stone(trace)),
    ):
        yield _evidence_row(name, replace(result, num_evaluations=90 * NUM_RUNGS), truth)


def _evidence_row(name: str, result: Evidence, truth: Tensor) -> Row:
    """Compare with the truth; what the method itself says about its bias may explain one.

    Thermodynamic integration states a quadrature error. The log of a mean of weights lies low (Jensen): by half its
    variance where the weights vary little, and by at most half the variance of one log weight where they are
    log-normal. Its standard error gives both variances, unless the method warns that weights spread too far even
    for that; then only an estimate that lies high fails.
    """
    difference = result.log_evidence - truth
    bias, error = float(difference.mean()), float(difference.std()) / math.sqrt(len(truth))
    if result.method.startswith("thermodynamic"):
        excess = abs(bias) - float(result.quadrature_error.mean())
        known = "biased by quadrature, as stated"
    else:
        num_weights = ANNEALED_CHAINS if result.method == "annealed-importance-sampling" else 1
        allowance = num_weights * float(result.monte_carlo_error.square().mean()) / 2
        warned = any(caution.kind == "skewed" for caution in result.warnings)
        excess = bias if warned else max(bias, -bias - allowance)
        known = "low by the spread of its weights" + (", as it warns" if warned else "")
    ok = within_chance(truth.new_tensor(excess / error), len(truth)) or excess < 0
    within = within_chance(truth.new_tensor(bias / error), len(truth))
    return Row(
        name,
        result.num_evaluations,
        bias,
        error,
        float(difference.std()),
        float(difference.square().mean().sqrt()),
        None,
        ok,
        verdict(ok, "" if within else known),
    )
