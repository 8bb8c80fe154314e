r"""Whether a prior is the density that its energy says, or a sampler that stops on the way there.

A density has the same mean energy however long its chains run on, and at stationarity the gradient of the prior is at
rest: E_1[E] - E_0[E] near 0. An energy that was learnt by short chains matches at their number of steps alone; its
stationary distribution, which log p(x) and log Z_a are about, is another one.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from thermograd.errors import InputError
from thermograd.ladders.diagnostics import effective_sample_size, r_hat
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.kernel import adapted_step_size
from thermograd.samplers.mala import MALA
from thermograd.samplers.prior import PriorSource, sample_prior
from thermograd.streams import stream

NUM_STEPS = (40, 200, 1000)
"""Steps at which chains are looked at."""

NUM_PILOT_STEPS = 60
TOLERANCE = 1.0
"""Nats by which mean energies may differ in a prior that has settled."""

Verdict = Literal["settled", "short-run", "not-settled"]


@dataclass(frozen=True)
class Mark:
    """The prior's chains after a number of steps: mean energy with its standard error, in nats."""

    num_steps: int
    energy: float
    standard_error: float


@dataclass(frozen=True)
class PriorConvergence:
    """The prior's chains run on by MALA from where a sample of the run begins.

    Attributes:
        marks: at each number of steps.
        latents: (N, d) at each mark.
        energy_posterior: mean energy of posterior draws, E_1[E], or None where none were given.
        contrast: E_1[E] - E_0[E] with E_0 at the last mark.
        contrast_error: its standard error.
        r_hat: of the energy, between the first mark and the last.
        effective_sample_size: of the mean energy, between the first mark and the last.
        verdict: "settled": the largest difference of mean energies between marks and the contrast are below
            `TOLERANCE`, or twice their standard error where that is more. If not: "short-run" where the run's chains
            begin at the base distribution, "not-settled" where they persist.
    """

    marks: tuple[Mark, ...]
    latents: tuple[Tensor, ...]
    energy_posterior: float | None
    contrast: float | None
    contrast_error: float | None
    r_hat: float
    effective_sample_size: float
    verdict: Verdict

    def record(self) -> dict[str, Any]:
        """Return all but the latents, as JSON holds it."""
        values = {name: value for name, value in vars(self).items() if name != "latents"}
        return values | {"marks": [asdict(mark) for mark in self.marks]}


def follow_prior(
    model: LatentModel,
    source: PriorSource,
    posterior_latents: Tensor | None,
    seed: int,
    *,
    num_chains: int = 1000,
    num_steps: tuple[int, ...] = NUM_STEPS,
) -> PriorConvergence:
    """Run the prior's chains on and look at their energy on the way.

    Chains begin where samples of the run begin, at its stored chains or at the base distribution; step sizes adapt in a
    pilot and are frozen.

    Args:
        model: the model.
        source: the run's prior chains.
        posterior_latents: (N1, d), posterior draws of training images, for the contrast; None or one for none.
        seed: of the stream "prior-convergence".
        num_chains: N, at least 2.
        num_steps: marks, rising.

    Raises:
        InputError: marks that do not rise, or too few of them.
    """
    if len(num_steps) < 2 or any(b - a < 4 for a, b in zip((-4, *num_steps), num_steps, strict=False)):
        raise InputError(f"`num_steps` must rise by at least 4 over 2 marks or more, got {list(num_steps)}.")
    generator = stream(seed, "prior-convergence", 0, next(model.parameters()).device)
    z = source.start(model, num_chains, generator)
    kernel = _pilot(model, source, z, generator)
    marks, latents, traces, done = [], [], [], 0
    for mark in num_steps:
        draws = sample_prior(model, kernel, mark - done, z, generator)
        z, done = draws.chains, mark
        marks.append(Mark(mark, float(draws.energy.mean()), _error(draws.energy)))
        latents.append(draws.latents)
        traces.append(draws.energy_trace)
    trace = torch.cat([each for each in traces[1:] if each is not None])
    contrast = contrast_error = energy_posterior = None
    if posterior_latents is not None and len(posterior_latents) > 1:
        with torch.no_grad():
            energy = model.energy(posterior_latents)
        energy_posterior = float(energy.mean())
        contrast = energy_posterior - marks[-1].energy
        contrast_error = (_error(energy) ** 2 + marks[-1].standard_error ** 2) ** 0.5
    settled = _is_settled(marks, contrast, contrast_error)
    unsettled: Verdict = "short-run" if source.settings.is_short_run else "not-settled"
    return PriorConvergence(
        tuple(marks),
        tuple(latents),
        energy_posterior,
        contrast,
        contrast_error,
        float(r_hat(trace)),
        float(effective_sample_size(trace)),
        "settled" if settled else unsettled,
    )


def _pilot(model: LatentModel, source: PriorSource, z: Tensor, generator: torch.Generator) -> MALA:
    """Return MALA with step sizes that suit chains which begin at z."""
    h, target = source.step_size.to(z), MALA(1.0).target_acceptance
    for _ in range(NUM_PILOT_STEPS):
        draws = sample_prior(model, MALA(h), 1, z, generator)
        z, h = draws.chains, adapted_step_size(h, draws.acceptance, target, 0.1)
    return MALA(h)


def _error(values: Tensor) -> float:
    return float(values.std() / len(values) ** 0.5)


def _is_settled(marks: list[Mark], contrast: float | None, contrast_error: float | None) -> bool:
    low, high = min(marks, key=lambda mark: mark.energy), max(marks, key=lambda mark: mark.energy)
    differences = [(high.energy - low.energy, (low.standard_error**2 + high.standard_error**2) ** 0.5)]
    if contrast is not None and contrast_error is not None:
        differences.append((abs(contrast), contrast_error))
    return all(difference <= max(TOLERANCE, 2 * error) for difference, error in differences)
