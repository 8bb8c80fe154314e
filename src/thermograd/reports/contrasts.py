"""A contrast and what became of it, as data: computed in `conclusions`, put into words in `words`."""

from dataclasses import dataclass
from typing import Literal

from thermograd.reports.statistics import Interval

Status = Literal["confirmed", "no difference found", "exploratory", "not measured"]


@dataclass(frozen=True)
class Contrast:
    """A difference a - b that was named before the first run."""

    name: str
    a: str
    b: str
    metric: str


@dataclass(frozen=True)
class ContrastResult:
    """What became of a contrast that was named beforehand.

    Attributes:
        contrast: a - b.
        status: "confirmed" at 5 % of all contrasts, "no difference found", "exploratory" for too few seeds.
        differences: seed -> a - b.
        interval: of the mean difference; None without a seed.
        p_value: of the sign-flip test of symmetry around 0, uncorrected.
        log_p_value: the same of differences of logarithms, for values that are all positive; NaN elsewhere.
        adjusted: after Holm's correction.
        detectable: the smallest difference that four of five such studies find.
        needed: seeds that confirmation takes.
        floor: difference of the placebo from vanilla, or None without a placebo.
        reason: why it is exploratory, in words; empty where it is not.
        sentence: all of this in words.
    """

    contrast: Contrast
    status: Status
    differences: dict[int, float]
    interval: Interval | None
    p_value: float
    log_p_value: float
    adjusted: float
    detectable: float
    needed: int
    floor: Interval | None
    reason: str = ""
    sentence: str = ""
