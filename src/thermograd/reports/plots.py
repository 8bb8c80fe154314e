"""Plots as functions. Each draws on the given axes, or on new ones, and returns them.

axes = tg.plots.learning_curve(fit)
axes.figure.savefig("curve.png")
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from thermograd.errors import InputError
from thermograd.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thermograd.evidence import BayesFactor, Evidence
    from thermograd.reports.collect import ReportData
    from thermograd.reports.style import Look
    from thermograd.runs.run import Run
    from thermograd.training.fit import Fit
    from thermograd.training.variance import GradientVariance

    Source = Run | Path | str | ReportData

BLUE, RED, GREY = "#1b6ca8", "#d1495b", "#6b7280"


def images(pixels: Tensor, num_columns: int | None = None, axes: "Axes | None" = None) -> "Axes":
    """Show images (N, C, H, W) in [-1, 1] as a grid, e.g. `run.sample(64).images`."""
    from thermograd.runs.pictures import image_grid

    axes = _axes(axes)
    grid = image_grid(pixels, num_columns, scale=1)
    axes.imshow(grid.squeeze(-1) if grid.shape[-1] == 1 else grid, cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()
    return axes


def learning_curve(fit: "Fit", axes: "Axes | None" = None) -> "Axes":
    """Draw the log-likelihood at posterior draws against the training step."""
    frame = fit.to_dataframe()
    axes = _bare(_axes(axes))
    axes.plot(frame["step"], frame["log_likelihood"], color=BLUE, linewidth=1)
    later = frame["log_likelihood"].iloc[len(frame) // 20 :]  # the first steps rise from far below
    margin = 0.05 * float(later.max() - later.min()) or 1.0
    axes.set_ylim(float(later.min()) - margin, float(later.max()) + margin)
    axes.set(xlabel="training step", ylabel="log p(x|z) at posterior draws (nats per image)")
    return axes


def gradient_variance(
    found: "GradientVariance", network: str = "total", axes: "Axes | None" = None
) -> "Axes":
    """Draw the chain and batch variance of each estimator with their 95 % intervals, on a log scale."""
    frame = found.to_dataframe()
    frame = frame[frame["network"] == network]
    axes = _bare(_axes(axes))
    names = list(dict.fromkeys(frame["estimator"]))
    for offset, (quantity, colour) in zip(
        (-0.1, 0.1), (("chain_variance", BLUE), ("batch_variance", RED)), strict=True
    ):
        rows = frame[frame["quantity"] == quantity].set_index("estimator")
        shown = [name for name in names if name in rows.index and rows.loc[name, "value"] > 0]
        values = rows.loc[shown]
        places = [names.index(name) + offset for name in shown]
        below = (values["value"] - values["low"].clip(lower=values["value"] * 1e-3)).clip(lower=0).fillna(0)
        above = (values["high"] - values["value"]).fillna(0)
        label, bars = quantity.replace("_", " "), [below, above]
        axes.errorbar(places, values["value"], yerr=bars, fmt="o", color=colour, label=label)
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set_ylabel("variance, mean over parameters")
    axes.legend(frameon=False)
    return axes


def expected_log_likelihood(evidence: "Evidence", axes: "Axes | None" = None) -> "Axes":
    """Draw E_t[l] against t, mean over images: the area under the curve is log p(x).

    Raises:
        ValueError: a method that does not visit the power posteriors.
    """
    mean = evidence.expected_log_likelihood
    if mean is None or evidence.inverse_temperatures is None:
        raise ValueError(f"`method` {evidence.method} does not visit the power posteriors.")
    axes = _bare(_axes(axes))
    t = evidence.inverse_temperatures.cpu()
    axes.plot(t if t.dim() == 1 else t.mean(1), mean.mean(1).cpu(), marker="o", markersize=3, color=BLUE)
    axes.set(xlabel="inverse temperature t", ylabel="$E_t[\\ell]$ (nats per image)")
    return axes


def bayes_factor(
    found: "BayesFactor", first: str = "a", second: str = "b", axes: "Axes | None" = None
) -> "Axes":
    """Draw the log Bayes factor of each image with its 95 % interval, in order; images without one are hollow and grey.

    Args:
        found: of `tg.bayes_factor`, or of a pair of `tg.compare_runs`.
        first: name of the model whose evidence is above 0.
        second: name of the other.
        axes: to draw on; None for new ones.
    """
    axes = _bare(_axes(axes))
    order = found.log_factor.argsort()
    values, low, high = (each[order].numpy() for each in (found.log_factor, found.low, found.high))
    doubtful = np.array([found.status[int(i)] != "interval" for i in order])
    for mine, colour, face, words in (
        (~doubtful, BLUE, BLUE, "95 % interval"),
        (doubtful, GREY, "white", "in doubt"),
    ):
        if mine.any():
            axes.plot(
                np.flatnonzero(mine), values[mine], "o", color=colour, markerfacecolor=face, label=words
            )
            ends = [np.where(np.isfinite(each[mine]), each[mine], values[mine]) for each in (low, high)]
            axes.vlines(np.flatnonzero(mine), *ends, color=colour, linewidth=1)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_title(f"{found.total:.4g} ± {found.error:.2g} nats on all {len(values)} images together")
    axes.locator_params(axis="x", integer=True)
    axes.set(xlabel="image, in order", ylabel=f"log Bayes factor (nats)\n{first} against {second}")
    axes.legend(frameon=False)
    return axes


def write_bayes_factor(found: "BayesFactor", file: Path, first: str, second: str) -> Path:
    """Write the picture of a log Bayes factor."""
    from matplotlib.figure import Figure

    from thermograd.runs.pictures import own_style

    with own_style():
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        bayes_factor(found, first, second, figure.subplots())
        with written_whole(file) as aside:
            figure.savefig(aside, dpi=130, format="png")
    return file


# --- of a run or a study ---


def variance_against_iteration(
    source: "Source", quantity: str | None = None, network: str = "total", axes: "Axes | None" = None
) -> "Axes":
    """Draw the variance of the learning gradient against the iteration, on training (solid) and test images (dashed).

    Of a run: its total, the parts of chains and of the batch, and the chain variance of one fixed batch. Of a study:
    one of them, each arm in its colour; lines are geometric means over seeds.

    Args:
        source: a run, a run folder, or a study folder.
        quantity: "total_variance", "chain_variance", "batch_variance" or "fixed_chain_variance"; None for all of a run,
            and for the total of a study.
        network: "total" for both, "generator" or "prior".
        axes: to draw on; None for new ones.

    Raises:
        InputError: no run or study, or nothing of the kind was measured.

    Example:
        >>> axes = tg.plots.variance_against_iteration("studies/demo")  # doctest: +SKIP
    """
    from thermograd.reports import drawing
    from thermograd.reports.style import looks

    data = _collected(source)
    parts = {part.name: part for part in drawing.parts_of(data, network)}
    if quantity is not None and quantity not in parts:
        raise InputError(f"`quantity` must be one of {', '.join(parts) or 'none'}, got {quantity!r}.")
    if not parts:
        raise InputError(f"`source` {data.source.path} has no measured variance of {network!r}.")
    is_run = len(data.arms) == 1
    chosen = list(parts.values()) if is_run and quantity is None else [parts[quantity or next(iter(parts))]]
    arms = None if is_run else looks(data.arms)
    axes = _bare(_axes(axes))
    drawing.draw_variance(axes, data, chosen, SPLITS, network, arms)
    _legend(axes, {part.words: part.look for part in chosen} if arms is None else arms, SPLITS)
    return axes


def distance_against_iteration(
    source: "Source", metric: str | None = None, axes: "Axes | None" = None
) -> "Axes":
    """Draw the distance of samples to training (solid) and test images (dashed) against the iteration, by arm.

    Args:
        source: a run, a run folder, or a study folder.
        metric: a distance as a column of `load_study` names it; None for the main one.
        axes: to draw on; None for new ones.

    Raises:
        InputError: no run or study, or the distance was not measured.

    Example:
        >>> axes = tg.plots.distance_against_iteration("runs/first")  # doctest: +SKIP
    """
    from thermograd.reports import drawing
    from thermograd.reports.style import looks

    data = _collected(source)
    arms, axes = looks(data.arms), _bare(_axes(axes))
    drawing.draw_distance(axes, data, _distance(data, metric), arms, SPLITS)
    _legend(axes, arms if len(arms) > 1 else {}, SPLITS)
    return axes


def distance_against_variance(
    source: "Source",
    metric: str | None = None,
    variance: str = "total_variance",
    split: str = "test",
    axes: "Axes | None" = None,
) -> "Axes":
    """Draw the way of each arm through distance and gradient variance: its measured steps, first hollow, last large.

    A line joins the steps of one arm. Arms of different objectives have gradients of different lengths, so between them
    neither the total nor the normalised variance tells an effect of variance.

    Args:
        source: a run, a run folder, or a study folder.
        metric: a distance as a column of `load_study` names it; None for the main one.
        variance: "total_variance", "chain_variance", "batch_variance" or "normalised_variance".
        split: images that both are of, "train" or "test".
        axes: to draw on; None for new ones.

    Raises:
        InputError: no run or study, or one of the two was not measured.

    Example:
        >>> axes = tg.plots.distance_against_variance("studies/demo")  # doctest: +SKIP
    """
    from thermograd.reports import drawing
    from thermograd.reports.style import looks

    data = _collected(source)
    metric = _distance(data, metric)
    rows = data.table[data.table["split"] == split]
    if variance not in rows or not (rows[variance] > 0).any():
        raise InputError(f"`variance` {variance!r} was not measured on the {split} images.")
    arms, axes = looks(data.arms), _bare(_axes(axes))
    drawing.draw_trajectories(axes, rows, metric, variance, arms)
    _legend(axes, arms if len(arms) > 1 else {}, ())
    return axes


SPLITS = ("train", "test")


def _collected(source: "Source") -> "ReportData":
    from thermograd.reports.collect import ReportData, collect

    if isinstance(source, ReportData):
        return source
    return collect(Path(source if isinstance(source, str | Path) else source.folder))


def _distance(data: "ReportData", metric: str | None) -> str:
    from thermograd.reports.conclusions import main_distance

    metric = metric or main_distance(data.table, data.source.contrasts)
    if metric is None or metric not in data.table:
        known = [str(name) for name in data.table if str(name).startswith("distance:")]
        raise InputError(f"`metric` must be one of {', '.join(known) or 'none measured'}, got {metric!r}.")
    return metric


def _legend(axes: "Axes", looks: "Mapping[str, Look]", splits: Sequence[str]) -> None:
    """Name the lines; names are set afterwards, since one that begins with _ would be left out."""
    from matplotlib.lines import Line2D

    from thermograd.reports.style import split_looks

    named = {**looks, **split_looks(splits)}
    handles = [
        Line2D([], [], color=each.colour, linestyle=each.line, marker=each.marker, markersize=4)
        for each in named.values()
    ]
    if handles:
        legend = axes.legend(handles, [str(i) for i in range(len(named))], frameon=False)
        for text, name in zip(legend.get_texts(), named, strict=True):
            text.set_text(name)


def _axes(axes: "Axes | None") -> Any:
    if axes is not None:
        return axes
    from matplotlib import pyplot

    return pyplot.subplots(layout="constrained")[1]


def _bare(axes: Any) -> Any:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return axes
