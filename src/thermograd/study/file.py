"""The study file: what is compared, on what, and what is measured; typed, frozen and checked before anything runs.

name: quick
preset: digits
overrides: {training.num_epochs: 6}
seeds: 2
arms:
  vanilla: {ready: vanilla}
  complete: {ready: complete, powers: [1, 3]}
  slower: {optimiser.generator_lr: 1.0e-4}
contrasts:
  - {name: likelihood, a: complete-p3, b: vanilla, metric: log_evidence}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from thermograd.config.fields import Named, Number, PositiveFloat, PositiveInt, Section
from thermograd.config.measure import MeasureConfig
from thermograd.config.names import EXTRACTORS, preset_names
from thermograd.config.plugins import load_plugins, with_whole_paths
from thermograd.config.resolve import validate
from thermograd.config.schema import PluginFile, RunConfig
from thermograd.config.tables import Facts, Table
from thermograd.errors import InputError, nearest, shown
from thermograd.files import read_yaml


@dataclass(frozen=True)
class ReadyArm(Facts):
    """An arm that comes ready.

    Attributes:
        estimator: of its gradient.
        parameters: the settings of `ArmConfig` that belong to it.
    """

    estimator: str
    parameters: tuple[str, ...]


READY = Table(
    "arm",
    (
        ReadyArm("vanilla", "maximum-likelihood", ("num_chains",)),
        ReadyArm("vanilla-matched", "maximum-likelihood", ("to",)),
        ReadyArm("detached", "thermodynamic-detached", ("powers", "num_rungs", "num_chains")),
        ReadyArm("complete", "thermodynamic-complete", ("powers", "num_rungs", "num_chains")),
        ReadyArm("noise-dial", "maximum-likelihood", ("multipliers", "num_chains")),
        ReadyArm("placebo", "maximum-likelihood", ("streams", "num_chains")),
    ),
)
"""The arms that come ready."""
MAX_CONTRASTS = 3
"""Confirmatory contrasts of a study: with eight seeds and Holm's correction no more than three can be shown."""

VALUES = (
    "reconstruction_mean_square_error",
    "log_likelihood_at_posterior_draws",
    "energy_posterior",
    "energy_prior",
    "log_evidence",
    "distance_to_nearest_training_image_samples",
)
"""What every evaluation measures, and so what a contrast may compare."""


def check_name(name: str) -> str:
    """Return a name of an arm or a contrast: any text of one line that a terminal can show.

    Raises:
        ValueError: it is not.
    """
    if not name.strip() or len(name) > 200 or not name.isprintable():
        raise ValueError(
            f"must be 1 to 200 characters that can be shown on one line, got {shown(name)[:200]!r}"
        )
    return name


Name = Annotated[str, AfterValidator(check_name)]


class ContrastConfig(Section):
    """A difference a - b that is named before the first run, over paired seeds on the test set at the end."""

    name: Name
    a: str = Field(description="an arm")
    b: str = Field(description="an arm")
    metric: str = Field(
        description="a column of the table, e.g. log_evidence or distance:kd-classifier-mnist"
    )


class ArmConfig(Section):
    """An arm: one that comes ready, with its parameters, or settings of your own; both can have a grid."""

    ready: Annotated[str, AfterValidator(Named(READY))] | None = None
    powers: tuple[PositiveFloat, ...] | None = Field(None, description="p, of detached and complete")
    multipliers: tuple[Annotated[Number, Field(ge=0)], ...] | None = Field(
        None, description="c, of the noise dial"
    )
    streams: tuple[PositiveInt, ...] | None = Field(None, description="chain streams of the placebo")
    num_rungs: Annotated[int, Field(ge=2, strict=True)] | None = None
    num_chains: PositiveInt | None = None
    seeds: tuple[Annotated[int, Field(ge=0, strict=True)], ...] | None = Field(
        None, description="some of the study's seeds, for an arm that costs much; None for all"
    )
    to: str | None = Field(None, description="arm whose generator evaluations vanilla-matched spends")
    overrides: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_overrides(cls, values: Any) -> Any:
        """Take dotted names and groups of a run's settings for overrides."""
        if not isinstance(values, Mapping):
            return values
        own = {name: value for name, value in values.items() if name in cls.model_fields}
        overrides = dict(own.get("overrides") or {})
        groups = list(RunConfig.model_fields)
        for name, value in values.items():
            if name in own:
                continue
            if str(name).split(".")[0] not in groups:
                raise ValueError(f"has no setting {name!r}{nearest(str(name), [*cls.model_fields, *groups])}")
            overrides[str(name)] = value
        return {**own, "overrides": overrides}

    @field_validator("powers", "multipliers", "streams", "seeds")
    @classmethod
    def _check_values(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if values is not None and (not values or len(set(values)) < len(values)):
            raise ValueError(f"must hold different values, at least one, got {list(values)}")
        return values

    @property
    def parameters(self) -> tuple[str, ...]:
        """Return the settings that belong to the arm as it comes ready."""
        return () if self.ready is None else READY[self.ready].parameters

    @model_validator(mode="after")
    def _check(self) -> "ArmConfig":
        for name in sorted({name for arm in READY.values() for name in arm.parameters}):
            arms = [arm.name for arm in READY.values() if name in arm.parameters]
            if getattr(self, name) is not None and self.ready not in arms:
                raise ValueError(
                    f"has {name!r}, which belongs to ready: {' | '.join(arms)}, got {self.ready}"
                )
        if "multipliers" in self.parameters and self.multipliers is None:
            raise ValueError(f"needs `multipliers` for ready: {self.ready}")
        return self


class StudyFile(Section):
    """A whole study."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    preset: str
    plugins: tuple[PluginFile, ...] = Field(
        (), description="files that bring algorithms or networks of your own, for all arms"
    )
    overrides: dict[str, Any] = Field(default_factory=dict, description="of every arm, nested or dotted")
    arms: dict[Name, ArmConfig] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0, strict=True)], ...] = Field(description="a count, or a list")
    grid: dict[str, tuple[Any, ...]] = Field(
        default_factory=dict, description="setting -> values; every arm is run in every cell"
    )
    equal: Literal["epochs", "evaluations"] = "epochs"
    measure: MeasureConfig = MeasureConfig()
    contrasts: tuple[ContrastConfig, ...] = ()

    @field_validator("preset")
    @classmethod
    def _check_preset(cls, value: str) -> str:
        if value not in preset_names():
            raise ValueError(f"{value!r} is not known{nearest(value, preset_names())}")
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_seeds(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 1:
                raise ValueError(f"must be at least 1, got {value}")
            return tuple(range(value))
        return value

    @model_validator(mode="after")
    def _check(self) -> "StudyFile":
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds` must be different, at least one, got {list(self.seeds)}")
        for place, grid in [("grid", self.grid), *((f"arms.{n}.grid", a.grid) for n, a in self.arms.items())]:
            for name, values in grid.items():
                if not values:
                    raise ValueError(f"`{place}.{name}` must hold at least one value, got []")
        for name, arm in self.arms.items():
            if unknown := [seed for seed in arm.seeds or () if seed not in self.seeds]:
                raise ValueError(
                    f"`arms.{name}.seeds` must be some of the study's, {list(self.seeds)}, got {unknown[0]}"
                )
        if len(self.contrasts) > MAX_CONTRASTS:
            raise ValueError(
                f"`contrasts` must be at most {MAX_CONTRASTS}, so that each can be confirmed, "
                f"got {len(self.contrasts)}"
            )
        names = [contrast.name for contrast in self.contrasts]
        if len(set(names)) < len(names):
            raise ValueError(f"`contrasts` must have different names, got {names}")
        for contrast in self.contrasts:
            self._check_contrast(contrast)
        return self

    def _check_contrast(self, contrast: ContrastConfig) -> None:
        place = f"contrasts.{contrast.name}"
        if contrast.a == contrast.b:
            raise ValueError(f"`{place}` must compare two arms, got {contrast.a!r} twice")
        if contrast.metric.startswith("distance:"):
            if not EXTRACTORS[self.measure.extractor].measures:
                raise ValueError(
                    f"`{place}.metric` {contrast.metric!r} needs measure.extractor other than none"
                )
        elif contrast.metric not in VALUES:
            known = [*VALUES, "distance:kd-NETWORK", "distance:fd-NETWORK"]
            raise ValueError(
                f"`{place}.metric` {contrast.metric!r} is not known{nearest(contrast.metric, known)}"
            )
        if contrast.metric == "log_evidence" and not self.measure.num_evidence:
            raise ValueError(f"`{place}.metric` 'log_evidence' needs measure.num_evidence above 0, got 0")


def read_study_file(file: Path) -> StudyFile:
    """Read and check a study file, or one that comes with the package, by its name.

    Raises:
        InputError: one line that names each field and value at fault.
    """
    if not file.is_file() and file.suffix == "" and file.name in ready_studies() and file.parent == Path("."):
        file = _studies_folder() / f"{file.name}.yaml"
    return parse_study(read_yaml(file, "study"), file.parent)


def parse_study(
    values: Mapping[str, Any], folder: Path | None = None, *, checked_before: bool = False
) -> StudyFile:
    """Check nested dictionaries, load the plugins that they name, and return the study.

    Args:
        values: nested settings.
        folder: where relative paths of plugins begin; None for where the process stands.
        checked_before: of a study folder that is only read: load no plugin, and take names on trust.

    Raises:
        InputError: one line that names each field and value at fault.
    """
    if not checked_before:
        values = load_plugins(with_whole_paths(values, folder or Path.cwd()))
    return validate(StudyFile, values, checked_before=checked_before)


def ready_text(name: str) -> str:
    """Return the text of a study file that comes with the package, with its comments.

    Raises:
        InputError: an unknown name; the message gives the nearest one.
    """
    if name not in ready_studies():
        raise InputError(f"`name` {name!r} is not a ready study{nearest(name, ready_studies())}")
    return (_studies_folder() / f"{name}.yaml").read_text()


def ready_studies() -> list[str]:
    """Return the names of the study files that come with the package."""
    return sorted(entry.stem for entry in _studies_folder().glob("*.yaml"))


def _studies_folder() -> Path:
    return Path(__file__).parent / "ready"
