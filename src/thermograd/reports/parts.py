"""Figures that take a number apart: distance into decoder and prior, the gradient's error into bias and variance."""

from typing import TYPE_CHECKING

from thermograd.reports.collect import ReportData
from thermograd.reports.rows import FRESH, REFERENCE
from thermograd.reports.statistics import Interval
from thermograd.reports.style import Look, Missing, Plot, arm_legend, interval_point, log_axis, panels
from thermograd.reports.tables import gradients
from thermograd.reports.words import capital, label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PART_WORDS = {
    "posterior-train": "decoded posterior,\ntraining images",
    "posterior-test": "decoded posterior,\ntest images",
}
VERDICTS = {
    "settled": "settled: what its energy says is what it makes",
    "short-run": "a short-run sampler, not a density: run on, its chains go elsewhere",
    "not-settled": "not settled: run on, its chains go elsewhere",
}


def distance_parts(data: ReportData, looks: dict[str, Look]) -> Plot | Missing:
    """Draw the distance of decoded posterior draws, which the decoder has, and of samples at numbers of prior steps."""
    title = "The distance in its two parts: decoder and prior"
    rows = data.parts
    if rows.empty:
        return Missing(title, "it was not measured (measure.prior, or thermograd evaluate on each run).")
    name = rows["name"].iloc[0]
    rows = rows[rows["name"] == name]
    steps = sorted({int(each) for each in rows["num_steps"].dropna()})
    places: list[tuple[str, int | None]] = [
        (images, None) for images in PART_WORDS if (rows["images"] == images).any()
    ]
    places += [("prior", each) for each in steps]
    words = [PART_WORDS.get(images) or f"samples,\n{num} steps" for images, num in places]
    arms = [arm for arm in looks if (rows["arm"] == arm).any()]

    def draw(narrow: bool) -> "Figure":
        figure, (ax,) = panels(1, narrow, height=3.0)
        for arm in arms:
            mine, look = rows[rows["arm"] == arm], looks[arm]
            line = []
            for x, (images, num) in enumerate(places):
                at_steps = mine["num_steps"].isna() if num is None else mine["num_steps"] == num
                at = mine[(mine["images"] == images) & at_steps]
                line.append(at["value"].astype(float).mean())
                if len(at) > 1:
                    ax.plot(
                        [x] * len(at),
                        at["value"],
                        look.marker,
                        color=look.colour,
                        alpha=0.35,
                        markersize=4,
                        mew=0,
                    )
            first = sum(num is None for _, num in places)
            ax.plot(range(first), line[:first], look.marker, color=look.colour, markersize=6)
            ax.plot(
                range(first, len(line)),
                line[first:],
                look.marker,
                color=look.colour,
                linestyle="-",
                markersize=6,
            )
        ax.set_xticks(
            range(len(places)), words, rotation=45 if narrow else 0, ha="right" if narrow else "center"
        )
        ax.set(ylabel=label(f"distance:{name}"), xlim=(-0.4, len(places) - 0.6), ylim=(0, None))
        arm_legend(figure, {arm: looks[arm] for arm in arms} if len(arms) > 1 else {}, narrow, lines=False)
        return figure

    verdicts = rows.groupby("verdict", sort=False)["arm"].unique()
    said = "; ".join(
        f"{', '.join(found)}: {VERDICTS.get(str(each), each)}" for each, found in verdicts.items()
    )
    return Plot(
        "distance_parts",
        title,
        f"{capital(label(f'distance:{name}'))} to the test images at the last measured step. Decoded posterior draws "
        f"of real images show what the decoder has learnt; samples, after more and more steps of the prior's chains, "
        f"what the prior adds. Prior of {said}.",
        draw,
    )


def bias_beside_variance(data: ReportData, looks: dict[str, Look]) -> Plot | Missing:
    """Draw squared bias beside the parts of the variance and the mean square error, both networks together."""
    title = "Bias of the chains beside their variance"
    table = gradients(data.variances, data.arms)
    table = table[(table["network"] == "total") & (table["split"] == "train")]
    # Where the run's own chains were held against a reference, their variance is that on the same images.
    has_reference = (table["batches"] == REFERENCE).any()
    table = table[table["batches"] == (REFERENCE if has_reference else FRESH)].set_index("arm")
    if table.empty or table["squared_bias"].isna().all():
        return Missing(
            title, "no bias was measured (measure.chain_bias, or thermograd variance on each run)."
        )
    names = [name for name in TITLES if table[name].notna().any()]
    arms = [arm for arm in looks if arm in table.index]

    def draw(narrow: bool) -> "Figure":
        figure, axes = panels(len(names), narrow, height=0.9 + 0.25 * len(arms))
        for i, (ax, name) in enumerate(zip(axes, names, strict=True)):
            for y, arm in enumerate(arms):
                row, look = table.loc[arm], looks[arm]
                interval = Interval(row[name], row[f"{name}_low"], row[f"{name}_high"], "")
                interval_point(ax, interval, y, look.colour, look.marker)
            values = table[name].dropna()
            if (values > 0).all() and values.max() > 20 * values.min():
                log_axis(ax, "x")
            named = narrow or i % min(3, len(names)) == 0
            ax.set(ylim=(len(arms) - 0.5, -0.5), yticks=range(len(arms)), yticklabels=arms if named else [])
            ax.set_title(TITLES[name])
        return figure

    where = (
        "on fixed training images, of the run's own chains against long ones"
        if has_reference
        else "on training images"
    )
    return Plot(
        "bias_beside_variance",
        title,
        f"As last measured {where}, mean over the coordinates of both networks, each arm at its own weights.",
        draw,
    )


TITLES = {
    "squared_bias": "Squared bias",
    "chain_variance": "Variance of the chains",
    "batch_variance": "Variance of the batch",
    "total_variance": "Total variance",
    "mean_square_error": "Mean square error",
}
