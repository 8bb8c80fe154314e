"""The page of a report and its files.

Everything goes to DIR/report: report.html, NAME.svg and NAME.png of each figure, NAME.csv of each table. The page holds
its figures itself, wide ones for screens and paper and narrow ones for telephones, so it can be sent alone. The same
study gives the same bytes.
"""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thermograd.files import write_atomically
from thermograd.reports.style import STYLE, Missing, Plot
from thermograd.runs.pictures import own_style
from thermograd.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from thermograd.reports.collect import ReportData
    from thermograd.reports.conclusions import Conclusions

PIXELS_PER_INCH = 160


def write_report(folder: Path | str) -> Path:
    """Write the report of a study folder and return its page, DIR/report/report.html.

    Reads files of the folder and nothing else; a study that still runs gives a report of what it has.

    Raises:
        InputError: not a study folder, or one in which nothing was measured yet.

    Example:
        >>> page = tg.write_report("studies/quick")  # doctest: +SKIP
    """
    from thermograd.reports.collect import collect
    from thermograd.reports.conclusions import conclude
    from thermograd.reports.tables import all_tables
    from thermograd.study.results import csv_text

    folder = Path(folder)
    data = collect(folder)
    conclusions = conclude(data.table, data.source.contrasts, data.arms, data.unfinished)
    out = folder / "report"
    out.mkdir(exist_ok=True)
    tables = all_tables(data, conclusions)
    for name, frame in tables.items():
        write_atomically(out / f"{name}.csv", csv_text(frame))
    with own_style(STYLE):
        entries = figures(data, conclusions)
        drawn = [_draw(entry, out) for entry in entries if isinstance(entry, Plot)]
    missing = [entry for entry in entries if isinstance(entry, Missing)]
    page = out / "report.html"
    write_atomically(page, render(data, conclusions, drawn, missing, tables))
    return page


def figures(data: "ReportData", conclusions: "Conclusions") -> Sequence[Plot | Missing]:
    """Return every figure of a report in its order, or why it is missing."""
    from thermograd.reports import against, comparisons, temperatures
    from thermograd.reports.style import looks

    arms, metric = looks(data.arms), conclusions.association.metric
    three = [
        against.variance_against_iteration(data),
        against.distance_against_iteration(data, metric),
        against.distance_against_variance(data, metric),
    ]
    further = [
        against.networks_against_iteration(data),
        comparisons.gradients_by_arm(data, arms),
        temperatures.temperatures(data, arms),
    ]
    if data.source.study is None:
        return [*three, *further]
    return [
        comparisons.contrasts(data, conclusions),
        comparisons.arm_differences(data, arms, metric),
        *three,
        *further,
        comparisons.evidence_by_arm(data, arms),
        comparisons.cost(data, arms, metric),
    ]


def _draw(plot: Plot, out: Path) -> dict[str, str]:
    """Write the files of a figure and return what the page shows of it."""
    wide, narrow = (_laid_out(plot.draw(is_narrow)) for is_narrow in (False, True))
    drawing = _image(wide, "svg")
    write_atomically(out / f"{plot.name}.svg", drawing)
    write_atomically(out / f"{plot.name}.png", _image(wide, "png"))
    return {
        "name": plot.name,
        "title": plot.title,
        "caption": plot.caption,
        "wide": _data_address(drawing),
        "narrow": _data_address(_image(narrow, "svg")),
    }


def _laid_out(figure: "Figure") -> "Figure":
    """Lay a figure out once, for all of its files."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    return figure


def _image(figure: "Figure", kind: str) -> bytes:
    buffer = io.BytesIO()
    # Without a date, so that the same study gives the same bytes.
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=PIXELS_PER_INCH, metadata=metadata)
    return buffer.getvalue()


def _data_address(drawing: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing).decode()}"


# --- the page ---


def render(
    data: "ReportData",
    conclusions: "Conclusions",
    drawn: Sequence[dict[str, str]],
    missing: Sequence[Missing],
    tables: dict[str, "pd.DataFrame"],
) -> str:
    """Return the page."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html.j2").render(
        study=data.source.name,
        version=__version__,
        done=data.counts[0],
        planned=data.counts[1],
        failed=data.failed,
        answers=_answers(conclusions),
        num_contrasts=len(conclusions.contrasts),
        figures=drawn,
        missing=missing,
        tables=_shown_tables(tables),
        files=sorted(tables),
        settings=data.settings,
    )
    return re.sub(r"(\d) %", "\\1\N{NO-BREAK SPACE}%", page)  # a number and its sign stay on one line


def _answers(conclusions: "Conclusions") -> list[dict[str, str]]:
    """Return the sentences that the page begins with, each with its standing."""
    answers = [
        {"standing": result.status, "kind": result.status.split()[0], "text": _capital(result.sentence)}
        for result in conclusions.contrasts
    ]
    found = conclusions.association
    standing = "exploratory" if found.association is not None else "not measured"
    return [*answers, {"standing": standing, "kind": standing.split()[0], "text": found.sentence}]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _shown_tables(tables: dict[str, "pd.DataFrame"]) -> list[dict[str, Any]]:
    """Return the tables of the page, as text."""
    from thermograd.reports.words import label

    shown = []
    if "finals" in tables:
        shown.append(_pivoted(tables["finals"], "mean", "finals", "At the end, on the test set"))
    if "differences" in tables:
        frame = tables["differences"]
        table = _pivoted(frame, "difference", "differences", "Differences from vanilla, paired over seeds")
        placebo = ["noise floor (placebo)"]
        for metric in frame["metric"].drop_duplicates():
            row = frame[frame["metric"] == metric].iloc[0]
            placebo.append(_cell(row["placebo"], row["placebo_low"], row["placebo_high"]))
        table["rows"].append(placebo)
        shown.append(table)
    for name, title in (
        ("gradients", "The gradient as last measured"),
        ("chains", "Stored chains at the end of training"),
        ("costs", "Cost"),
        ("arms", "Arms"),
    ):
        if name in tables:
            frame = tables[name]
            if name == "gradients":
                ends = [column for column in frame if str(column).endswith(("_low", "_high"))]
                frame = frame.drop(columns=ends).dropna(axis=1, how="all")
            frame = frame.drop(columns=["identities"], errors="ignore")
            rows = [[_text(value) for value in row] for row in frame.itertuples(index=False)]
            names = [label(str(column)) for column in frame.columns]
            shown.append({"name": name, "title": title, "columns": names, "rows": rows})
    return shown


def _pivoted(frame: "pd.DataFrame", value: str, name: str, title: str) -> dict[str, Any]:
    """Lay a long table out with one row per arm and one column per metric."""
    from thermograd.reports.words import label

    metrics = list(frame["metric"].drop_duplicates())
    rows = []
    for arm in frame["arm"].drop_duplicates():
        mine = frame[frame["arm"] == arm].set_index("metric")
        cells = [
            _cell(*(mine.loc[m, f"{value}{end}"] for end in ("", "_low", "_high")))
            if m in mine.index
            else "–"
            for m in metrics
        ]
        rows.append([arm, *cells])
    return {"name": name, "title": title, "columns": ["arm", *map(label, metrics)], "rows": rows}


def _cell(value: float, low: float, high: float) -> str:
    from thermograd.reports.words import number

    return number(value) if low != low else f"{number(value)} [{number(low)}, {number(high)}]"


def _text(value: object) -> str:
    from thermograd.reports.words import number

    if isinstance(value, str):
        return value
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1e5):
        return f"{int(value):,}"
    return number(float(value)) if isinstance(value, float) else "–" if value is None else str(value)
