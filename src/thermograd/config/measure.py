"""What is measured of a run while it trains, and when: one clock for variance, samples and distances.

At each break everything is measured at one step, on the training and on the test images, by the same definition. None
of it changes a trained number, so none of it belongs to the identity of a run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from thermograd.config.fields import (
    EstimatorName,
    EvidenceMethodName,
    ExtractorName,
    KernelName,
    PositiveFloat,
    PositiveInt,
    PosteriorStart,
    PriorRuleName,
    Section,
)
from thermograd.errors import InputError

UNITS = ("epochs", "steps")
NUM_BREAKS = 5
"""Breaks of a run whose clock is `auto`, its end among them."""


def _read_every(value: Any) -> Any:
    """Return "N epochs" or "N steps", "auto" or None from what a user wrote.

    Raises:
        ValueError: it is none of these.
    """
    if value is None or value == "none":
        return None
    if value == "auto":
        return value
    words = str(value).split()
    unit = f"{words[-1].removesuffix('s')}s" if len(words) == 2 else ""
    if unit not in UNITS or not words[0].isascii() or not words[0].isdigit() or int(words[0]) < 1:
        raise ValueError(f"must be like '10 epochs' or '500 steps', auto or none, got {value!r}")
    return f"{int(words[0])} {unit}"


class MeasureConfig(Section):
    """What is measured at each break of training, and at its end; it changes no trained number."""

    every: Annotated[str | None, BeforeValidator(_read_every)] = Field(
        "auto", description="'10 epochs', '500 steps', auto (five times per run) or none (at the end only)"
    )
    keep: Literal["measured", "last"] = Field(
        "measured",
        description="which checkpoints are kept: the measured ones and the last ones, or the last ones only",
    )
    keep_gradient: bool = Field(False, description="store the gradient of the fixed batch itself")
    num_batches: Annotated[int, Field(ge=3, strict=True)] = Field(
        4,
        description="fresh batches per split for the variance of the gradient, beside a fixed one",
    )
    num_repeats: Annotated[int, Field(ge=2, strict=True)] = Field(2, description="gradients per batch")
    batch_size: PositiveInt | None = Field(
        None, description="images per batch; None for the batch size of training, or as many as the split has"
    )
    estimators: tuple[EstimatorName, ...] = Field(
        (), description="further estimators, at the same weights and batches as the run's own"
    )
    by_rung: bool = Field(
        False,
        description="measure the variance of each rung as well, which takes the memory of 2 K gradients",
    )
    chain_bias: bool = Field(
        False,
        description="measure the bias of the run's own chains on 64 fixed training images, against a reference of some "
        "15,000 generator evaluations per image",
    )
    num_images: PositiveInt = Field(32, description="images per split for reconstruction and energies")
    num_samples: PositiveInt = Field(
        1000, description="samples drawn at each measurement, for quick distances"
    )
    num_samples_at_the_end: PositiveInt | None = Field(
        None, description="samples drawn at the end; None for as many as before"
    )
    num_evidence: Annotated[int, Field(ge=0, strict=True)] = Field(
        0, description="test images whose log p(x) is estimated at the end"
    )
    extractor: ExtractorName = Field(
        "auto", description="feature network of the distances; auto takes a classifier where there are labels"
    )
    weights: Path | None = Field(
        None, description="file with the weights of the published Inception or EfficientNet"
    )
    variant: Literal["full", "quick"] = Field(
        "quick", description="how many images the distances at the end use; quick: 1,000"
    )
    prior: bool = Field(
        False,
        description="at the end, run the prior's chains further and split the distance into two parts",
    )

    @field_validator("weights")
    @classmethod
    def _make_absolute(cls, value: Path | None) -> Path | None:
        """Return the whole path, since workers may stand in other folders."""
        return None if value is None else value.expanduser().resolve()

    def steps(self, num_epochs: int, steps_per_epoch: int) -> list[int]:
        """Return the steps after which a run is measured; the last is its end.

        Args:
            num_epochs: of the run.
            steps_per_epoch: its steps per epoch.
        """
        end = num_epochs * steps_per_epoch
        if self.every is None:
            return [end]
        stride = max(1, round(num_epochs / NUM_BREAKS)) * steps_per_epoch
        if self.every != "auto":
            count, unit = self.every.split()
            stride = int(count) * (steps_per_epoch if unit == "epochs" else 1)
        return [*range(stride, end, stride), end]

    def check_clock(self, num_epochs: int, steps_per_epoch: int) -> None:
        """Refuse a clock that would not strike once before the end.

        Raises:
            InputError: it would not.
        """
        if self.every in (None, "auto") or len(self.steps(num_epochs, steps_per_epoch)) > 1:
            return
        raise InputError(
            f"`measure.every` {self.every} never comes in a run of {num_epochs} epochs of {steps_per_epoch} steps; "
            f"the end is measured in any case: use none, or less."
        )


class Changes(Section):
    """How an estimator is sampled where it differs from the run; None keeps the run's setting."""

    prior_rule: PriorRuleName | None = Field(
        None, description="estimator of the prior's gradient; None for the run's"
    )
    num_chains: PositiveInt | None = Field(
        None, description="chains per rung; None for the run's, or as few as the estimator needs"
    )
    num_rungs: Annotated[int, Field(ge=3, strict=True)] | None = Field(
        None,
        description="rungs of estimators that need a ladder; None for the run's, or 11 where it has none",
    )
    power: PositiveFloat | None = Field(
        None, description="power p of the schedule (k/N)^p; None for the run's schedule"
    )
    num_steps: PositiveInt | None = Field(
        None, description="steps of the posterior chains; None for the run's"
    )
    kernel: KernelName | None = Field(None, description="kernel of the posterior chains; None for the run's")
    start: PosteriorStart | None = Field(
        None,
        description="start of the posterior chains; None for the run's, or base where its stored chains do not fit",
    )
    batch_size: PositiveInt | None = Field(None, description="images per batch")


class EvidenceSettings(Section):
    """Method and cost of an estimate of log p(x)."""

    method: EvidenceMethodName = Field("laplace", description="how log p(x) is estimated")
    num_evaluations: Annotated[int, Field(ge=200, strict=True)] = Field(
        4000,
        description="generator evaluations with gradient per image, over all repeats, without the bank of draws",
    )
    num_replicates: Annotated[int, Field(ge=4, strict=True)] = Field(
        4, description="independent repeats per image; the interval comes from their spread"
    )
    num_bank: Annotated[int, Field(ge=400, strict=True)] | None = Field(
        None,
        description="prior draws that are decoded once for all images; None for 400 per image, at least 2,000 and at "
        "most 20,000",
    )
    num_rungs: Annotated[int, Field(ge=3, strict=True)] = Field(
        12, description="rungs of a ladder with both ends, for methods that visit the power posteriors"
    )
    chunk_size: PositiveInt = Field(
        2048, description="latents evaluated at once, at most, which bounds memory"
    )

    def bank_for(self, num_images: int) -> int:
        """Return how many draws the bank has for B images."""
        return self.num_bank or min(20_000, max(2_000, 400 * num_images))


@dataclass(frozen=True)
class ReferenceSettings:
    """Chains of the reference gradient.

    Attributes:
        num_rungs: K, on the schedule (k/N)^power.
        power: of the schedule.
        num_chains: independent ladders for each image, from whose spread the error comes.
        num_burn_in: steps in which step sizes adapt and chains forget their start.
        num_steps: steps after them.
        every: steps between the draws that are averaged.
        step_size: where MALA's step sizes begin; each rung of an image adapts its own.
        precondition: let each rung of an image learn a covariance of its proposals while burning in.
    """

    num_rungs: int = 12
    power: float = 5.0
    num_chains: int = 4
    num_burn_in: int = 100
    num_steps: int = 200
    every: int = 10
    step_size: float = 0.1
    precondition: bool = True

    def __post_init__(self) -> None:
        for name, least in (("num_rungs", 2), ("num_chains", 2), ("num_burn_in", 0), ("every", 1)):
            if getattr(self, name) < least:
                raise InputError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if self.num_steps < (least := max(4, 2 * self.every)):
            raise InputError(f"`num_steps` must be at least {least}, two draws apart, got {self.num_steps}.")

    @property
    def num_evaluations(self) -> int:
        """Return the generator evaluations of each image, near enough to plan with."""
        return self.num_chains * self.num_rungs * (self.num_burn_in + self.num_steps + 2)
