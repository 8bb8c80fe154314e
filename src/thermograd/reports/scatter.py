"""The figure of the question: distance against the variance of the gradient, with bias and p as colour."""

import math
from typing import TYPE_CHECKING

import numpy as np

from thermograd.reports.association import Line, fit_line
from thermograd.reports.collect import StudyData
from thermograd.reports.conclusions import variance_column
from thermograd.reports.style import FAINT, Missing, Plot, log_axis, panels
from thermograd.reports.words import label, number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


VARIANCES = ("total_variance", "normalised_variance")


def distance_against_variance(data: StudyData, metric: str | None) -> Plot | Missing:
    """Draw the distance against the variance at the end, a row a model and kind of variance, bias and p as colour."""
    title = "Distance against the variance of the gradient"
    if metric is None or variance_column(data.table) is None:
        return Missing(title, "it takes both a distance and the variance of the gradient.")
    rows = data.table[(data.table["split"] == "test") & data.table["is_final"].astype(bool)]
    rows = rows[rows[metric].notna()]
    kinds = [name for name in VARIANCES if name in rows and (rows[name] > 0).sum() >= 3]
    if not kinds:
        return Missing(title, "fewer than three runs have come to their end.")
    rows = rows.assign(
        p=rows["power"].where((rows["estimator"] != "maximum-likelihood") & (rows["schedule"] == "power"))
    )
    colours = {"relative_squared_bias": "relative squared bias", "p": "power p of the schedule"}
    colours = {name: words for name, words in colours.items() if rows[name].notna().any()} or {"": ""}
    models = dict.fromkeys(zip(rows["network"], rows["latent_dim"], strict=True))
    parts = [
        (network, latent_dim, kind, _part(rows, network, latent_dim, kind))
        for network, latent_dim in models
        for kind in kinds
    ]
    slopes = [
        f"{network}, {latent_dim} latent numbers, {label(kind)}: {_slope_words(mine, kind, metric)}"
        for network, latent_dim, kind, mine in parts
    ]

    def draw(narrow: bool) -> "Figure":
        figure, axes = panels(len(parts) * len(colours), narrow, columns=len(colours), height=3.0)
        for i, ax in enumerate(axes):
            network, latent_dim, kind, mine = parts[i // len(colours)]
            name = list(colours)[i % len(colours)]
            _scatter(figure, ax, mine, kind, metric, name, colours[name])
            ax.set(xlabel=label(kind), ylabel=label(metric), title=f"{network}, d = {latent_dim}")
        return figure

    note = (
        ""
        if "relative_squared_bias" in colours
        else " Bias was not measured (“thermograd variance” measures it, run by run)."
    )
    return Plot(
        "distance_against_variance",
        title,
        f"A dot is a run at its end, on the test set. The line is a least squares fit over all arms, its band the "
        f"95 % interval over resampled seeds. Arms differ in more than variance, so its slope is no effect of "
        f"variance; nor is either variance the right one across arms: the total goes with the length of the gradient, "
        f"the normalised one divides by it, and arms of other objectives have other lengths. "
        f"Slopes: {'; '.join(slopes)}.{note}",
        draw,
    )


def _part(rows: "pd.DataFrame", network: str, latent_dim: int, kind: str) -> "pd.DataFrame":
    """Return the runs of a model whose variance of this kind is known."""
    return rows[(rows["network"] == network) & (rows["latent_dim"] == latent_dim) & (rows[kind] > 0)]


def _fit(rows: "pd.DataFrame", variance: str, metric: str, grid: np.ndarray) -> Line | None:
    x = np.log10(rows[variance].to_numpy(dtype=float))
    return fit_line(x, rows[metric].to_numpy(dtype=float), rows["seed"].to_numpy(), grid)


def _slope_words(rows: "pd.DataFrame", variance: str, metric: str) -> str:
    fit = _fit(rows, variance, metric, np.zeros(1))
    if fit is None:
        return "no fit"
    if not math.isfinite(fit.slope.low):
        return f"{number(fit.slope.value)} for ten times the variance (too few seeds for an interval)"
    return f"{number(fit.slope.value)} for ten times the variance ({number(fit.slope.low)} to {number(fit.slope.high)})"


def _scatter(
    figure: "Figure", ax: "Axes", rows: "pd.DataFrame", variance: str, metric: str, name: str, words: str
) -> None:
    x = rows[variance].to_numpy(dtype=float)
    grid = np.linspace(np.log10(x.min()), np.log10(x.max()), 60)
    fit = _fit(rows, variance, metric, grid)
    if fit is not None:
        ax.fill_between(10**grid, fit.low, fit.high, color="#dbe4ee", linewidth=0)
        ax.plot(10**grid, fit.line, color=FAINT, linewidth=1.1)
    known = rows[name].notna() if name else rows[metric].isna()
    plain = rows[~known]
    ax.plot(plain[variance], plain[metric], "o", color="#b6bcc6", markersize=4.5, markeredgewidth=0)
    coloured = rows[known]
    if len(coloured):
        dots = ax.scatter(
            coloured[variance],
            coloured[metric],
            c=coloured[name].astype(float),
            cmap="viridis",
            s=26,
            linewidths=0,
        )
        figure.colorbar(
            dots, ax=ax, label=f"{words} (grey: none)" if len(plain) else words, aspect=30, pad=0.02
        )
    log_axis(ax, "x")
