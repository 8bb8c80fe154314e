"""The figure of the temperatures with which training ended."""

from typing import TYPE_CHECKING, Any

from thermograd.reports.collect import ReportData
from thermograd.reports.style import Look, Missing, Plot, arm_legend, log_axis, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def temperatures(data: ReportData, looks: dict[str, Look]) -> Plot | Missing:
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
