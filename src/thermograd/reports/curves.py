"""Figures along training: variance, distance, temperatures, and grids of samples."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from thermograd.reports.collect import NETWORKS, Picture, StudyData
from thermograd.reports.style import NARROW, WIDE, Look, Missing, Plot, arm_legend, log_axis, panels
from thermograd.reports.words import label, number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURE_PIXELS = 240
"""Side of a grid of samples in the report; run folders hold them whole."""


def variance_by_iteration(data: StudyData, looks: dict[str, Look]) -> Plot | Missing:
    """Draw the gradient's variance against the iteration, a panel a network."""
    title = "Variance of the learning gradient while training"
    rows = data.variances
    measured = rows[(rows["source"] == "clock") & (rows["split"] == "train")]
    name = next(
        (n for n in ("normalised_variance", "total_variance") if (measured[n] > 0).mean() > 0.5), None
    )
    if name is None:
        return Missing(title, "it was not measured.")
    networks = [network for network in NETWORKS if (measured["network"] == network).any()]

    def draw(narrow: bool) -> "Figure":
        figure, axes = panels(len(networks), narrow, height=2.5)
        for ax, network in zip(axes, networks, strict=True):
            of_network = measured[(measured["network"] == network) & (measured[name] > 0)]
            _curves(ax, of_network, name, looks)
            log_axis(ax, "y")
            ax.set(title=NETWORK_NAMES[network], xlabel="iteration")
        for ax in axes if narrow else axes[:1]:
            ax.set_ylabel(label(name))
        arm_legend(figure, looks, narrow)
        return figure

    what = (
        "Variance over the squared length of the mean gradient (1 / signal-to-noise squared)"
        if name == "normalised_variance"
        else "Mean variance of a coordinate"
    )
    return Plot(
        "variance_by_iteration",
        title,
        f"{what}, over fresh training batches and fresh chains at frozen parameters. Lines are geometric means over "
        f"seeds, bands reach from the smallest seed to the largest. Estimates that are not positive are left out.",
        draw,
    )


NETWORK_NAMES = {"total": "Both networks", "generator": "Generator", "prior": "Energy of the prior"}


def distance_by_iteration(data: StudyData, looks: dict[str, Look], metric: str | None) -> Plot | Missing:
    """Draw the distance of samples to the training set against the iteration."""
    title = "Quality of the images while training"
    rows = data.table[data.table["split"] == "train"]
    if metric is None or rows.empty or not rows[metric].notna().any():
        return Missing(title, "no distance was measured on the training set.")
    rows = rows[rows[metric].notna()]
    floor = f"floor:{metric.removeprefix('distance:')}"
    value = float(rows[floor].mean()) if floor in rows else math.nan
    # A floor near 0 would leave a logarithmic axis with no room for the curves.
    is_log = bool((rows[metric] > 0).all() and rows[metric].max() > 5 * rows[metric].min())

    def draw(narrow: bool) -> "Figure":
        figure, (ax,) = panels(1, narrow, height=3.1)
        _curves(ax, rows, metric, looks, geometric=False)
        if math.isfinite(value) and not is_log:
            ax.axhline(value, color="#6b7280", linewidth=0.9, linestyle=":")
            ax.annotate("real images", (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                        color="#6b7280", fontsize=8)  # fmt: skip
        ax.set(xlabel="iteration", ylabel=label(metric))
        if is_log:
            log_axis(ax, "y")
        arm_legend(figure, looks, narrow)
        return figure

    return Plot(
        "distance_by_iteration",
        title,
        f"{_capital(label(metric))} of samples to the training set; smaller is better. Lines are means over "
        f"seeds, bands reach from the smallest seed to the largest. One half of the real images scores {number(value)} "
        f"against the other.",
        draw,
    )


def temperatures(data: StudyData, looks: dict[str, Look]) -> Plot | Missing:
    """Draw the schedule with which each arm ended, and the log-likelihood along it."""
    title = "Temperature schedules and the log-likelihood along them"
    rungs = data.rungs
    if rungs.empty:
        return Missing(title, "no run has recorded its temperatures.")
    means = rungs.groupby(["arm", "rung"], sort=False)[list(RUNG_VALUES)].mean().reset_index()
    ladders = [arm for arm in looks if (means["arm"] == arm).sum() > 2]
    known = [
        name for name in ("expected_log_likelihood", "variance_log_likelihood") if means[name].notna().any()
    ]
    if not ladders:
        return Missing(title, "no arm has rungs between t = 0 and t = 1.")

    def draw(narrow: bool) -> "Figure":
        figure, axes = panels(1 + len(known), narrow, height=2.6)
        for arm in ladders:
            rows, look = means[means["arm"] == arm], looks[arm]
            marks: dict[str, Any] = {
                "color": look.colour,
                "marker": look.marker,
                "markersize": 3.5,
                "linewidth": 1.2,
            }
            axes[0].plot(rows["rung"] / rows["rung"].max(), rows["inverse_temperature"], **marks)
            for ax, name in zip(axes[1:], known, strict=True):
                there = rows[rows[name].notna()]
                ax.plot(there["inverse_temperature"], there[name], **marks)
        axes[0].set(xlabel="place on the ladder, k/N", ylabel="inverse temperature t", title="Schedule")
        for ax, name in zip(axes[1:], known, strict=True):
            ax.set(xlabel="inverse temperature t", title=RUNG_VALUES_TITLES[name])
            if name == "variance_log_likelihood" and (means[name].dropna() > 0).all():
                log_axis(ax, "y")
        arm_legend(figure, {arm: looks[arm] for arm in ladders}, narrow)
        return figure

    caption = "Schedules with which training ended, mean over seeds."
    if "expected_log_likelihood" in known:
        caption += " Where chains have mixed, E_t[l] rises and the area under it is the log-evidence."
    else:
        caption += " E_t[l] itself was not kept while training."
    if "variance_log_likelihood" in known:
        caption += " Var_t(l) is the slope of E_t[l]: where it is large, rungs should be dense."
    return Plot("temperatures", title, caption, draw)


RUNG_VALUES = ("inverse_temperature", "expected_log_likelihood", "variance_log_likelihood")
RUNG_VALUES_TITLES = {
    "expected_log_likelihood": "E_t[l], nats",
    "variance_log_likelihood": "Var_t(l), nats²",
}


def samples(data: StudyData) -> Plot | Missing:
    """Draw grids of samples: one row per arm, one column per epoch."""
    title = "Samples by arm and epoch"
    if not data.pictures:
        return Missing(title, "no run has drawn samples (training.pictures_every).")
    arms = list(dict.fromkeys(picture.arm for picture in data.pictures))
    epochs = sorted({picture.epoch for picture in data.pictures})
    places = {(picture.arm, picture.epoch): picture for picture in data.pictures}

    def draw(narrow: bool) -> "Figure":
        from matplotlib.figure import Figure

        shown = _spread(epochs, 2 if narrow else 4)
        width = NARROW if narrow else min(WIDE, 2.1 * len(shown) + 0.3)
        side = width / len(shown)
        figure = Figure(figsize=(width, (side + 0.22) * len(arms)), layout="constrained")
        axes = figure.subplots(len(arms), len(shown), squeeze=False)
        for row, arm in zip(axes, arms, strict=True):
            for ax, epoch in zip(row, shown, strict=True):
                ax.axis("off")
                picture = places.get((arm, epoch))
                if picture is not None:
                    pixels = _pixels(picture)
                    shade = {"cmap": "gray", "vmin": 0, "vmax": 255} if pixels.ndim == 2 else {}
                    ax.imshow(pixels, interpolation="none", **shade)
                    ax.set_title(f"{arm}, epoch {epoch}", fontsize=8, fontweight="normal", pad=2)
        return figure

    seeds = sorted({picture.seed for picture in data.pictures})
    return Plot(
        "samples",
        title,
        f"Draws of the prior put through the generator; seed {', '.join(map(str, seeds))}, the same starting points "
        f"in every picture. A drawing is no measurement: see the distances.",
        draw,
    )


def _curves(
    ax: "Axes", rows: "pd.DataFrame", name: str, looks: dict[str, Look], *, geometric: bool = True
) -> None:
    """Draw mean and range over seeds of each arm."""
    for arm, look in looks.items():
        mine = rows[rows["arm"] == arm]
        if mine.empty:
            continue
        values = mine[name].astype(float)
        by_step = (np.log(values) if geometric else values).groupby(mine["step"])
        steps, mean, low, high = by_step.mean().index, by_step.mean(), by_step.min(), by_step.max()
        if geometric:
            mean, low, high = np.exp(mean), np.exp(low), np.exp(high)
        ax.fill_between(steps, low, high, color=look.colour, alpha=0.12, linewidth=0)
        marker = look.marker if len(steps) <= 12 else ""
        ax.plot(steps, mean, color=look.colour, linestyle=look.line, marker=marker, markersize=3.5)


def _spread(values: list[int], most: int) -> list[int]:
    """Return at most this many values, evenly spread, the last among them."""
    if len(values) <= most:
        return values
    return [values[round(i)] for i in np.linspace(0, len(values) - 1, most)]


def _pixels(picture: Picture) -> np.ndarray:
    from PIL import Image

    with Image.open(picture.file) as image:
        image = image.convert("RGB" if image.mode in ("RGB", "RGBA", "P") else "L")
        image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS), Image.Resampling.LANCZOS)
        return np.asarray(image)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
