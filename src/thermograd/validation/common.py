"""What the validation of every part shares: settings, rows of tables, exact ladders, verdicts."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from thermograd.errors import Caution, InputError
from thermograd.ladders.ladder import Ladder
from thermograd.ladders.record import LadderTrace
from thermograd.models.linear_gaussian import LinearGaussian

NUM_RUNGS = 11


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
    """All tables, by name; and a caution for each reason to doubt them."""

    settings: Settings
    tables: dict[str, list[Row]]
    warnings: list[Caution] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failures(self) -> list[str]:
        """Return the rows whose check failed, as "table: row"."""
        return [f"{table}: {row.name}" for table, rows in self.tables.items() for row in rows if not row.ok]

    @property
    def num_checks(self) -> int:
        """Return the number of rows."""
        return sum(len(rows) for rows in self.tables.values())

    def record(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {**asdict(self), "failures": self.failures}


def make_twin(settings: Settings) -> LinearGaussian:
    """Return the twin at its true weights."""
    no_energy = torch.zeros(settings.latent_dim, dtype=torch.float64)
    return LinearGaussian.random(
        settings.latent_dim,
        settings.num_pixels,
        settings.noise_std,
        settings.weight_scale,
        settings.seed,
        energy_curvature=no_energy,
    )


def stream(settings: Settings, number: int) -> torch.Generator:
    """Return the random stream of one table or row."""
    return torch.Generator().manual_seed(1000 * settings.seed + number)


def exact_ladder(
    twin: LinearGaussian, x: Tensor, t: Tensor, num_chains: int, generator: torch.Generator
) -> Ladder:
    """Return a ladder of exact independent draws with their scores."""
    latents = twin.sample_power_posterior(x, t, num_chains, generator)
    state = twin.evaluate(x, latents)
    score = t.to(latents).view(-1, 1, 1, 1) * state.likelihood_score + state.prior_score
    return Ladder(t, latents, state.log_likelihood, state.energy, score=score)


def as_one_step(ladder: Ladder) -> LadderTrace:
    """Return independent draws as one step of M chains."""
    return LadderTrace(
        ladder.inverse_temperatures, ladder.log_likelihood.unsqueeze(0), ladder.energy.unsqueeze(0)
    )


def within_chance(scores: Tensor, num_draws: int) -> bool:
    """Return whether all |scores| stay below 4 sigma, with Bonferroni's limit and Student's tails.

    Args:
        scores: differences over their standard errors.
        num_draws: independent draws from which each standard error comes.
    """
    from scipy.stats import norm, t

    level = norm.sf(4.0) / scores.numel()
    return bool(scores.abs().max() < t.isf(level, num_draws - 1))


def verdict(ok: bool, known: str) -> str:
    """Return what a row says: failed, as it should be, or wrong by as much as is known."""
    if not ok:
        return "FAILED: more than 4 standard errors away"
    return f"ok: {known}" if known else "ok: within 4 standard errors"
