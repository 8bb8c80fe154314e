"""Estimators of the learning gradient on the twin: repeated estimates against the exact gradient of the batch.

Lengths are relative to the length of the exact gradient. Draws are exact and independent, but for short-run chains.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES, Estimator, PriorRule, compute_weights
from thermograd.ladders.ladder import Ladder
from thermograd.ladders.sampler import LadderSampler
from thermograd.ladders.schedules import power_schedule
from thermograd.models.linear_gaussian import LinearGaussian
from thermograd.progress import steps
from thermograd.samplers.langevin import ULA
from thermograd.validation.common import (
    NUM_RUNGS,
    Row,
    Settings,
    exact_ladder,
    stream,
    verdict,
    within_chance,
)
from thermograd.validation.kernels import ula_law

NUM_PROJECTIONS = 20
STEIN_DRAWS = (10, 20, 40)
SHORT_RUN_STEPS, SHORT_RUN_STEP_SIZE = 20, 0.1  # the published settings of Pang et al. (2020)


@dataclass(frozen=True)
class _Arm:
    """One estimator with its draws: schedule of power p, M chains, or one short-run chain for exact draws."""

    name: str
    rule: Estimator | PriorRule
    power: float
    num_chains: int
    short_run: bool = False

    @property
    def is_biased(self) -> bool:
        return not self.rule.unbiased

    @property
    def num_rungs(self) -> int:
        return 2 if self.rule.default_rungs == 2 else NUM_RUNGS


def generator_rows(twin: LinearGaussian, x: Tensor, settings: Settings) -> Iterator[Row]:
    """Yield every estimator's gradient of the generator's weight."""
    likelihood = ESTIMATORS["maximum-likelihood"]
    arms = [
        _Arm("maximum-likelihood, 1 chain", likelihood, 1.0, 1),
        _Arm("maximum-likelihood, 22 chains", likelihood, 1.0, 22),
        _Arm(
            f"maximum-likelihood, {SHORT_RUN_STEPS} short-run ULA steps", likelihood, 1.0, 1, short_run=True
        ),
    ]
    for name, rule in ESTIMATORS.items():
        if rule is likelihood:
            continue
        if rule.uses_scores:
            arms += [_Arm(f"{name}, {m} draws", rule, 1.0, m) for m in STEIN_DRAWS]
        elif rule.min_chains == 1 and rule.unbiased:
            powers = (0.3, 1.0, 3.0) if rule.needs_prior_rung else (3.0,)
            arms += [_Arm(f"{name}, 1 chain, p = {power:g}", rule, power, 1) for power in powers]
        else:
            least = max(2, rule.min_chains)
            arms += [_Arm(f"{name}, {m * least} chains, p = 3", rule, 3.0, m * least) for m in (1, 2, 4)]
    return _rows(twin, x, settings, arms, "weight")


def prior_rows(twin: LinearGaussian, x: Tensor, settings: Settings) -> Iterator[Row]:
    """Yield every rule's gradient of the energy's curvature."""
    arms = []
    for name, rule in PRIOR_RULES.items():
        if rule.unbiased:
            least = max(2, rule.min_chains)
            arms.append(_Arm(f"{name}, {least} chains, p = 3", rule, 3.0, least))
        else:
            arms += [_Arm(f"{name}, {m} draws", rule, 3.0, m) for m in STEIN_DRAWS]
    return _rows(twin, x, settings, arms, "energy_curvature")


def _rows(
    twin: LinearGaussian, x: Tensor, settings: Settings, arms: list[_Arm], parameter: str
) -> Iterator[Row]:
    exact = twin.evidence_gradient(x)[parameter].flatten()
    distances: dict[str, float] = {}
    for number, arm in enumerate(steps(arms, "rows")):
        generator = stream(settings, 100 + number)
        estimates = [_estimate(twin, x, arm, parameter, generator) for _ in range(settings.num_repeats)]
        draws = torch.stack(estimates)
        target = _limit(twin, x, arm, parameter).flatten()
        yield _row(arm, draws, exact, target, distances.get(arm.rule.name))
        distances[arm.rule.name] = float((draws.mean(0) - target).norm())


def _limit(twin: LinearGaussian, x: Tensor, arm: _Arm, parameter: str) -> Tensor:
    if arm.short_run:
        return _short_run_limit(twin, x)
    t = power_schedule(NUM_RUNGS, arm.power)
    return twin.gradient_target(x, t, *arm.rule.limit(t))[parameter]


def _estimate(
    twin: LinearGaussian, x: Tensor, arm: _Arm, parameter: str, generator: torch.Generator
) -> Tensor:
    t = power_schedule(arm.num_rungs, arm.power)
    ladder = (
        _short_run(twin, x, generator)
        if arm.short_run
        else exact_ladder(twin, x, t, arm.num_chains, generator)
    )
    if isinstance(arm.rule, Estimator):
        weights = compute_weights(ladder, arm.rule, PRIOR_RULES["contrast"])
    else:
        weights = compute_weights(ladder, ESTIMATORS["maximum-likelihood"], arm.rule)
    return learning_gradient(twin, x, ladder, weights)[parameter].flatten()


def _short_run(twin: LinearGaussian, x: Tensor, generator: torch.Generator) -> Ladder:
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    prior_latents = twin.sample_prior(len(x), generator)
    sampler = LadderSampler(ends, ULA(SHORT_RUN_STEP_SIZE), bottom="shared")
    state = sampler.start(twin, x, generator)
    return sampler.run(twin, x, state, SHORT_RUN_STEPS, generator, prior_latents)[0]


def _short_run_limit(twin: LinearGaussian, x: Tensor) -> Tensor:
    """Return the exact mean of the weight's gradient under short-run chains: E[(x - b - W z) z^T] / s^2."""
    mean, covariance = ula_law(twin, x, SHORT_RUN_STEP_SIZE, SHORT_RUN_STEPS)
    weight = twin.weight.detach()
    residual = x - twin.bias.detach() - mean @ weight.mT
    return (residual.mT @ mean / len(x) - weight @ covariance) / twin.noise_std**2


def _num_evaluations(arm: _Arm) -> int:
    """Return generator evaluations for each image, of which an exact draw counts as one."""
    if arm.short_run:
        return SHORT_RUN_STEPS + 2  # one at the start, one in the backward pass
    return arm.num_chains * (NUM_RUNGS if arm.num_rungs > 2 else 1)


def _row(arm: _Arm, draws: Tensor, exact: Tensor, target: Tensor, fewer_chains: float | None) -> Row:
    """Compare repeats (R, P) with the exact gradient, and their mean with the rule's own limit.

    The check is made along the exact gradient, along the limit, and on fixed random projections. A rule that is
    biased at finite M is held to come nearer to its limit as M grows.
    """
    length = float(exact.norm())
    num_repeats, num_coordinates = draws.shape
    deviation = draws.var(0).sum().sqrt()
    chance = float(deviation) / math.sqrt(num_repeats)
    generator = torch.Generator().manual_seed(99)
    directions = torch.randn(num_coordinates, NUM_PROJECTIONS, generator=generator, dtype=draws.dtype)
    directions = torch.cat([directions, torch.stack([exact, target], 1)], 1)
    values = (draws - target) @ directions
    scores = values.mean(0) / (values.std(0) / math.sqrt(num_repeats))
    distance = float((target - exact).norm()) / length
    away = float((draws.mean(0) - target).norm())
    if arm.is_biased:
        ok = fewer_chains is None or away < fewer_chains + 4 * chance
        known = "biased by design, less with more chains"
    else:
        ok = within_chance(scores, num_repeats)
        known = "own limit met, biased by design" if distance > 1e-9 else ""
    return Row(
        arm.name,
        _num_evaluations(arm),
        float((draws.mean(0) - exact).norm()) / length,
        chance / length,
        float(deviation) / length,
        float((draws - exact).square().sum(1).mean().sqrt()) / length,
        distance,
        ok,
        verdict(ok, known),
    )
