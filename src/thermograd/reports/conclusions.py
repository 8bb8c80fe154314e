"""From the table of a study to sentences with numbers.

Contrasts that were named beforehand, with enough seeds, are confirmatory: sign-flip tests, Holm's correction, 5 % for
all of them together. The association of distance and variance is exploratory and is called found at 1 %, so that of
studies in which there is nothing to find, at most about one in seventeen claims anything. Everything else is shown with
intervals, unclaimed.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from thermograd.reports.association import Association, partial_association
from thermograd.reports.contrasts import Contrast, ContrastResult, Status
from thermograd.reports.statistics import (
    LEVEL,
    Interval,
    detectable_difference,
    holm,
    mean_interval,
    seeds_needed,
    sign_flip_p_value,
)
from thermograd.reports.words import association_sentence, contrast_sentence
from thermograd.study.arms import ArmKind

if TYPE_CHECKING:
    import pandas as pd

EXPLORATORY_LEVEL = 0.01
"""Of the one exploratory test of a report."""

Values = dict[str, dict[int, float]]
"""arm -> seed -> value at the end, on the test set."""


@dataclass(frozen=True)
class AssociationResult:
    """The partial correlation of distance and gradient variance, given arm, epoch and, where known, bias."""

    association: Association | None
    metric: str | None
    variance: str
    given_bias: bool
    found: bool
    sentence: str


@dataclass(frozen=True)
class Conclusions:
    """All that a report claims, and what it does not."""

    contrasts: tuple[ContrastResult, ...]
    association: AssociationResult
    baselines: dict[str, str | None] = field(default_factory=dict)

    @property
    def num_claims(self) -> int:
        """Return how many differences or associations are called found."""
        return sum(result.status == "confirmed" for result in self.contrasts) + self.association.found


def conclude(
    table: "pd.DataFrame",
    contrasts: Sequence[Contrast],
    arms: Mapping[str, ArmKind],
    unfinished: Collection[str] = (),
) -> Conclusions:
    """Return what a table says.

    Args:
        table: of `collect`; needs arm, seed, step, split, is_final and the metrics.
        contrasts: named beforehand.
        arms: name -> its kind and cell.
        unfinished: arms with runs still to come, whose contrasts wait: a test at each look would find too much.
    """
    baselines = {arm: baseline(arm, arms) for arm in arms}
    metric = main_distance(table, contrasts)
    return Conclusions(
        tuple(_contrast_results(table, contrasts, arms, unfinished)), _associate(table, metric), baselines
    )


def final_values(table: "pd.DataFrame", metric: str) -> Values:
    """Return a metric at the end of each run on the test set, by arm and seed; numbers that are not finite left out."""
    found: Values = {}
    if metric not in table:
        return found
    ends = (table["split"].to_numpy(object) == "test") & table["is_final"].to_numpy(bool)
    columns = (table["arm"].to_numpy(object), table["seed"].to_numpy(int), table[metric].to_numpy(float))
    for arm, seed, value in zip(*(column[ends] for column in columns), strict=True):
        if math.isfinite(value):
            found.setdefault(arm, {})[int(seed)] = float(value)
    return found


def paired(values: Values, a: str, b: str) -> dict[int, float]:
    """Return a - b for each seed that both have."""
    first, second = values.get(a, {}), values.get(b, {})
    return {seed: first[seed] - second[seed] for seed in sorted(first) if seed in second}


def _logarithms(values: Values) -> Values:
    """Return the logarithms of the values that are positive."""
    return {
        arm: {seed: math.log(value) for seed, value in each.items() if value > 0}
        for arm, each in values.items()
    }


def baseline(arm: str, arms: Mapping[str, ArmKind]) -> str | None:
    """Return the vanilla arm of an arm's cell, the only one there is, or None; vanilla has none itself."""
    vanilla = [name for name, kind in arms.items() if kind.ready == "vanilla"]
    if arm in vanilla:
        return None
    near = [name for name in vanilla if arms[name].cell == arms[arm].cell] or vanilla
    return near[0] if len(near) == 1 else None


def noise_floor(values: Values, arms: Mapping[str, ArmKind], near: str = "") -> Interval | None:
    """Return the placebo's difference from vanilla, over the placebos of a cell (or of all) and seeds.

    Several placebos of one seed are averaged first, since they share their vanilla run.
    """
    placebos = [arm for arm, kind in arms.items() if kind.ready == "placebo"]
    cell = arms[near].cell if near in arms else {}
    placebos = [arm for arm in placebos if arms[arm].cell == cell] or placebos
    by_seed: dict[int, list[float]] = {}
    for arm in placebos:
        other = baseline(arm, arms)
        for seed, difference in paired(values, arm, other).items() if other else ():
            by_seed.setdefault(seed, []).append(difference)
    return mean_interval(np.array([np.mean(each) for each in by_seed.values()])) if by_seed else None


def main_distance(table: "pd.DataFrame", contrasts: Sequence[Contrast]) -> str | None:
    """Return the distance that a contrast names, or the first kernel distance, or any."""
    named = [c.metric for c in contrasts if c.metric.startswith("distance:") and c.metric in table]
    columns = [str(name) for name in table.columns if str(name).startswith("distance:")]
    kernel = [name for name in columns if name.startswith("distance:kd-")]
    return next(iter([*named, *kernel, *columns]), None)


# --- contrasts ---


def _contrast_results(
    table: "pd.DataFrame",
    contrasts: Sequence[Contrast],
    arms: Mapping[str, ArmKind],
    unfinished: Collection[str],
) -> list[ContrastResult]:
    if not contrasts:
        return []
    needed = seeds_needed(len(contrasts))
    measured = []
    for contrast in contrasts:
        values = final_values(table, contrast.metric)
        differences = paired(values, contrast.a, contrast.b)
        reason = _why_exploratory(table, contrast, len(differences), needed, unfinished)
        measured.append((contrast, differences, noise_floor(values, arms, contrast.b), reason))
    # Contrasts that are exploratory are not tested, and still count among the hypotheses.
    p_values = [
        math.nan if reason else float(sign_flip_p_value(np.array(list(d.values()))))
        for _, d, _, reason in measured
    ]
    results = []
    for (contrast, differences, floor, reason), p, adjusted in zip(
        measured, p_values, holm(np.array(p_values)), strict=True
    ):
        array = np.array(list(differences.values()))
        status: Status = "confirmed" if adjusted <= LEVEL else "no difference found"
        if reason:
            status = "exploratory" if differences else "not measured"
        ratios = paired(_logarithms(final_values(table, contrast.metric)), contrast.a, contrast.b)
        whole = not reason and len(ratios) == len(differences)
        result = ContrastResult(
            contrast,
            status,
            differences,
            mean_interval(array) if len(array) else None,
            p,
            float(sign_flip_p_value(np.array(list(ratios.values())))) if whole else math.nan,
            float(adjusted),
            detectable_difference(array, LEVEL / len(contrasts)),
            needed,
            floor,
            reason,
        )
        results.append(ContrastResult(**{**vars(result), "sentence": contrast_sentence(result)}))
    return results


def _why_exploratory(
    table: "pd.DataFrame", contrast: Contrast, num_seeds: int, needed: int, unfinished: Collection[str]
) -> str:
    """Return why a contrast cannot be confirmed; empty where it can."""
    if num_seeds < needed:
        return f"{num_seeds} of the {needed} seeds that confirmation takes"
    sides = (contrast.a, contrast.b)
    if waiting := [arm for arm in sides if arm in unfinished]:
        return f"runs of {' and '.join(waiting)} are still to come"
    if "added" in table and (table["added"][table["arm"].isin(sides)] > 0).any():
        return "some of its runs were added after the first"
    return ""


# --- association ---


def _associate(table: "pd.DataFrame", metric: str | None) -> AssociationResult:
    variance = variance_column(table)
    if metric is None or variance is None:
        lacking = "No distance" if metric is None else "No gradient variance"
        return AssociationResult(
            None, metric, variance or "", False, False,
            f"Does the variance of the gradient go with the quality of images? {lacking} was measured, so this study "
            f"cannot say.",
        )  # fmt: skip
    rows = table[table["split"] == "train"]
    if rows[metric].notna().sum() == 0:
        rows = table[table["split"] == "test"]
    places = {seed: g for g, seed in enumerate(sorted(set(rows["seed"])))}
    cells = {key: c for c, key in enumerate(dict.fromkeys(zip(rows["arm"], rows["step"], strict=True)))}
    arrays = np.full((3, len(places), len(cells)), np.nan)
    index = (
        np.array([places[seed] for seed in rows["seed"]], dtype=int),
        np.array([cells[key] for key in zip(rows["arm"], rows["step"], strict=True)], dtype=int),
    )
    x = rows[variance].to_numpy(dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        arrays[0][index] = np.where(x > 0, np.log(x), np.nan)
    arrays[1][index] = rows[metric].to_numpy(dtype=float)
    bias = rows.get("relative_squared_bias")
    given_bias = bias is not None and bool(bias.notna().mean() > 0.5)
    if given_bias and bias is not None:
        arrays[2][index] = bias.to_numpy(dtype=float)
    found = partial_association(arrays[0], arrays[1], arrays[2] if given_bias else None)
    is_found = found.p_value <= EXPLORATORY_LEVEL
    return AssociationResult(
        found,
        metric,
        variance,
        given_bias,
        is_found,
        association_sentence(found, metric, given_bias, is_found),
    )


def variance_column(table: "pd.DataFrame") -> str | None:
    """Return the column that stands for variance within an arm: the total where most rows have it, or None.

    There the means agree, and the normalised one adds the error of its denominator.
    """
    for name in ("total_variance", "normalised_variance"):
        if name in table and table[name].notna().mean() > 0.5:
            return name
    return None
