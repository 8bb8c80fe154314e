"""Figures that compare arms: contrasts, differences, gradients, evidence, cost."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thermograd.reports.collect import ReportData
from thermograd.reports.conclusions import Conclusions, final_values
from thermograd.reports.contrasts import ContrastResult
from thermograd.reports.statistics import FEWEST_SEEDS, Interval, mean_interval
from thermograd.reports.style import (
    FAINT,
    INK,
    PLACEBO,
    Look,
    Missing,
    Plot,
    arm_legend,
    interval_point,
    log_axis,
    panels,
)
from thermograd.reports.tables import costs, differences
from thermograd.reports.words import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def contrasts(data: ReportData, conclusions: Conclusions) -> Plot | Missing:
    """Draw the differences of each seed for the contrasts that were named beforehand."""
    title = "Contrasts that were named beforehand"
    results = [result for result in conclusions.contrasts if result.interval is not None]
    if not results:
        return Missing(title, "none was named, or none measured yet.")

    def draw(narrow: bool) -> "Figure":
        figure, axes = panels(len(results), narrow, columns=1, height=1.15)
        for ax, result in zip(axes, results, strict=True):
            assert result.interval is not None  # chosen above
            _floor_band(ax, result.floor)
            values = list(result.differences.values())
            ax.plot(
                values, [1] * len(values), "o", color=FAINT, markersize=4.5, alpha=0.55, markeredgewidth=0
            )
            interval_point(ax, result.interval, 0, "#0b4f86", "D")
            if math.isfinite(result.detectable) and result.status == "no difference found":
                for edge in (-result.detectable, result.detectable):
                    ax.plot([edge, edge], [-0.45, 0.45], color=INK, linestyle=":", linewidth=1)
            ax.set(
                ylim=(-0.6, 1.6),
                yticks=[0, 1],
                yticklabels=["mean", "seeds"],
                xlabel=label(result.contrast.metric),
            )
            ax.set_title(f"{result.contrast.a} minus {result.contrast.b}: {result.status}")
        return figure

    return Plot(
        "contrasts",
        title,
        f"Dots are the paired differences of single seeds, the diamond is their mean{_interval_words(results)}."
        + (FLOOR_WORDS if any(_has_floor(result.floor) for result in results) else "")
        + (
            " Dotted marks are the smallest difference that four of five such studies would find."
            if any(
                result.status == "no difference found" and math.isfinite(result.detectable)
                for result in results
            )
            else ""
        ),
        draw,
    )


FLOOR_WORDS = " The grey band is the noise floor: as far as the placebo's interval reaches."


def _interval_words(results: Sequence[ContrastResult]) -> str:
    shown = any(result.interval is not None and math.isfinite(result.interval.low) for result in results)
    return " with its 95 % interval" if shown else ", without an interval below three seeds"


def _has_floor(floor: Interval | None) -> bool:
    return floor is not None and math.isfinite(floor.low)


def arm_differences(data: ReportData, looks: dict[str, Look], metric: str | None) -> Plot | Missing:
    """Draw each arm's difference from vanilla on the main distance, the evidence and the reconstruction."""
    title = "Every arm against vanilla"
    table = differences(data.table, data.arms)
    wanted = (metric, "log_evidence", "reconstruction_mean_square_error")
    metrics = [name for name in wanted if name is not None and (table["metric"] == name).any()]
    if not metrics:
        return Missing(title, "no arm and vanilla were both measured at the end for one seed.")
    arms = [arm for arm in looks if (table["arm"] == arm).any()]

    def draw(narrow: bool) -> "Figure":
        figure, axes = panels(len(metrics), narrow, height=0.9 + 0.27 * len(arms))
        for i, (ax, name) in enumerate(zip(axes, metrics, strict=True)):
            rows = table[table["metric"] == name].set_index("arm")
            floor = rows.iloc[0]
            _floor_band(ax, Interval(floor["placebo"], floor["placebo_low"], floor["placebo_high"], ""))
            for y, arm in enumerate(arms):
                if arm in rows.index:
                    row, look = rows.loc[arm], looks[arm]
                    interval = Interval(row["difference"], row["difference_low"], row["difference_high"], "")
                    interval_point(ax, interval, y, look.colour, look.marker)
            named = narrow or i == 0
            ax.set(ylim=(len(arms) - 0.5, -0.5), yticks=range(len(arms)), yticklabels=arms if named else [])
            ax.set_xlabel(f"difference in {_short(name)}")
            ax.locator_params(axis="x", nbins=5)
        return figure

    return Plot(
        "arm_differences",
        title,
        "Mean paired differences from the vanilla arm at the end of training, on the test images"
        + (", with 95 % intervals over seeds." if table["difference_low"].notna().any() else ".")
        + (FLOOR_WORDS if table["placebo_low"].notna().any() else "")
        + " Exploratory, and not corrected for looking at many arms.",
        draw,
    )


def evidence_by_arm(data: ReportData, looks: dict[str, Look]) -> Plot | Missing:
    """Draw the evidence of test images by arm."""
    title = "Evidence of test images"
    values = final_values(data.table, "log_evidence")
    arms = [arm for arm in looks if arm in values]
    if not arms:
        return Missing(title, "no run has estimated log p(x) at its end (measure.num_evidence).")

    def draw(narrow: bool) -> "Figure":
        figure, (ax,) = panels(1, narrow, height=0.8 + 0.3 * len(arms))
        for y, arm in enumerate(arms):
            seeds, look = np.array(list(values[arm].values())), looks[arm]
            ax.plot(
                seeds,
                np.full(len(seeds), y + 0.22),
                "o",
                color=look.colour,
                alpha=0.35,
                markersize=3.5,
                mew=0,
            )
            interval_point(ax, mean_interval(seeds), y, look.colour, look.marker)
        ax.set(ylim=(len(arms) - 0.4, -0.6), yticks=range(len(arms)), yticklabels=arms)
        ax.set_xlabel("log p(x), nats per image")
        return figure

    return Plot(
        "evidence_by_arm",
        title,
        "Estimated log p(x) of the same test images; larger is better. Small dots are seeds, marks their means"
        + (" with 95 % intervals" if any(len(each) >= FEWEST_SEEDS for each in values.values()) else "")
        + ". Seeds differ in their weights and batches, so arms overlap more than their paired differences.",
        draw,
    )


def cost(data: ReportData, looks: dict[str, Look], metric: str | None) -> Plot | Missing:
    """Draw what quality each arm reached for its generator evaluations and its time."""
    title = "Cost"
    table = costs(data.table, data.arms).set_index("arm")
    if table.empty:
        return Missing(title, "no run has come to its end.")
    values = final_values(data.table, metric) if metric else {}
    axes_of = {
        "evaluations_per_image": "generator evaluations per image of the training set",
        "seconds": "seconds",
    }
    axes_of = {name: words for name, words in axes_of.items() if name in table and table[name].notna().any()}
    arms = [arm for arm in looks if arm in table.index]

    def draw(narrow: bool) -> "Figure":
        figure, axes = panels(
            len(axes_of), narrow, columns=2, height=2.7 if values else 0.8 + 0.25 * len(arms)
        )
        for ax, (name, words) in zip(axes, axes_of.items(), strict=True):
            for y, arm in enumerate(arms):
                look, x = looks[arm], float(table.loc[arm, name])
                if values:
                    seeds = list(values.get(arm, {}).values())
                    ax.plot(
                        [x] * len(seeds),
                        seeds,
                        look.marker,
                        color=look.colour,
                        alpha=0.25,
                        markersize=4,
                        mew=0,
                    )
                    if seeds:
                        ax.plot(x, np.mean(seeds), look.marker, color=look.colour, markersize=7)
                else:
                    ax.barh(y, x, color=look.colour)
            ax.set_xlabel(words)
            if table[name].max() > 10 * table[name].min():
                log_axis(ax, "x")
            if values and metric:
                ax.set_ylabel(label(metric))
            else:
                ax.set(ylim=(len(arms) - 0.5, -0.5), yticks=range(len(arms)), yticklabels=arms)
        arm_legend(figure, {arm: looks[arm] for arm in arms}, narrow, lines=False)
        return figure

    bought = (
        f", and the {label(metric)} that it bought: large marks are means over seeds, small ones seeds"
        if values and metric
        else ""
    )
    return Plot(
        "cost",
        title,
        f"What training spent on chains{bought}. Seconds depend on the machine and on what else ran there; evaluations "
        f"do not.",
        draw,
    )


def _short(metric: str) -> str:
    words = label(metric)
    return words if len(words) < 28 else words.split(" (")[0]


def _floor_band(ax: "Axes", floor: Interval | None) -> None:
    if floor is not None and _has_floor(floor):
        reach = max(abs(floor.low), abs(floor.high))
        ax.axvspan(-reach, reach, color=PLACEBO, linewidth=0)
    ax.axvline(0, color=FAINT, linewidth=0.8)
