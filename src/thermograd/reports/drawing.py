"""What the three plots of the question show, on one axes: shared by `tg.plots` and the figures of the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thermograd.reports.collect import ReportData
from thermograd.reports.rows import FIXED, FRESH
from thermograd.reports.statistics import FEWEST_SEEDS
from thermograd.reports.style import FAINT, INK, SPLIT_LINES, Look, fit_axis, log_axis
from thermograd.reports.words import label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Part:
    """A line of the variance: which quantity, on which batches, and how it looks where it stands for itself."""

    name: str
    quantity: str
    batches: str
    words: str
    look: Look


PARTS = (
    Part("total_variance", "total_variance", FRESH, "total", Look(INK, "o", "-")),
    Part("chain_variance", "chain_variance", FRESH, "of the chains", Look("#0b4f86", "^", "-")),
    Part("batch_variance", "batch_variance", FRESH, "of the batch", Look("#b34700", "s", "-")),
    Part(
        "fixed_chain_variance",
        "chain_variance",
        FIXED,
        "of the chains, one fixed batch",
        Look("#00664a", "D", "-"),
    ),
)
VARIANCES = ("total_variance", "normalised_variance")


def parts_of(data: ReportData, network: str = "total") -> list[Part]:
    """Return the parts of the variance that the run's clock measured."""
    rows = data.variances[(data.variances["network"] == network) & (data.variances["source"] == "clock")]
    return [part for part in PARTS if (rows[rows["batches"] == part.batches][part.quantity] > 0).any()]


def draw_variance(
    ax: "Axes",
    data: ReportData,
    parts: Sequence[Part],
    splits: Sequence[str],
    network: str = "total",
    arms: Mapping[str, Look] | None = None,
) -> None:
    """Draw parts of the variance against the iteration, each in its own colour, or in those of arms where given."""
    rows = data.variances
    rows = rows[(rows["source"] == "clock") & (rows["network"] == network)]
    shown = []
    for part in parts:
        for arm, look in (arms or dict.fromkeys(data.arms, part.look)).items():
            mine = rows[(rows["arm"] == arm) & (rows["batches"] == part.batches) & (rows[part.quantity] > 0)]
            for split in splits:
                shown += _curve(ax, mine[mine["split"] == split], part.quantity, look, split, geometric=True)
    log_axis(ax, "y")
    fit_axis(ax, "y", shown)
    ax.set(xlabel="iteration", ylabel="gradient variance")


def draw_distance(
    ax: "Axes", data: ReportData, metric: str, arms: Mapping[str, Look], splits: Sequence[str]
) -> None:
    """Draw the distance of samples to images of a split against the iteration, and what real images reach."""
    rows = data.table[data.table[metric].notna() & data.table["split"].isin(splits)]
    is_log = _wide(rows[metric])
    shown = []
    for arm, look in arms.items():
        mine = rows[rows["arm"] == arm]
        for split in splits:
            shown += _curve(ax, mine[mine["split"] == split], metric, look, split, geometric=is_log)
    floor = floors(data, metric)
    # A floor near 0 would leave a logarithmic axis with no room for the curves.
    for split in splits if not is_log else ():
        if split in floor:
            ax.axhline(floor[split], color=FAINT, linewidth=0.9, linestyle=":")
    if is_log:
        log_axis(ax, "y")
    fit_axis(ax, "y", shown)
    ax.set(xlabel="iteration", ylabel=label(metric))


def draw_trajectories(
    ax: "Axes", rows: "pd.DataFrame", metric: str, variance: str, arms: Mapping[str, Look]
) -> None:
    """Draw the way of each arm through distance and variance: its measured steps, mean over seeds, ends marked."""
    rows = rows[rows[metric].notna() & (rows[variance] > 0)]
    is_log = _wide(rows[metric])
    shown: list[tuple[float, float]] = []
    for arm, look in arms.items():
        mine = rows[rows["arm"] == arm]
        if mine.empty:
            continue
        steps = mine.groupby("step")
        x = np.exp(steps[variance].agg(lambda each: np.log(each.astype(float)).mean()))
        y = steps[metric].mean()
        ax.plot(x, y, color=look.colour, linewidth=1.2, marker=look.marker, markersize=3, alpha=0.85)
        ends = mine[mine["step"] == mine["step"].max()]
        if len(ends) > 1:
            ax.plot(
                ends[variance], ends[metric], look.marker, color=look.colour, markersize=4, alpha=0.3, mew=0
            )
        ax.plot(x.iloc[0], y.iloc[0], look.marker, color=look.colour, markersize=6, markerfacecolor="white")
        ax.plot(x.iloc[-1], y.iloc[-1], look.marker, color=look.colour, markersize=8, markeredgecolor="white")
        shown += list(zip(x, y, strict=True))
    log_axis(ax, "x")
    if is_log:
        log_axis(ax, "y")
    for which, values in zip("xy", zip(*shown, strict=True), strict=False):
        fit_axis(ax, which, values)
    ax.set(xlabel=label(variance), ylabel=label(metric))


def _curve(
    ax: "Axes", rows: "pd.DataFrame", name: str, look: Look, split: str, *, geometric: bool
) -> list[float]:
    """Draw the mean over seeds, with their range, or with a dot each where they are few; return what was drawn."""
    if rows.empty:
        return []
    values = rows[name].astype(float)
    by_step = (np.log(values) if geometric else values).groupby(rows["step"])
    mean, low, high = by_step.mean(), by_step.min(), by_step.max()
    if geometric:
        mean, low, high = np.exp(mean), np.exp(low), np.exp(high)
    num_seeds = rows["seed"].nunique()
    if num_seeds >= FEWEST_SEEDS:
        ax.fill_between(mean.index, low, high, color=look.colour, alpha=0.12, linewidth=0)
    elif num_seeds > 1:
        ax.plot(rows["step"], values, look.marker, color=look.colour, markersize=3, alpha=0.4, mew=0)
    marker = look.marker if len(mean) <= 12 else ""
    ax.plot(mean.index, mean, color=look.colour, linestyle=SPLIT_LINES[split], marker=marker, markersize=3.5)
    return [*map(float, mean)]


def _wide(values: "pd.Series[float]") -> bool:
    """Return whether values, as most of them are, take a logarithmic axis."""
    return bool(len(values) and (values > 0).all() and values.quantile(0.9) > 5 * values.quantile(0.1))


def floors(data: ReportData, metric: str) -> dict[str, float]:
    """Return what one half of the real images of a split scores against the other."""
    name = f"floor:{metric.removeprefix('distance:')}"
    if name not in data.table:
        return {}
    return {str(split): float(rows[name].mean()) for split, rows in data.table.groupby("split")}
