"""Kernels on the twin: the mean log-likelihood under each against its exact value."""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from thermograd.config import names
from thermograd.errors import Caution, RunError
from thermograd.ladders.diagnostics import ladder_warnings, monte_carlo_error
from thermograd.ladders.sampler import LadderSampler
from thermograd.ladders.schedules import power_schedule
from thermograd.models.linear_gaussian import LinearGaussian
from thermograd.samplers.langevin import ULA
from thermograd.samplers.named import KERNELS
from thermograd.validation.common import NUM_RUNGS, Row, Settings, stream, verdict, within_chance

KERNEL_IMAGES, KERNEL_CHAINS, KERNEL_STEPS = 8, 8, 300
ULA_CHAINS, ULA_STEPS = 500, 100


def kernel_rows(
    twin: LinearGaussian, x: Tensor, settings: Settings, warnings: list[Caution]
) -> Iterator[Row]:
    """Yield the mean log-likelihood under each kernel: ULA at t = 1, reversible ones on all rungs of a ladder.

    Chains of the package's kernels begin at the base distribution. Those of a kernel that was registered begin at exact
    draws, which it has to keep: how fast it comes there is its own affair.
    """
    yield _ula(twin, x, settings)
    t = power_schedule(NUM_RUNGS, 3.0)
    exact = twin.expected_log_likelihood(x, t).detach().mean(-1)
    curvature = 1 + t * torch.linalg.eigvalsh(_posterior_precision(twin)).max() - t
    exact_kernels = [kind for kind in KERNELS.values() if kind.is_reversible]
    for number, (kind, swaps) in enumerate(product(exact_kernels, (False, True))):
        name = f"{kind.__name__}{' with exchange' * swaps}"
        kernel = kind(1.2 * settings.latent_dim ** (-1 / 6) / curvature.sqrt())
        generator = stream(settings, 4 + number if number < 2 else 1000 + number)
        sampler = LadderSampler(t, kernel, KERNEL_CHAINS, swaps)
        at: Any = "base"
        if not names.KERNELS.is_own(kind.name):
            at = twin.sample_power_posterior(x, t, KERNEL_CHAINS, generator)
        state = sampler.start(twin, x, generator, at)
        sampler, state = sampler.adapt(twin, x, state, KERNEL_STEPS, generator)
        _, info, steps = sampler.trace(twin, x, state, KERNEL_STEPS, generator)
        trace = steps.log_likelihood
        if not trace.isfinite().all():
            raise RunError(f"Chains of {name} diverged on the twin; the exact kernel cannot.")
        means = trace.mean(-1).transpose(1, 2)
        bias, error = means.mean((0, 1)) - exact, monte_carlo_error(means)
        worst = int((bias / error).abs().argmax())
        ok = within_chance(bias / error, KERNEL_CHAINS * KERNEL_STEPS // 10)
        warnings += [caution.under(name) for caution in ladder_warnings(info, steps)]
        yield Row(
            f"{name}, mean log-likelihood on the worst of {NUM_RUNGS} rungs, t = {float(t[worst]):.3g}",
            info.num_evaluations,
            float(bias[worst]),
            float(error[worst]),
            float(means[..., worst].std()),
            float((means[..., worst] - exact[worst]).square().mean().sqrt()),
            0.0,
            ok,
            verdict(ok, ""),
        )


def _posterior_precision(twin: LinearGaussian) -> Tensor:
    identity = torch.eye(twin.latent_dim, dtype=torch.float64)
    return identity + (twin.weight.mT @ twin.weight).detach() / twin.noise_std**2


def ula_law(twin: LinearGaussian, x: Tensor, step_size: float, num_steps: int) -> tuple[Tensor, Tensor]:
    """Return the exact mean (B, d) and covariance (d, d) of ULA at t = 1 after steps from N(0, I).

    Along an eigenvector of the posterior precision with value a each step multiplies the distance to the posterior
    mean by c = 1 - h^2 a / 2 and adds variance h^2.
    """
    values, vectors = torch.linalg.eigh(_posterior_precision(twin))
    factor = (1 - step_size**2 * values / 2) ** num_steps
    stationary = 1 / (values * (1 - step_size**2 * values / 4))
    variance = factor.square() + (1 - factor.square()) * stationary
    mean = twin.power_posterior(x, 1.0).mean
    return mean @ (vectors * (1 - factor)) @ vectors.mT, (vectors * variance) @ vectors.mT


def _ula(twin: LinearGaussian, x: Tensor, settings: Settings) -> Row:
    """Run ULA from the base distribution, and compare with its own exact law after as many steps."""
    h = float(torch.linalg.eigvalsh(_posterior_precision(twin)).max() ** -0.5)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    generator = stream(settings, 3)
    sampler = LadderSampler(t, ULA(h), ULA_CHAINS)
    ladder, _ = sampler.run(twin, x, sampler.start(twin, x, generator), ULA_STEPS, generator)
    means = ladder.log_likelihood[-1].mean(-1)
    exact = float(twin.expected_log_likelihood(x, 1.0).detach().mean())
    mean, covariance = ula_law(twin, x, h, ULA_STEPS)
    spread = ((twin.weight.detach() @ covariance) * twin.weight.detach()).sum()
    at_mean = twin.log_likelihood(x, mean).detach().mean()
    law = float(at_mean - spread / (2 * twin.noise_std**2))
    error = float(means.std()) / math.sqrt(ULA_CHAINS)
    ok = within_chance((means.mean() - law) / error, ULA_CHAINS)
    return Row(
        f"ULA, h = {h:.3g}, mean log-likelihood at t = 1",
        ULA_STEPS + 1,
        float(means.mean()) - exact,
        error,
        float(means.std()),
        float((means - exact).square().mean().sqrt()),
        abs(law - exact),
        ok,
        verdict(ok, "own law met, biased by design" if abs(law - exact) > error else ""),
    )
