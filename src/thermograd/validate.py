r"""Every kernel, evidence method and estimator on the closed-form twin, against exact values.

The twin is z ~ N(0, I), x|z ~ N(W z, s^2 I) with W ~ `weight_scale` N(0, 1), under a quadratic energy whose
curvature is 0 (so that the prior has a parameter to learn, and its gradient a known value). Images are drawn from it.
Gradients are measured twice: at the true W, and at W + perturbation * weight_scale * N(0, 1).

A check is a claim about chance: a mean lies within 4 standard errors of what it should be, with Bonferroni's limit
where one row makes several comparisons. What a method is known to be wrong by is not a failed check, and the
verdict says so.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from thermograd.errors import InputError
from thermograd.evidence import METHODS, Evidence, estimate_evidence, stepping_stone, thermodynamic_integration
from thermograd.gradients import (
    ESTIMATORS,
    PRIOR_RULES,
    Estimator,
    Limit,
    PriorRule,
    compute_weights,
    learning_gradient,
)
from thermograd.models.linear_gaussian import LinearGaussian
from thermograd.samplers.diagnostics import ladder_warnings, monte_carlo_error
from thermograd.samplers.ladder import Ladder, sample_ladder
from thermograd.samplers.langevin import ULA
from thermograd.samplers.mala import MALA
from thermograd.schedules import power_schedule

NUM_RUNGS = 11
SHORT_RUN = {"num_steps": 20, "step_size": 0.1}
KERNEL_IMAGES, KERNEL_CHAINS, KERNEL_STEPS = 8, 8, 300


@dataclass(frozen=True)
class Settings:
    """What is validated: the twin, and how much is drawn.

    Attributes:
        latent_dim: d.
        num_pixels: D.
        noise_std: s.
        weight_scale: standard deviation of the entries of W.
        num_images: B, images in the batch.
        num_repeats: independent estimates of each gradient.
        perturbation: standard deviation of what is added to W in the second table, in units of `weight_scale`.
        seed: of everything drawn.

    Raises:
        InputError: a value out of range.
    """

    latent_dim: int = 16
    num_pixels: int = 256
    noise_std: float = 0.3
    weight_scale: float = 0.08
    num_images: int = 64
    num_repeats: int = 60
    perturbation: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        smallest = {"latent_dim": 1, "num_pixels": 1, "num_images": 2, "num_repeats": 10, "seed": 0}
        for name, limit in smallest.items():
            if getattr(self, name) < limit:
                raise InputError(f"`{name}` must be at least {limit}, got {getattr(self, name)}.")
        for name in ("noise_std", "weight_scale", "perturbation"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"`{name}` must be positive, got {value}.")


@dataclass(frozen=True)
class Row:
    """One thing that was measured.

    Attributes:
        name: what was measured.
        num_evaluations: generator evaluations with gradient for each image; an exact draw counts as one.
        bias: of the mean against the exact value.
        bias_error: standard error of `bias`; for gradients the length that chance alone would give it.
        standard_deviation: of one estimate.
        error: root mean square error against the exact value.
        limit_distance: distance of the method's own stated limit from the exact value, or None.
        ok: whether the check held.
        verdict: what the numbers mean.
    """

    name: str
    num_evaluations: float
    bias: float
    bias_error: float
    standard_deviation: float
    error: float
    limit_distance: float | None
    ok: bool
    verdict: str


@dataclass(frozen=True)
class Validation:
    """All tables, by name; and one line for each reason to doubt them."""

    settings: Settings
    tables: dict[str, list[Row]]
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failures(self) -> list[str]:
        """Return the rows whose check failed, as "table: row"."""
        return [f"{table}: {row.name}" for table, rows in self.tables.items() for row in rows if not row.ok]

    def record(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {**asdict(self), "failures": self.failures}


def validate(settings: Settings) -> Validation:
    """Run every kernel, evidence method and estimator on the twin, and compare with exact values."""
    start, warnings = time.perf_counter(), []
    twin = _make_twin(settings)
    x = twin.sample_images(settings.num_images, _stream(settings, 1))
    away = _make_twin(settings)
    with torch.no_grad():
        noise = torch.randn(away.weight.shape, generator=_stream(settings, 2), dtype=torch.float64)
        away.weight += settings.perturbation * settings.weight_scale * noise
    tables = {
        "kernels": list(_kernels(twin, x[:KERNEL_IMAGES], settings, warnings)),
        "evidence": list(_evidence(twin, x, settings, warnings)),
        "generator gradient, at the true weights": list(_generator_gradients(twin, x, settings)),
        "generator gradient, away from the true weights": list(_generator_gradients(away, x, settings)),
        "prior gradient, at the true weights": list(_prior_gradients(twin, x, settings)),
        "prior gradient, away from the true weights": list(_prior_gradients(away, x, settings)),
    }
    return Validation(settings, tables, warnings, time.perf_counter() - start)


def _make_twin(settings: Settings) -> LinearGaussian:
    no_energy = torch.zeros(settings.latent_dim, dtype=torch.float64)
    return LinearGaussian.random(
        settings.latent_dim,
        settings.num_pixels,
        settings.noise_std,
        settings.weight_scale,
        settings.seed,
        energy_curvature=no_energy,
    )


def _stream(settings: Settings, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * settings.seed + number)


# --- kernels ---


def _kernels(twin: LinearGaussian, x: Tensor, settings: Settings, warnings: list[str]) -> Iterator[Row]:
    """Yield the mean log-likelihood under each kernel: ULA at t = 1, MALA on all rungs of a ladder."""
    yield _ula(twin, x, settings)
    t = power_schedule(NUM_RUNGS, 3.0)
    exact = twin.expected_log_likelihood(x, t).detach().mean(-1)
    for name, swaps in (("MALA", False), ("MALA with exchange", True)):
        curvature = 1 + t * _posterior_eigenvalues(twin).max() - t
        kernel = MALA(1.2 * settings.latent_dim ** (-1 / 6) / curvature.sqrt())
        ladder = sample_ladder(
            twin,
            x,
            t,
            kernel,
            KERNEL_CHAINS,
            KERNEL_STEPS,
            "base",
            _stream(settings, 4 + swaps),
            num_burn_in=KERNEL_STEPS,
            exchange_rungs=swaps,
            trace=True,
        )
        trace = ladder.log_likelihood_trace
        if trace is None:
            raise RuntimeError("a ladder sampled with a trace holds it.")
        means = trace.mean(-1).transpose(1, 2)
        bias, error = means.mean((0, 1)) - exact, monte_carlo_error(means)
        worst = int((bias / error).abs().argmax())
        ok = _within(bias / error)
        warnings += [f"{name}: {line}" for line in ladder_warnings(ladder)]
        yield Row(
            f"{name}, E[l] on the worst of {NUM_RUNGS} rungs, t = {float(t[worst]):.3g}",
            ladder.num_evaluations,
            float(bias[worst]),
            float(error[worst]),
            float(means[..., worst].std()),
            float((means[..., worst] - exact[worst]).square().mean().sqrt()),
            0.0,
            ok,
            _verdict(ok, ""),
        )


def _posterior_eigenvalues(twin: LinearGaussian) -> Tensor:
    gram = (twin.weight.mT @ twin.weight).detach() / twin.noise_std**2
    return 1 + torch.linalg.eigvalsh(gram).clamp(min=0)


def _ula(twin: LinearGaussian, x: Tensor, settings: Settings) -> Row:
    """Run ULA from exact draws, and compare with its own exact law after as many steps.

    Along an eigenvector of the posterior precision with value a each step multiplies by c = 1 - h^2 a / 2 and adds
    variance h^2, so the variance tends to 1 / (a (1 - h^2 a / 4)) like c^(2n).
    """
    eigenvalues, vectors = torch.linalg.eigh((twin.weight.mT @ twin.weight).detach() / twin.noise_std**2)
    precision = 1 + eigenvalues.clamp(min=0)
    h = float(1 / precision.max().sqrt())
    num_steps, num_chains = 100, 500
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    generator = _stream(settings, 3)
    start = twin.sample_power_posterior(x, t, num_chains, generator)
    ladder = sample_ladder(
        twin, x, t, ULA(h), num_chains, num_steps, "persistent", generator, initial_latents=start
    )
    means = ladder.log_likelihood[-1].mean(-1)
    factor = (1 - h**2 * precision / 2).square() ** num_steps
    variance = factor / precision + (1 - factor) / (precision * (1 - h**2 * precision / 4))
    excess = vectors @ torch.diag(variance - 1 / precision) @ vectors.mT
    exact = twin.expected_log_likelihood(x, 1.0).detach().mean()
    shift = -float(((twin.weight.detach() @ excess) * twin.weight.detach()).sum()) / (2 * twin.noise_std**2)
    bias, error = float(means.mean() - exact), float(means.std()) / math.sqrt(num_chains)
    ok = abs(bias - shift) < 4 * error
    return Row(
        f"ULA, h = {h:.3g}, E[l] at t = 1",
        (num_steps + 1),
        bias,
        error,
        float(means.std()),
        float((means - exact).square().mean().sqrt()),
        abs(shift),
        ok,
        _verdict(ok, "biased by design" if abs(shift) > 4 * error else ""),
    )


# --- evidence ---


def _evidence(twin: LinearGaussian, x: Tensor, settings: Settings, warnings: list[str]) -> Iterator[Row]:
    """Yield each method of evidence with chains of its own, and two on exact draws of the same number."""
    truth = twin.log_evidence(x).detach()
    for number, method in enumerate(METHODS):
        generator = _stream(settings, 10 + number)
        result = estimate_evidence(twin, x, method=method, generator=generator)
        warnings += [f"{method}: {line}" for line in result.warnings]
        yield _evidence_row(method, result, truth)
    t = power_schedule(NUM_RUNGS, 3.0)
    ladder = exact_ladder(twin, x, t, 90, _stream(settings, 19))
    for name, result in (
        ("exact draws, corrected trapezoid", thermodynamic_integration(ladder, "corrected")),
        ("exact draws, stepping-stone", stepping_stone(ladder)),
    ):
        yield _evidence_row(name, result, truth)


def _evidence_row(name: str, result: Evidence, truth: Tensor) -> Row:
    """Compare with the truth; chance, the stated quadrature error and half the variance may explain a bias.

    The log of a mean of weights lies low by half its variance (Jensen), which the square of the standard error
    estimates.
    """
    difference = result.log_evidence - truth
    bias, error = float(difference.mean()), float(difference.std()) / math.sqrt(len(truth))
    weighted = not result.method.startswith("thermodynamic")
    allowance = result.monte_carlo_error.square() / 2 if weighted else result.quadrature_error
    excess = max(abs(bias) - float(allowance.mean()), 0.0)
    ok = excess < 4 * error
    known = "low by half its variance" if weighted else "biased by quadrature, as stated"
    return Row(
        name,
        result.num_evaluations,
        bias,
        error,
        float(difference.std()),
        float(difference.square().mean().sqrt()),
        None,
        ok,
        _verdict(ok, known if abs(bias) >= 4 * error else ""),
    )


# --- gradients ---


def exact_ladder(
    twin: LinearGaussian, x: Tensor, t: Tensor, num_chains: int, generator: torch.Generator
) -> Ladder:
    """Return a ladder of exact independent draws; the draws stand as one step of a trace, too."""
    latents = twin.sample_power_posterior(x, t, num_chains, generator)
    with torch.no_grad():
        log_likelihood, energy = twin.log_likelihood(x, latents), twin.energy(latents)
    return Ladder(
        t,
        latents,
        log_likelihood,
        energy,
        num_evaluations=len(t) * num_chains,
        log_likelihood_trace=log_likelihood.unsqueeze(0),
    )


@dataclass(frozen=True)
class _Arm:
    """One estimator with its ladder: power p, chains M; short-run chains in the place of exact draws."""

    name: str
    rule: Estimator | PriorRule
    power: float
    num_chains: int
    short_run: bool = False


def _generator_gradients(twin: LinearGaussian, x: Tensor, settings: Settings) -> Iterator[Row]:
    rules = ESTIMATORS
    arms = [
        _Arm("maximum-likelihood, 1 chain", rules["maximum-likelihood"], 1.0, 1),
        _Arm("maximum-likelihood, 22 chains", rules["maximum-likelihood"], 1.0, 22),
        _Arm("maximum-likelihood, short-run ULA", rules["maximum-likelihood"], 1.0, 1, short_run=True),
    ]
    for power in (0.3, 1.0, 3.0):
        arms.append(_Arm(f"thermodynamic-detached, p = {power:g}", rules["thermodynamic-detached"], power, 1))
    for name in ("thermodynamic-complete", "stepping-stone-detached", "stepping-stone-complete"):
        arms += [_Arm(f"{name}, {m} chains, p = 3", rules[name], 3.0, m) for m in (2, 4, 8)]
    for number, name in enumerate(sorted(set(rules) - {arm.rule.name for arm in arms})):
        arms.append(_Arm(f"{name}, {4} chains, p = 3", rules[name], 3.0, 4 + 0 * number))
    return _gradient_rows(twin, x, settings, arms, "weight")


def _prior_gradients(twin: LinearGaussian, x: Tensor, settings: Settings) -> Iterator[Row]:
    arms = [_Arm(f"{name}, 2 chains, p = 3", rule, 3.0, 2) for name, rule in PRIOR_RULES.items()]
    return _gradient_rows(twin, x, settings, arms, "energy_curvature")


def _gradient_rows(
    twin: LinearGaussian, x: Tensor, settings: Settings, arms: list[_Arm], parameter: str
) -> Iterator[Row]:
    exact = twin.evidence_gradient(x)[parameter]
    for number, arm in enumerate(arms):
        generator = _stream(settings, 100 + number)
        draws, num_evaluations = _repeat(twin, x, arm, settings.num_repeats, parameter, generator)
        t = power_schedule(NUM_RUNGS, arm.power)
        target = twin.gradient_target(x, t, *arm.rule.limit(t))[parameter]
        yield _gradient_row(arm, draws, num_evaluations, exact, target)
