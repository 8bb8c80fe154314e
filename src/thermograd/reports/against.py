"""The three plots of the question, as figures of the report.

Variance against iteration, distance against iteration, distance against variance.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from thermograd.reports.collect import ReportData, objective
from thermograd.reports.drawing import (
    PARTS,
    VARIANCES,
    Part,
    draw_distance,
    draw_trajectories,
    draw_variance,
    floors,
    parts_of,
)
from thermograd.reports.rows import FIXED, NETWORKS
from thermograd.reports.statistics import FEWEST_SEEDS
from thermograd.reports.style import (
    SPLIT_LINES,
    SPLIT_WORDS,
    Missing,
    Plot,
    arm_legend,
    looks,
    panels,
    split_looks,
)
from thermograd.reports.words import capital, label, number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def variance_against_iteration(data: ReportData) -> Plot | Missing:
    """Draw the total variance, its parts, and the chain variance of one fixed batch, against the iteration."""
    title = "Variance of the learning gradient against iteration"
    parts, arms = parts_of(data), looks(data.arms)
    if not parts:
        return Missing(title, "it was not measured (measure.every).")
    splits = _splits(data.variances[data.variances["source"] == "clock"])

    def draw(narrow: bool) -> "Figure":
        if len(arms) == 1:
            figure, axes = panels(len(splits), narrow, height=3.0, share_y=True)
            for ax, split in zip(axes, splits, strict=True):
                draw_variance(ax, data, parts, [split])
                ax.label_outer()
                ax.set_title(capital(SPLIT_WORDS[split]))
            arm_legend(figure, {part.words: part.look for part in parts}, narrow)
        else:
            figure, axes = panels(len(parts), narrow, columns=2, height=2.6, share_y=True)
            for ax, part in zip(axes, parts, strict=True):
                draw_variance(ax, data, [part], splits, arms=arms)
                ax.set_title(capital(part.words))
                ax.label_outer()
            arm_legend(figure, arms | split_looks(splits), narrow)
        return figure

    caption = (
        "Mean over the coordinates of both networks, at frozen weights: fresh batches of the size of training's, fresh "
        "chains."
    )
    if any(part.batches == FIXED for part in parts):
        caption += " The fixed batch is the same at every step, so it has a chain variance alone."
    return Plot(
        "variance_against_iteration", title, f"{caption} {_seeds_words(data)}{_left_out(data, parts)}", draw
    )


def networks_against_iteration(data: ReportData) -> Plot | Missing:
    """Draw the total variance of each network against the iteration."""
    title = "Variance of each network against iteration"
    networks = [each for each in NETWORKS[1:] if parts_of(data, each)]
    if len(networks) < 2:
        return Missing(title, "fewer than two networks were measured.")
    arms, part = looks(data.arms), PARTS[0]
    splits = _splits(data.variances[data.variances["source"] == "clock"])

    def draw(narrow: bool) -> "Figure":
        figure, axes = panels(len(networks), narrow, columns=2, height=2.4)
        for ax, network in zip(axes, networks, strict=True):
            draw_variance(ax, data, [part], splits, network, arms)
            ax.set_title(NETWORK_NAMES[network])
        arm_legend(figure, (arms if len(arms) > 1 else {}) | split_looks(splits), narrow)
        return figure

    return Plot("networks_against_iteration", title, f"Total variance. {_seeds_words(data)}", draw)


NETWORK_NAMES = {"total": "Both networks", "generator": "Generator", "prior": "Energy of the prior"}


def distance_against_iteration(data: ReportData, metric: str | None) -> Plot | Missing:
    """Draw the distance of samples to training and test images against the iteration."""
    title = "Distance of samples against iteration"
    if metric is None or not data.table[metric].notna().any():
        return Missing(title, "no distance was measured (measure.extractor).")
    arms, splits = looks(data.arms), _splits(data.table[data.table[metric].notna()])

    def draw(narrow: bool) -> "Figure":
        figure, (ax,) = panels(1, narrow, height=3.1)
        draw_distance(ax, data, metric, arms, splits)
        arm_legend(figure, (arms if len(arms) > 1 else {}) | split_looks(splits), narrow)
        return figure

    found = ", ".join(f"{number(value)} ({split})" for split, value in floors(data, metric).items())
    caption = f"{capital(label(metric))}; smaller is better. {_seeds_words(data)}"
    if found:
        caption += f" One half of the real images scores {found} against the other."
    return Plot("distance_against_iteration", title, caption, draw)


def distance_against_variance(data: ReportData, metric: str | None) -> Plot | Missing:
    """Draw the way of each arm through variance and distance on test images, a row of panels per model."""
    title = "Distance against the variance of the gradient"
    rows = data.table[data.table["split"] == "test"]
    kinds = [name for name in VARIANCES if name in rows and (rows[name] > 0).any()]
    if metric is None or not kinds or not rows[metric].notna().any():
        return Missing(title, "it takes both a distance and the variance of the gradient on test images.")
    arms = looks(data.arms)
    models = list(dict.fromkeys(zip(rows["network"], rows["latent_dim"], strict=True)))

    def draw(narrow: bool) -> "Figure":
        figure, axes = panels(len(models) * len(kinds), narrow, columns=len(kinds), height=3.2)
        places = [(model, kind) for model in models for kind in kinds]
        for ax, ((network, latent_dim), kind) in zip(axes, places, strict=True):
            mine = rows[(rows["network"] == network) & (rows["latent_dim"] == latent_dim)]
            draw_trajectories(ax, mine, metric, kind, arms)
            if len(models) > 1:
                ax.set_title(f"{network}, d = {latent_dim}")
        if len(arms) > 1:
            arm_legend(figure, arms, narrow)
        return figure

    caption = (
        "On test images. A line joins the measured steps of one arm"
        + (", means over seeds" if rows["seed"].nunique() > 1 else "")
        + "; the hollow mark is the first step, the large one the last"
        + (", small marks are single seeds there. " if rows["seed"].nunique() > 1 else ". ")
        + _objective_words(data)
    )
    return Plot("distance_against_variance", title, caption, draw)


def _objective_words(data: ReportData) -> str:
    """Return what the places of arms of different objectives do not say, empty where all have one."""
    objectives = {objective(name) for name in data.table["estimator"]}
    if len(objectives) < 2:
        return ""
    return (
        "Arms here ascend different objectives, so their gradients have different lengths: the total variance goes "
        "with the length, the normalised one is divided by it, and across objectives neither is an effect of variance."
    )


def _splits(rows: "pd.DataFrame") -> list[str]:
    return [split for split in SPLIT_LINES if (rows["split"] == split).any()]


def _seeds_words(data: ReportData) -> str:
    num_seeds = data.table["seed"].nunique()
    if num_seeds < 2:
        return ""
    how = "dots are seeds" if num_seeds < FEWEST_SEEDS else "bands reach from the smallest to the largest"
    return f"Lines are means over {num_seeds} seeds, {how}."


def _left_out(data: ReportData, parts: Sequence[Part]) -> str:
    rows = data.variances[(data.variances["source"] == "clock") & (data.variances["network"] == "total")]
    num = sum(int((rows[rows["batches"] == part.batches][part.quantity] <= 0).sum()) for part in parts)
    if not num:
        return ""
    return f" {num} estimate{'s' if num > 1 else ''} below 0 {'are' if num > 1 else 'is'} left out."
