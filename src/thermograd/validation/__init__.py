r"""Every kernel, evidence method and estimator on the closed-form twin, against exact values.

The twin is z ~ N(0, I), x|z ~ N(W z, s^2 I) with W ~ `weight_scale` N(0, 1), under a quadratic energy whose
curvature is 0 (so that the prior has a parameter to learn, and its gradient a known value). Images are drawn from it.
Gradients are measured twice: at the true W, and at W + perturbation * weight_scale * N(0, 1).

A check is a claim about chance: a mean lies within 4 standard errors of what it should be, with Bonferroni's limit
where one row makes several comparisons. What a method is known to be wrong by is not a failed check, and the
verdict says so.
"""

import time
from collections.abc import Iterable

import torch

from thermograd.errors import Caution
from thermograd.progress import steps
from thermograd.validation.common import Row, Settings, Validation, make_twin, stream
from thermograd.validation.evidence import evidence_rows
from thermograd.validation.gradients import generator_rows, prior_rows
from thermograd.validation.kernels import KERNEL_IMAGES, kernel_rows
from thermograd.validation.modes import modes_rows

__all__ = ["Row", "Settings", "Validation", "validate"]


def validate(settings: Settings) -> Validation:
    """Run every kernel, evidence method and estimator on the twin, and compare with exact values."""
    start = time.perf_counter()
    warnings: list[Caution] = []
    twin = make_twin(settings)
    x = twin.sample_images(settings.num_images, stream(settings, 1))
    away = make_twin(settings)
    with torch.no_grad():
        noise = torch.randn(away.weight.shape, generator=stream(settings, 2), dtype=torch.float64)
        away.weight.add_(settings.perturbation * settings.weight_scale * noise)
    rows: dict[str, Iterable[Row]] = {
        "kernels": kernel_rows(twin, x[:KERNEL_IMAGES], settings, warnings),
        "evidence": evidence_rows(twin, x, settings, warnings),
        "generator gradient, at the true weights": generator_rows(twin, x, settings),
        "generator gradient, away from the true weights": generator_rows(away, x, settings),
        "prior gradient, at the true weights": prior_rows(twin, x, settings),
        "prior gradient, away from the true weights": prior_rows(away, x, settings),
        "separated modes, cold chains": modes_rows(settings),
    }
    tables = {name: list(rows[name]) for name in steps(list(rows), "tables")}
    return Validation(settings, tables, warnings, time.perf_counter() - start)
