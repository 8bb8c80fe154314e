"""One typed, frozen description of a run.

Everything that changes a number belongs to the config, so its hash is the run's identity. No number of a step depends
on how many steps follow it, so a run may go on for longer: its trajectory is its identity without its length.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import Field, ValidationInfo, model_validator

from thermograd.config import names
from thermograd.config.fields import (
    Fraction,
    Number,
    PositiveFloat,
    PositiveInt,
    Section,
)
from thermograd.config.measure import MeasureConfig
from thermograd.config.sections import (
    DataConfig,
    GradientConfig,
    ModelConfig,
    PosteriorChainsConfig,
    PriorChainsConfig,
)
from thermograd.config.start import StartConfig


class OptimiserConfig(Section):
    """Two optimisers, one for the prior and one for the generator."""

    kind: Literal["adam", "sgd"] = Field("adam", description="optimiser of both networks")
    prior_lr: PositiveFloat = Field(2e-5, description="learning rate of the energy")
    generator_lr: PositiveFloat = Field(1e-4, description="learning rate of the generator")
    betas: tuple[Fraction, Fraction] = Field(
        (0.5, 0.999), description="Adam's decay rates of its two moments"
    )
    decay: Annotated[Number, Field(gt=0, le=1)] = Field(
        0.998, description="factor on both learning rates per epoch"
    )
    clip_norm: PositiveFloat | None = Field(
        None, description="norm to which the gradient of each network is clipped; None for no clipping"
    )
    ema_decay: Annotated[Number, Field(gt=0, lt=1)] | None = Field(
        None,
        description="decay of an exponential moving average of the weights, which samples and evaluation use",
    )


class TrainingConfig(Section):
    """How long, and what is kept on the way."""

    CHANGES_NO_NUMBER: ClassVar[tuple[str, ...]] = (
        "log_every",
        "checkpoint_every",
        "num_checkpoints",
        "pictures_every",
        "zero_gradient_steps",
        "largest_latent",
    )
    """What is kept, and when a guard stops a run: they may change at any time."""
    num_epochs: PositiveInt = Field(20, description="passes over the training images")
    batch_size: PositiveInt = Field(100, description="images per batch")
    log_every: PositiveInt = Field(10, description="steps between records of metrics.jsonl")
    checkpoint_every: PositiveInt | None = Field(
        None, description="steps between checkpoints; None for one per epoch"
    )
    num_checkpoints: PositiveInt = Field(
        3, description="checkpoints kept at most, beside those that are measured"
    )
    pictures_every: PositiveInt = Field(1, description="epochs between sample grids")
    zero_gradient_steps: PositiveInt = Field(
        50, description="consecutive steps with an exactly zero gradient after which a run stops"
    )
    largest_latent: PositiveFloat = Field(
        1e3, description="mean length of latents above which chains count as exploded"
    )


class ComputeConfig(Section):
    """Where and how the numbers are made; threads and chunks change bits, so they belong to the run."""

    device: str = Field("auto", description="where the model is trained: auto, cpu, cuda or cuda:N")
    num_threads: Annotated[int, Field(ge=1, le=1024, strict=True)] | None = Field(
        None, description="CPU threads; None for all cores, and then their number is recorded"
    )
    chunk_size: PositiveInt | None = Field(
        1024, description="latents evaluated at once, at most, which bounds memory; None for no bound"
    )
    precision: Literal["float32", "bfloat16-mixed", "auto"] = Field(
        "float32",
        description="number format of the generator inside training's chains; auto takes bfloat16 where it is faster "
        "on this CPU",
    )


class LearningConfig(Section):
    """How a model learns: chains, gradient, optimiser and how long. Of a run, and of `fit` for a model in memory."""

    seed: Annotated[int, Field(ge=0, strict=True)] = Field(
        0, description="seed of the initial weights, the batches and every chain"
    )
    chain_stream: Annotated[int, Field(ge=0, strict=True)] = Field(
        0, description="another number gives other chains with the same weights, batches and seed (a placebo)"
    )
    prior_chains: PriorChainsConfig = PriorChainsConfig()
    posterior_chains: PosteriorChainsConfig = PosteriorChainsConfig()
    gradient: GradientConfig = GradientConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    training: TrainingConfig = TrainingConfig()
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="after")
    def _check_learning(self) -> "LearningConfig":
        if not self.gradient.is_known:
            return self
        if self.gradient.noise_multiplier and self.optimiser.clip_norm is not None:
            raise ValueError(
                "`optimiser.clip_norm` must be null with a noise_multiplier, whose mean clipping would move, "
                f"got {self.optimiser.clip_norm}"
            )
        if self.gradient.clean_second_moments and self.optimiser.kind != "adam":
            raise ValueError("`gradient.clean_second_moments` needs optimiser.kind adam, got sgd")
        chains = self.posterior_chains
        takes_covariance = names.KERNELS[chains.kernel].takes_covariance
        if chains.learns_covariance and not (takes_covariance and chains.persists):
            able = " or ".join(facts.name for facts in names.KERNELS.values() if facts.takes_covariance)
            raise ValueError(
                f"`posterior_chains.precondition` {chains.precondition} needs kernel {able} and start persistent, got "
                f"{chains.kernel} and {chains.start}"
            )
        if chains.antithetic and not names.KERNELS[chains.kernel].pairs:
            raise ValueError(f"`posterior_chains.antithetic` needs kernel mala, got {chains.kernel}")
        if chains.antithetic and (self.gradient.num_chains % 2 or self.gradient.noise_multiplier):
            raise ValueError(
                f"`posterior_chains.antithetic` needs an even number of chains and no noise_multiplier, "
                f"got {self.gradient.num_chains} and {self.gradient.noise_multiplier:g}"
            )
        if names.POSTERIOR_STARTS[chains.start].carries and self.gradient.num_rungs > 2:
            raise ValueError(
                f"`posterior_chains.start` {chains.start} places chains at t = 1 alone: `gradient.num_rungs` must be "
                f"2, got {self.gradient.num_rungs}"
            )
        if self.posterior_chains.exchange and self.gradient.num_rungs == 2:
            raise ValueError("`posterior_chains.exchange` needs a ladder of more than 2 rungs, got 2")
        schedule = names.SCHEDULES[self.gradient.schedule.kind]
        estimator = names.ESTIMATORS[self.gradient.estimator]
        rule = names.PRIOR_RULES[self.gradient.prior_rule]
        scores = estimator.uses_scores or rule.uses_scores
        for word, needed in (
            (f"schedule {schedule.name}", schedule.needs_exchange),
            (f"estimator {estimator.name}", estimator.needs_exchange),
            ("scores at t = 0, which dealt draws lack", scores and self.gradient.needs_prior_rung),
        ):
            if needed and not self.posterior_chains.exchange:
                raise ValueError(f"`posterior_chains.exchange` must be true for {word}, got false")
        if self.gradient.noise_multiplier and (self.prior_chains.num_chains or 2) % 2:
            raise ValueError(
                f"`prior_chains.num_chains` must be even for a noise_multiplier, got {self.prior_chains.num_chains}"
            )
        dealt = self.gradient.num_chains * self.training.batch_size
        prior = self.prior_chains
        if prior.num_updates > 1 and not rule.allows_updates:
            raise ValueError(
                f"`prior_chains.num_updates` must be 1 for prior rule {rule.name}, got {prior.num_updates}"
            )
        if prior.num_rungs > 1 and prior.is_short_run:
            raise ValueError(
                f"`prior_chains.num_rungs` must be 1 unless chains are persistent, got {prior.num_rungs}"
            )
        if self.gradient.needs_prior_rung and self.prior_chains.num_chains not in (None, dealt):
            raise ValueError(
                f"`prior_chains.num_chains` must be null or {dealt}, one per chain and image, with a ladder, "
                f"got {self.prior_chains.num_chains}"
            )
        return self


class PluginFile(Section):
    """A file, or a folder with `__init__.py`, of the user's that brings algorithms or networks."""

    file: Path = Field(description="where it lay when the run began; the run folder holds a copy")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    def __eq__(self, other: object) -> bool:
        """Return whether name and content are the same, wherever the files lie."""
        return isinstance(other, PluginFile) and self._key() == other._key()

    def __hash__(self) -> int:
        """Return a hash of name and content."""
        return hash(self._key())

    def _key(self) -> tuple[str, str]:
        return self.file.name, self.sha256


class RunConfig(LearningConfig):
    """Everything that defines a run."""

    preset: str = Field(description="preset that the settings start from")
    plugins: tuple[PluginFile, ...] = Field(
        (), description="files or folders that bring algorithms or networks of your own"
    )
    start_from: StartConfig | None = Field(
        None, description="RUN or RUN@CHECKPOINT, a run folder whose weights training begins with"
    )
    data: DataConfig
    model: ModelConfig
    measure: MeasureConfig = MeasureConfig()

    @model_validator(mode="after")
    def _check(self) -> "RunConfig":
        if self.model.likelihood == "bernoulli" and self.data.binarise == "none":
            raise ValueError(
                "`data.binarise` must be threshold or dynamic for a Bernoulli likelihood, got none"
            )
        if self.model.likelihood == "gaussian" and self.data.binarise != "none":
            raise ValueError(
                f"`data.binarise` must be none for a Gaussian likelihood, got {self.data.binarise}"
            )
        return self

    @model_validator(mode="after")
    def _check_plugins(self, info: ValidationInfo) -> "RunConfig":
        """Check that every name which a plugin brought comes from a plugin of this run."""
        if (info.context or {}).get("checked_before"):
            return self
        own = {plugin.sha256 for plugin in self.plugins}
        for field, table, name in self.names_used():
            if table.origin(name) and table.origin(name) not in own:
                raise ValueError(f"`{field}` {name!r} comes from a plugin that `plugins` does not name")
        for group, section, table in (
            ("generator", self.model.generator, names.GENERATORS),
            ("energy", self.model.energy, names.ENERGIES),
        ):
            if section.options and table.is_own(section.kind):
                raise ValueError(
                    f"`model.{group}.options` is for networks of plugins, got kind {section.kind}"
                )
        return self

    def names_used(self) -> tuple[tuple[str, names.Table[Any], str], ...]:
        """Return the setting, the table and the name of everything that a plugin may bring."""
        return (
            ("gradient.estimator", names.ESTIMATORS, self.gradient.estimator),
            ("gradient.prior_rule", names.PRIOR_RULES, self.gradient.prior_rule),
            ("gradient.schedule.kind", names.SCHEDULES, self.gradient.schedule.kind),
            ("prior_chains.kernel", names.KERNELS, self.prior_chains.kernel),
            ("posterior_chains.kernel", names.KERNELS, self.posterior_chains.kernel),
            ("model.generator.kind", names.GENERATORS, self.model.generator.kind),
            ("model.energy.kind", names.ENERGIES, self.model.energy.kind),
            *(("measure.estimators", names.ESTIMATORS, name) for name in self.measure.estimators),
        )

    def with_plugins_used(self) -> "RunConfig":
        """Return the config without the plugins that bring nothing it names."""
        used = {table.origin(name) for _, table, name in self.names_used()}
        return self.model_copy(update={"plugins": tuple(p for p in self.plugins if p.sha256 in used)})

    def comparable(self) -> dict[str, Any]:
        """Return plain data in which plugins and weights to begin with are their sha256, wherever the files lie."""
        values = self.model_dump(mode="json")
        start = None if self.start_from is None else self.start_from.sha256
        plugins = {plugin.file.name: plugin.sha256 for plugin in self.plugins}
        return values | {"plugins": plugins, "start_from": start}

    def trained(self) -> dict[str, Any]:
        """Return the plain data that decides every number of training: all but what is measured and what is kept."""
        values = self.comparable()
        del values["measure"]
        for name in TrainingConfig.CHANGES_NO_NUMBER:
            del values["training"][name]
        return values

    @property
    def identity(self) -> str:
        """Return the first 12 hex digits of the sha256 of all that changes a trained number at the end."""
        return _hash(self.trained())

    @property
    def trajectory(self) -> str:
        """Return the same without `training.num_epochs`: runs that share it have the same bytes as far as both go."""
        values = self.trained()
        del values["training"]["num_epochs"]
        return _hash(values)

    def to_yaml(self) -> str:
        """Return the config as YAML: what the run is first, how it learns after it."""
        values = self.model_dump(mode="json")
        names_first = ("preset", "plugins", "start_from", "seed", "chain_stream", "data", "model")
        first = {name: values.pop(name) for name in names_first}
        return yaml.safe_dump(first | values, sort_keys=False)


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def evaluations_per_image(config: LearningConfig) -> int:
    """Return the generator evaluations of a training step's chains, for each image of the batch.

    M (S_0 + S R + D) with M chains, S steps on each of R rungs that run chains, S_0 evaluations to begin
    (R, or 1 + R per step of the annealed start) and D = 1 where draws of the prior are dealt out to the
    images. The smc start adds P (2 + T) + N / B: P particles at T temperatures, and a bank of N draws for B images.
    It is what `LadderInfo.num_evaluations` counts; the backward pass over the ladder is not in it.
    """
    gradient, chains = config.gradient, config.posterior_chains
    dealt = int(gradient.needs_prior_rung and not chains.exchange)
    num_rungs = gradient.num_rungs - (dealt or not gradient.needs_prior_rung)
    start = names.POSTERIOR_STARTS[chains.start]
    begin = 1 + num_rungs * chains.num_start_steps if start.climbs else num_rungs
    total = gradient.num_chains * (begin + num_rungs * chains.num_steps + dealt)
    if not start.carries:
        return total
    num_images = config.training.batch_size
    bank = -(-(config.prior_chains.num_chains or gradient.num_chains * num_images) // num_images)
    return total + max(names.SMALLEST_CLOUD, gradient.num_chains) * (2 + chains.num_start_steps) + bank
