"""The arms that come ready, and what a config costs in generator evaluations."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from thermograd.config import names
from thermograd.study.file import READY, ArmConfig, StudyFile

DEFAULTS: dict[str, Any] = {"compute.num_threads": 1}
"""Of every study: threads change bits, and a run must not depend on how many others run beside it."""


class ArmKind(NamedTuple):
    """What a report must know of an arm: the kind that came ready, or None, and its cell of the grid."""

    ready: str | None
    cell: dict[str, Any] = {}  # noqa: RUF012 (read only)


@dataclass(frozen=True)
class Arm:
    """One arm in one cell of the grid.

    Attributes:
        name: as in the file, with its parameter and cell, e.g. "complete-p3[model.latent_dim=16]".
        cell: settings of its cell of the grid, by dotted name.
        ready: the kind of arm that came ready, or None.
        overrides: dotted settings on top of the preset.
        to: for vanilla-matched, the arm whose cost it spends.
        seeds: of its runs.
    """

    name: str
    cell: dict[str, Any]
    ready: str | None
    overrides: dict[str, Any]
    to: str | None = None
    seeds: tuple[int, ...] = ()

    @property
    def is_matched(self) -> bool:
        """Return whether its chains are as many as the cost of another arm pays for."""
        return self.ready is not None and "to" in READY[self.ready].parameters


def expand_arms(study: StudyFile) -> list[Arm]:
    """Return every arm of a study in every cell, in the order of the file."""
    base = DEFAULTS | flatten(study.overrides)
    if study.plugins:
        base["plugins"] = [plugin.model_dump(mode="json") for plugin in study.plugins]
    return [
        Arm(
            f"{name}{suffix}{cell_name(settings)}",
            settings,
            arm.ready,
            base | ready | flatten(arm.overrides) | settings,
            arm.to,
            arm.seeds or study.seeds,
        )
        for outer in _cells(study.grid)
        for name, arm in study.arms.items()
        for suffix, ready in ready_settings(arm)
        for inner in _cells(arm.grid)
        for settings in [outer | inner]
    ]


def ready_settings(arm: ArmConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (suffix of the name, dotted settings) for each value of the parameter of an arm that comes ready."""
    if arm.ready is None:
        yield "", {}
        return
    estimator = names.ESTIMATORS[READY[arm.ready].estimator]
    settings: dict[str, Any] = {
        "gradient.estimator": estimator.name,
        "gradient.num_chains": arm.num_chains or estimator.min_chains,
    }
    if estimator.needs_prior_rung:
        if arm.num_rungs is not None:
            settings["gradient.num_rungs"] = arm.num_rungs
        if arm.powers is None:
            yield "", settings
        for power in arm.powers or ():
            schedule = {"gradient.schedule.kind": "power", "gradient.schedule.power": power}
            yield f"-p{power:g}", settings | schedule
    elif arm.multipliers is not None:
        # Two halves of the chains make the noise; c = 0 has the same chains and none.
        settings["gradient.num_chains"] = arm.num_chains or 2 * estimator.min_chains
        for c in arm.multipliers:
            yield f"-c{c:g}", settings | {"gradient.noise_multiplier": c}
    elif "streams" in arm.parameters:
        for number in arm.streams or (1,):
            yield "" if arm.streams is None else f"-s{number}", settings | {"chain_stream": number}
    else:
        yield "", settings


def _cells(grid: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def cell_name(settings: Mapping[str, Any]) -> str:
    """Return how the name of an arm tells its cell, "" without one."""
    if not settings:
        return ""
    words = (f"{name}={str(value).replace(' ', '')}" for name, value in settings.items())
    return f"[{','.join(words)}]"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested settings into dotted ones: {"a": {"b": 1}} into {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        dotted = f"{prefix}{name}"
        # An empty group stays, so that one that is not known is refused.
        flat |= flatten(value, f"{dotted}.") if isinstance(value, Mapping) and value else {dotted: value}
    return flat
