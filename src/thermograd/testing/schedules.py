"""The contract of schedules."""

import torch

from thermograd.config.sections import ScheduleConfig
from thermograd.errors import InputError
from thermograd.ladders.named import Schedule
from thermograd.ladders.schedules import check_schedule as check_rising
from thermograd.testing.expecting import expect


def check_schedule(schedule: Schedule) -> None:
    """Hold a schedule to the contract: it rises from exactly 0 to exactly 1, with as many rungs as asked for.

    Raises:
        AssertionError: a part of the contract does not hold; the sentence says which.
    """
    for num_rungs in (schedule.min_rungs, 5, 11, 30):
        if num_rungs < schedule.min_rungs:
            continue
        t = schedule.begin(num_rungs, ScheduleConfig())
        expect(
            tuple(t.shape) == (num_rungs,),
            f"{schedule.name}: `begin` must return ({num_rungs},) for {num_rungs} rungs, got {tuple(t.shape)}",
        )
        _expect_rising(schedule, t, "begin")
        if schedule.adapt is None:
            continue
        generator = torch.Generator().manual_seed(num_rungs)
        count = num_rungs if schedule.follows == "variances" else num_rungs - 1
        measured = torch.rand(count, generator=generator, dtype=torch.float64) * 0.9 + 0.05
        adapted = schedule.adapt(t, measured)
        expect(
            adapted.shape == t.shape,
            f"{schedule.name}: `adapt` must keep the number of rungs, {num_rungs}, got {len(adapted)}",
        )
        _expect_rising(schedule, adapted, "adapt")


def _expect_rising(schedule: Schedule, t: torch.Tensor, verb: str) -> None:
    try:
        check_rising(t)
    except InputError as error:
        raise AssertionError(f"{schedule.name}: `{verb}` must return a schedule: {error}") from None
