"""Schedules by the names that a config gives them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from thermograd.config import names
from thermograd.config.facts import ScheduleFacts
from thermograd.config.sections import ScheduleConfig
from thermograd.config.tables import Made, Table
from thermograd.errors import InputError
from thermograd.ladders.adapted import equal_length_schedule, equal_swap_schedule
from thermograd.ladders.schedules import (
    check_schedule,
    geometric_schedule,
    linear_schedule,
    power_schedule,
    sigmoid_schedule,
)


@dataclass(frozen=True)
class Schedule(ScheduleFacts):
    """The inverse temperatures of a run, with the facts of `ScheduleFacts`.

    Attributes:
        begin: from (K, settings of the schedule) to the temperatures (K,) with which a run begins.
        adapt: from temperatures (K,) and what the schedule follows, variances (K,) or swap rates (K - 1,), to the
            temperatures that take their place; None for a schedule that stays as it is.

    Raises:
        InputError: `follows` without `adapt`, or the other way round.

    Example:
        >>> def cubes(num_rungs, settings):
        ...     return torch.linspace(0, 1, num_rungs, dtype=torch.float64) ** 3
        >>> tg.Schedule("cubes", cubes).min_rungs
        2
    """

    table: ClassVar[Table[ScheduleFacts]] = names.SCHEDULES

    begin: Callable[[int, ScheduleConfig], Tensor]
    adapt: Callable[[Tensor, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if (self.follows is None) != (self.adapt is None):
            raise InputError(f"`adapt` and `follows` must be given together for schedule {self.name!r}.")


def _power(num_rungs: int, settings: ScheduleConfig) -> Tensor:
    return power_schedule(num_rungs, settings.power)


_BEGIN: dict[str, Callable[[int, ScheduleConfig], Tensor]] = {
    "power": _power,
    "linear": lambda num_rungs, settings: linear_schedule(num_rungs),
    "geometric": lambda num_rungs, settings: geometric_schedule(num_rungs, settings.smallest),
    "sigmoid": lambda num_rungs, settings: sigmoid_schedule(num_rungs, settings.steepness),
    "equal-length": _power,
    "equal-swap": _power,
}
_ADAPT = {"variances": equal_length_schedule, "swap-rates": equal_swap_schedule, None: None}
SCHEDULES = Made(
    names.SCHEDULES,
    {
        name: Schedule(
            begin=begin, adapt=_ADAPT[names.SCHEDULES[name].follows], **vars(names.SCHEDULES[name])
        )
        for name, begin in _BEGIN.items()
    },
)
"""Every schedule that a config can name."""


def make_schedule(settings: ScheduleConfig, num_rungs: int) -> Tensor:
    """Return the inverse temperatures (K,) with which a run begins, in float64.

    Raises:
        InputError: a schedule that does not rise from exactly 0 to exactly 1, or has another number of rungs.
    """
    t = SCHEDULES[settings.kind].begin(num_rungs, settings).double()
    check_schedule(t)
    if t.shape != (num_rungs,):
        raise InputError(
            f"`inverse_temperatures` of schedule {settings.kind} must have shape ({num_rungs},), got {tuple(t.shape)}."
        )
    return t
