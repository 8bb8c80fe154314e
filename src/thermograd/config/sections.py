"""The groups of settings that say what is learnt, by which chains and by which gradient."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from thermograd.config import names
from thermograd.config.facts import EstimatorFacts, PriorRuleFacts
from thermograd.config.fields import (
    EnergyName,
    EstimatorName,
    GeneratorName,
    KernelName,
    Number,
    PositiveFloat,
    PositiveInt,
    PosteriorStart,
    PriorRuleName,
    PriorStart,
    ScheduleName,
    Section,
    Widths,
)


class DataConfig(Section):
    """What is learnt from."""

    name: str = Field(description="a name of `thermograd data list`, or any name for data given by path")
    path: Path | None = Field(
        None, description="a folder of images, or a .npy, .npz, idx or HDF5 file of your own"
    )
    range: tuple[Number, Number] | None = Field(
        None, description="pixel values of black and white in `path`; None to recognise them"
    )
    num_images: PositiveInt | None = Field(
        None, description="number of training images, the first ones; None for all"
    )
    binarise: Literal["none", "threshold", "dynamic"] = Field(
        "none", description="how pixels are made 0 or 1, for a Bernoulli likelihood"
    )
    threshold: Annotated[Number, Field(gt=0, lt=1)] = Field(
        0.5, description="grey level in [0, 1] above which a pixel is 1, for `threshold`"
    )

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError(f"`data.range` must rise, got {list(self.range)}")
        if self.range is not None and self.path is None:
            raise ValueError(
                f"`data.range` is for images given by `data.path`, got {list(self.range)} without one"
            )
        return self


class EnergyConfig(Section):
    """The energy network of the prior."""

    kind: EnergyName = Field(
        "dense",
        description="dense for fully connected layers, or FILE.py:CLASS, a torch.nn.Module in a plugin",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of a class in a plugin: CLASS(latent_dim, **options)"
    )
    hidden: Widths = Field((200, 200), description="widths of the hidden layers")
    activation: Literal["gelu", "leaky_relu", "silu"] = Field(
        "gelu", description="activation between the layers"
    )


class GeneratorConfig(Section):
    """The generator network."""

    kind: GeneratorName = Field(
        "conv",
        description="conv for convolutions, dense for fully connected layers, or FILE.py:CLASS, a torch.nn.Module in a "
        "plugin",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="options of a class in a plugin: CLASS(latent_dim, image_shape, **options)",
    )
    widths: Widths = Field(
        (64, 32, 16),
        description="channels (conv) or units (dense) of each layer, from the latents to the image",
    )


class ModelConfig(Section):
    """The latent energy-based prior model."""

    image_shape: tuple[Literal[1, 3], PositiveInt, PositiveInt] = Field(
        description="channels, height and width"
    )
    latent_dim: PositiveInt = Field(32, description="d, latent numbers per image")
    likelihood: Literal["gaussian", "bernoulli"] = Field(
        "gaussian", description="distribution of the pixels given the latents"
    )
    noise_std: PositiveFloat = Field(
        0.3, description="s, standard deviation of a Gaussian likelihood, for pixels in [-1, 1]"
    )
    base_std: PositiveFloat = Field(1.0, description="s0, standard deviation of the base distribution")
    energy: EnergyConfig = EnergyConfig()
    generator: GeneratorConfig = GeneratorConfig()


class PriorChainsConfig(Section):
    """Chains on the prior, shared by all images of a batch."""

    kernel: KernelName = Field(
        "ula", description="ula or mala: Langevin steps without or with a Metropolis test"
    )
    num_steps: PositiveInt = Field(60, description="steps of a chain per iteration")
    step_size: PositiveFloat = Field(0.4, description="h, at which a kernel that adapts begins")
    start: PriorStart = Field(
        "base", description="where chains begin; persistent chains go on from where they stood"
    )
    num_chains: PositiveInt | None = Field(
        None, description="M0, number of chains; None for one per posterior chain"
    )
    num_updates: PositiveInt = Field(
        1, description="steps of the energy per step of the generator, with the same posterior draws"
    )
    num_rungs: PositiveInt = Field(
        1, description="rungs of exp(-t E) p0, t from 0 to 1, that swap states; 1 for the prior alone"
    )
    num_sample_steps: PositiveInt | None = Field(
        None,
        description="steps from a stored chain to a sample, with persistent chains; None for `num_steps`",
    )

    @property
    def is_short_run(self) -> bool:
        """Return whether chains begin at the base each time: then the energy learns a sampler, not a density."""
        return not self.persists

    @property
    def persists(self) -> bool:
        """Return whether chains go on where they ended at their last visit."""
        return names.PRIOR_STARTS[self.start].persists


class PosteriorChainsConfig(Section):
    """Chains on the power posteriors of each image."""

    kernel: KernelName = Field(
        "ula", description="ula or mala: Langevin steps without or with a Metropolis test"
    )
    num_steps: PositiveInt = Field(20, description="steps of a chain per iteration")
    step_size: PositiveFloat = Field(0.1, description="h, at which a kernel that adapts begins")
    start: PosteriorStart = Field(
        "base", description="where chains begin; persistent chains go on from where they stood"
    )
    num_start_steps: PositiveInt = Field(
        1, description="steps on each rung of the annealed start; temperatures of the smc start"
    )
    exchange: bool = Field(False, description="let neighbouring rungs swap states")
    adaptation_gain: Annotated[Number, Field(ge=0)] = Field(
        0.05, description="gain by which step sizes follow the acceptance from iteration to iteration"
    )
    image_gain: Annotated[Number, Field(ge=0)] = Field(
        0.5,
        description="gain by which each image's factor on the step sizes follows its acceptance from visit to visit, "
        "for persistent chains; 0 for one step size per rung",
    )
    precondition: Literal["none", "secant"] = Field(
        "none",
        description="secant: persistent chains of MALA learn a covariance of proposals for each image and rung, from "
        "how the score changes along them, at no evaluation; it stores d^2 numbers for each",
    )
    antithetic: bool = Field(
        False,
        description="chains of an image in pairs with opposite noise, whose mean varies less where posteriors are "
        "near to symmetric; MALA alone",
    )
    restart_after: PositiveInt | None = Field(
        5, description="visits without a move after which a stored chain begins anew; None for never"
    )

    @property
    def persists(self) -> bool:
        """Return whether chains go on where they ended at their last visit."""
        return names.POSTERIOR_STARTS[self.start].persists

    @property
    def learns_covariance(self) -> bool:
        """Return whether stored chains learn a covariance of their proposals."""
        return self.precondition != "none"


class ScheduleConfig(Section):
    """Inverse temperatures of the rungs."""

    kind: ScheduleName = Field(
        "power", description="how the rungs are spaced; equal-length and equal-swap adapt"
    )
    power: PositiveFloat = Field(3.0, description="p of (k/N)^p, with which adapted schedules begin as well")
    smallest: Annotated[Number, Field(gt=0, lt=1)] = Field(
        1e-3, description="temperature of the first rung above 0, for geometric"
    )
    steepness: PositiveFloat = Field(6.0, description="steepness of the sigmoid")
    adapt_every: PositiveInt = Field(100, description="steps between updates of an adapted schedule")


class GradientConfig(Section):
    """The estimator of the learning gradient."""

    estimator: EstimatorName = Field(
        "maximum-likelihood", description="estimator of the generator's gradient"
    )
    prior_rule: PriorRuleName = Field("contrast", description="estimator of the prior's gradient")
    num_chains: PositiveInt = Field(
        1, description="M, chains per rung and image; by default as few as the estimator needs"
    )
    num_rungs: Annotated[int, Field(ge=2, strict=True)] = Field(
        11, description="K, rungs of the ladder with both ends"
    )
    schedule: ScheduleConfig = ScheduleConfig()
    noise_multiplier: Annotated[Number, Field(ge=0)] = Field(
        0.0, description="c of ĝ + c ε (ĝ_A - ĝ_B)/2, which has more variance and the same mean"
    )
    clean_second_moments: bool = Field(
        False, description="take Adam's second moments from the gradient without `noise_multiplier`"
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        """Fill in rungs and chains where they are not given, as the estimator and the prior rule need them."""
        if not isinstance(values, Mapping):
            return values
        estimator = names.ESTIMATORS.get(str(values.get("estimator", "maximum-likelihood")))
        if estimator is None:
            return values  # which is refused later, by name
        values = {"prior_rule": estimator.prior_rule, **values}
        rule = names.PRIOR_RULES.get(str(values["prior_rule"]))
        if rule is None:
            return values
        multiplier = values.get("noise_multiplier", 0)
        # A text such as "0" is true to Python; what is no number is refused later.
        noisy = isinstance(multiplier, int | float) and multiplier != 0
        num_rungs = max(estimator.default_rungs, rule.default_rungs)
        return {"num_rungs": num_rungs, "num_chains": fewest_chains(estimator, rule, noisy), **values}

    @property
    def is_known(self) -> bool:
        """Return whether this process knows the names: those of a run that is only read may be of a plugin."""
        tables = (names.ESTIMATORS, self.estimator), (names.PRIOR_RULES, self.prior_rule)
        return all(name in table for table, name in (*tables, (names.SCHEDULES, self.schedule.kind)))

    @property
    def needs_prior_rung(self) -> bool:
        """Return whether each image needs draws of its own at t = 0."""
        rules = names.ESTIMATORS[self.estimator], names.PRIOR_RULES[self.prior_rule]
        return any(rule.needs_prior_rung for rule in rules)

    @model_validator(mode="after")
    def _check(self) -> "GradientConfig":
        if not self.is_known:
            return self
        noisy = bool(self.noise_multiplier)
        estimator, rule = names.ESTIMATORS[self.estimator], names.PRIOR_RULES[self.prior_rule]
        needed, most = fewest_chains(estimator, rule, noisy), estimator.max_rungs
        if most is not None and self.num_rungs > most and not rule.needs_prior_rung:
            raise ValueError(
                f"`gradient.num_rungs` must be {'' if most == 2 else 'at most '}{most} for {self.estimator}, "
                f"got {self.num_rungs}"
            )
        if noisy and self.num_chains % 2:
            raise ValueError(
                f"`gradient.num_chains` must be even for a noise_multiplier, got {self.num_chains}"
            )
        if self.num_chains < needed:
            raise ValueError(
                f"`gradient.num_chains` must be at least {needed} for {self.estimator} with prior_rule "
                f"{self.prior_rule} and noise_multiplier {self.noise_multiplier:g}, got {self.num_chains}"
            )
        schedule = names.SCHEDULES[self.schedule.kind]
        for name, value, least in (
            ("num_chains", self.num_chains, schedule.min_chains),
            ("num_rungs", self.num_rungs, schedule.min_rungs),
        ):
            if value < least:
                raise ValueError(
                    f"`gradient.{name}` must be at least {least} for schedule {schedule.name}, got {value}"
                )
        return self


def fewest_chains(estimator: EstimatorFacts, rule: PriorRuleFacts, noisy: bool = False) -> int:
    """Return the fewest chains M: what the estimators need, and twice as many for two halves of them."""
    return max(estimator.min_chains, rule.min_chains) * (2 if noisy else 1)
