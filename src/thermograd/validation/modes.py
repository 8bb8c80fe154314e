"""Separated modes: maximum likelihood from cold chains against ladders that exchange, at equal evaluations."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES, compute_weights
from thermograd.ladders.ladder import Ladder
from thermograd.ladders.sampler import LadderSampler
from thermograd.ladders.schedules import geometric_schedule
from thermograd.models.separated_modes import separated_modes
from thermograd.samplers.mala import MALA
from thermograd.validation.common import Row, Settings, stream

MODES_IMAGES, MODES_REPEATS, MODES_STEPS, BURN_IN = 8, 2, 200, 50
LARGEST_ERROR = 0.2
"""Of ladders that exchange, relative to the length of the exact gradient; cold chains at t = 1 stay above 0.5."""


def modes_rows(settings: Settings) -> Iterator[Row]:
    """Yield maximum likelihood on 16 chains, and two estimators on 8 rungs x 2 chains that exchange."""
    model, twin, x = separated_modes(MODES_IMAGES, settings.seed)
    names = model.parameter_groups()["generator"]
    gradient = twin.evidence_gradient(x)
    exact = torch.cat([gradient[name].flatten() for name in names])

    def draw(t: Tensor, chains: int, seed: int) -> tuple[Ladder, float]:
        generator = stream(settings, 300 + seed)
        exchange = len(t) > 2
        kernel = MALA(torch.full((len(t), MODES_IMAGES), 0.1, dtype=torch.float64))
        sampler = LadderSampler(t, kernel, chains, exchange, "chains" if exchange else "shared")
        state = sampler.start(model, x, generator)
        sampler, state = sampler.adapt(model, x, state, BURN_IN, generator)
        prior = twin.sample_prior(64, generator)
        _, info, trace = sampler.trace(model, x, state, MODES_STEPS, generator, prior, scores=True)
        return replace(trace.as_draws(prior), num_states=1), info.num_evaluations  # every state counts

    cold = [draw(torch.tensor([0.0, 1.0], dtype=torch.float64), 16, r) for r in range(MODES_REPEATS)]
    mixed = [draw(geometric_schedule(8, 0.003), 2, r) for r in range(MODES_REPEATS)]
    for name, ladders, stays in (
        ("maximum-likelihood", cold, True),
        ("tempered", mixed, False),
        ("multistate", mixed, False),
    ):
        found = []
        for ladder, _ in ladders:
            weights = compute_weights(ladder, ESTIMATORS[name], PRIOR_RULES["contrast"])
            parts = learning_gradient(model, x, ladder, weights)
            found.append(torch.cat([parts[key].flatten() for key in names]))
        yield _row(f"{name}, all states", ladders[0][1], torch.stack(found), exact, stays)


def _row(name: str, num_evaluations: float, draws: Tensor, exact: Tensor, stays: bool) -> Row:
    length = float(exact.norm())
    error = float((draws - exact).square().sum(1).mean().sqrt()) / length
    deviation = float(draws.var(0).sum().sqrt()) / length
    ok = stays or error < LARGEST_ERROR
    known = "biased by where its chains began" if stays else f"error below {LARGEST_ERROR}"
    return Row(
        name,
        num_evaluations,
        float((draws.mean(0) - exact).norm()) / length,
        deviation / math.sqrt(len(draws)),
        deviation,
        error,
        None,
        ok,
        f"ok: {known}" if ok else f"FAILED: error above {LARGEST_ERROR}",
    )
