"""How figures look: one calm style, and an arm's colour and marker everywhere the same.

Families of arms differ in hue (after Okabe and Ito, safe for colour-blind readers) and in marker; within a family the
parameter, p or c, goes from light to dark.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thermograd.reports.statistics import Interval
from thermograd.study.arms import ArmKind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#24292f", "#6b7280", "#e5e7eb"
PLACEBO = "#d9dce1"
"""Of the band of the noise floor."""

FAMILIES: dict[str | None, tuple[tuple[str, str], str, str]] = {
    "vanilla": (("#24292f", "#24292f"), "o", "-"),
    "placebo": (("#9aa1ab", "#7b838f"), "o", "-"),
    "vanilla-matched": (("#aa4c8f", "#aa4c8f"), "s", "-"),
    "detached": (("#8fc3ea", "#0b4f86"), "^", "-"),
    "complete": (("#f5b26b", "#b34700"), "D", "-"),
    "noise-dial": (("#7fd0b2", "#00664a"), "v", "-"),
    None: (("#c9b458", "#5b4a00"), "P", "-"),
}
"""Kind of arm -> (lightest and darkest colour, marker, line)."""

SPLIT_LINES = {"train": "-", "test": "--"}
"""How the line of a split looks wherever both are drawn."""
SPLIT_WORDS = {"train": "training images", "test": "test images"}

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa1ab",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "axes.formatter.limits": (-4, 5),
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "thermograd",
}

WIDE, NARROW = 8.4, 4.0
"""Widths in inches: of a screen, and of a telephone."""


@dataclass(frozen=True)
class Look:
    """Colour, marker and line of an arm."""

    colour: str
    marker: str
    line: str


@dataclass(frozen=True)
class Plot:
    """A figure that can be drawn wide or narrow.

    Attributes:
        name: of its files.
        title: what it shows.
        caption: what to see, and how it was made.
        draw: returns the figure, narrow (True) or wide.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[bool], "Figure"]


@dataclass(frozen=True)
class Missing:
    """A figure whose data are missing, and why."""

    title: str
    reason: str


def looks(arms: Mapping[str, ArmKind]) -> dict[str, Look]:
    """Return the look of each arm."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    found = {}
    for ready in dict.fromkeys(kind.ready for kind in arms.values()):
        members = [arm for arm, kind in arms.items() if kind.ready == ready]
        ends, marker, line = FAMILIES.get(ready, FAMILIES[None])
        shades = LinearSegmentedColormap.from_list("family", ends)
        for i, arm in enumerate(members):
            place = 0.75 if len(members) == 1 else i / (len(members) - 1)
            found[arm] = Look(to_hex(shades(place)), marker, line)
    return {arm: found[arm] for arm in arms}


def split_looks(splits: Iterable[str]) -> dict[str, Look]:
    """Return what a legend says of splits."""
    return {SPLIT_WORDS[split]: Look(FAINT, "", SPLIT_LINES[split]) for split in splits}


def panels(
    num: int, narrow: bool, *, columns: int = 3, height: float = 2.7, share_y: bool = False
) -> tuple["Figure", list["Axes"]]:
    """Return a figure with this many panels: side by side, or one below the other where it is narrow."""
    from matplotlib.figure import Figure

    columns = 1 if narrow else min(columns, num)
    rows = -(-num // columns)
    figure = Figure(figsize=(NARROW if narrow else WIDE, height * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y and not narrow).ravel().tolist()
    for extra in axes[num:]:
        extra.remove()
    return figure, axes[:num]


def log_axis(ax: "Axes", which: str) -> None:
    """Make an axis logarithmic, with ticks such as 0.01, 3 and 2e6: plain text is drawn far faster than formulas."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(ax, f"set_{which}scale")("log")
    axis = ax.xaxis if which == "x" else ax.yaxis
    low, high = sorted(axis.get_view_interval())
    few = high < 100 * low  # powers of ten alone could leave a single tick
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if few else (1,), numticks=8 if few else 5))
    axis.set_major_formatter(
        FuncFormatter(lambda value, place: f"{value:g}".replace("e-0", "e-").replace("e+0", "e"))
    )
    axis.set_minor_formatter(NullFormatter())


MANY = 12
"""Values from which on their quartiles alone say what is far outside."""


def fit_axis(ax: "Axes", which: str, values: Iterable[float]) -> None:
    """Let an axis end where most values do, and write beside it how many lie beyond: one dot must not hide the others.

    Beyond is what lies further from the quartiles than four times their distance; on a logarithmic axis ten times at
    least, and of fewer than `MANY` values a thousand times.

    Args:
        ax: with its scale set.
        which: "x" or "y".
        values: that were drawn.
    """
    get_limits, set_limits = getattr(ax, f"get_{which}lim"), getattr(ax, f"set_{which}lim")
    is_log = getattr(ax, f"get_{which}scale")() == "log"
    drawn = np.sort(np.array([each for each in values if np.isfinite(each) and not (is_log and each <= 0)]))
    if len(drawn) < 3:
        return
    placed = np.log10(drawn) if is_log else drawn
    lower, upper = placed[-(-(len(placed) - 1) // 4)], placed[3 * (len(placed) - 1) // 4]
    # Few values say little of where most lie: a run of three steps is shown whole unless one is a thousand times off.
    least = (0.25 if is_log else 0.1 * abs(lower)) * (1 if len(placed) >= MANY else 3)
    reach = 4 * max(upper - lower, least)
    inside = placed[(placed >= lower - reach) & (placed <= upper + reach)]
    if len(inside) == len(placed):
        return
    margin = 0.05 * (inside.max() - inside.min()) or 0.1
    ends = inside.min() - margin, inside.max() + margin
    low, high = (10.0**end if is_log else end for end in ends)
    above, below = int((placed > ends[1]).sum()), int((placed < ends[0]).sum())
    set_limits(low if below else get_limits()[0], high if above else get_limits()[1])
    places = {"y": ((1, 1), (1, 0)), "x": ((1, 1), (0, 1))}[which]
    for num, arrow, place in zip((above, below), "↑↓" if which == "y" else "→←", places, strict=True):
        if num:
            ax.annotate(f"{num} beyond {arrow}", place, xycoords="axes fraction", fontsize=7.5, color=FAINT,
                        ha="right" if place[0] else "left", va="top" if place[1] else "bottom")  # fmt: skip


def arm_legend(figure: "Figure", arms: Mapping[str, Look], narrow: bool, *, lines: bool = True) -> None:
    """Put one legend of all arms under a figure."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=look.colour,
            linestyle=look.line if lines else "none",
            marker=look.marker,
            markersize=4,
        )
        for look in arms.values()
    ]
    if not handles:
        return
    longest = max(map(len, arms))
    most = (48 if narrow else 110) // (longest + 6)
    # Names are set afterwards: a label that begins with _ would be left out.
    legend = figure.legend(
        handles,
        [str(i) for i in range(len(arms))],
        loc="outside lower center",
        ncols=max(1, min(len(arms), most)),
        columnspacing=1.4,
    )
    for text, arm in zip(legend.get_texts(), arms, strict=True):
        text.set_text(arm)


def interval_point(ax: "Axes", interval: Interval, y: float, colour: str, marker: str) -> None:
    """Draw a value with its interval, where it has one, on a line of its own."""
    if math.isfinite(interval.low):
        ax.plot([interval.low, interval.high], [y, y], color=colour, linewidth=1.5, solid_capstyle="round")
    ax.plot(interval.value, y, marker, color=colour, markersize=5.5)
