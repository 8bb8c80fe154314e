"""Plots as functions: each draws on axes, makes them where none are given, and returns them.

axes = tg.plots.learning_curve(fit)
axes.figure.savefig("curve.png")
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thermograd.evidence import Evidence
    from thermograd.training.fit import Fit
    from thermograd.training.variance import GradientVariance

BLUE, RED = "#1b6ca8", "#d1495b"


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


def _axes(axes: "Axes | None") -> Any:
    if axes is not None:
        return axes
    from matplotlib import pyplot

    return pyplot.subplots(layout="constrained")[1]


def _bare(axes: Any) -> Any:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return axes
