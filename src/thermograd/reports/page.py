"""The page of a report and its files.

Everything goes to DIR/report: report.html, NAME.svg and NAME.png of each figure, NAME.csv of each table. The page holds
its figures itself, wide ones for screens and paper and narrow ones for telephones, so it can be sent alone. The same
study gives the same bytes.
"""

import base64
import io
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from thermograd.files import write_atomically
from thermograd.reports.statistics import FEWEST_SEEDS
from thermograd.reports.style import STYLE, Missing, Plot
from thermograd.reports.words import capital
from thermograd.runs.pictures import own_style
from thermograd.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from thermograd.reports.collect import ReportData
    from thermograd.reports.conclusions import Conclusions

PIXELS_PER_INCH = 160
DOCS = "https://github.com/thermograd/thermograd/blob/main/docs"

Drawn = dict[str, str] | Missing
"""What the page shows of a figure, or why it shows none."""


def write_report(folder: Path | str) -> Path:
    """Write the report of a study or run folder and return its page, DIR/report/report.html.

    It reads only files of the folder; a run or study that is still at work gives a report of what there is so far.

    Raises:
        InputError: neither a study nor a run, or nothing was measured yet.

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
        three, further = (
            [_draw(entry, out) if isinstance(entry, Plot) else entry for entry in entries]
            for entries in figures(data, conclusions)
        )
    page = out / "report.html"
    write_atomically(page, render(data, conclusions, three, further, tables))
    return page


def figures(
    data: "ReportData", conclusions: "Conclusions"
) -> tuple[Sequence[Plot | Missing], Sequence[Plot | Missing]]:
    """Return the three plots of the question, and all other figures, or why they are missing."""
    from thermograd.reports import against, comparisons, parts, temperatures
    from thermograd.reports.style import looks

    arms, metric = looks(data.arms), conclusions.association.metric
    three = [
        against.variance_against_iteration(data),
        against.distance_against_iteration(data, metric),
        against.distance_against_variance(data, metric),
    ]
    further = [
        parts.distance_parts(data, arms),
        parts.bias_beside_variance(data, arms),
        against.networks_against_iteration(data),
        temperatures.temperatures(data, arms),
    ]
    if data.source.study is not None:
        further = [
            comparisons.contrasts(data, conclusions),
            comparisons.arm_differences(data, arms, metric),
            *further,
            comparisons.evidence_by_arm(data, arms),
            comparisons.cost(data, arms, metric),
        ]
    return three, further


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
    three: Sequence[Drawn],
    further: Sequence[Drawn],
    tables: dict[str, "pd.DataFrame"],
) -> str:
    """Return the page."""
    import jinja2

    from thermograd.reports.gallery import exhibits
    from thermograd.reports.layout import shown_tables
    from thermograd.reports.opening import opening

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html.j2").render(
        name=data.source.name,
        is_study=data.source.study is not None,
        version=__version__,
        docs=DOCS,
        done=data.counts[0],
        planned=data.counts[1],
        failed=data.failed,
        opening=opening(data, conclusions),
        exhibits=exhibits(data),
        answers=_answers(conclusions),
        num_contrasts=len(conclusions.contrasts),
        has_intervals=data.table["seed"].nunique() >= FEWEST_SEEDS,
        three=[entry for entry in three if isinstance(entry, dict)],
        further=[entry for entry in further if isinstance(entry, dict)],
        missing=[entry for entry in (*three, *further) if isinstance(entry, Missing)],
        tables=shown_tables(tables),
        files=sorted(tables),
        settings=data.settings,
        runs=_run_links(data),
        repeat=_repeat(data),
    )
    return re.sub(r"(\d) %", "\\1\N{NO-BREAK SPACE}%", page)  # a number and its sign stay on one line


def _answers(conclusions: "Conclusions") -> list[dict[str, str]]:
    """Return the sentences with their numbers, each with its standing."""
    answers = [
        {"standing": result.status, "kind": result.status.split()[0], "text": capital(result.sentence)}
        for result in conclusions.contrasts
    ]
    found = conclusions.association
    standing = "exploratory" if found.association is not None else "not measured"
    return [*answers, {"standing": standing, "kind": standing.split()[0], "text": found.sentence}]


MOST_LINKS = 200
"""Runs up to which each has a link of its own."""


def _run_links(data: "ReportData") -> list[dict[str, Any]]:
    """Return the runs of each arm with the way to their folders from the page."""
    source, report = data.source, data.source.path / "report"
    if len(source.runs) > MOST_LINKS:
        return [{"arm": f"{len(source.runs):,} runs", "runs": [("their folder", "../runs/")]}]
    links: dict[str, list[tuple[str, str]]] = {}
    for run, folder in zip(source.runs, source.folders, strict=True):
        way = quote(os.path.relpath(folder, report).replace(os.sep, "/"))
        links.setdefault(run.arm, []).append((f"seed {run.seed}", f"{way}/"))
    return [{"arm": arm, "runs": runs} for arm, runs in links.items()]


def _repeat(data: "ReportData") -> str:
    """Return the command that does the same again, in the folder of the study or run."""
    if data.source.study is not None:
        return "thermograd study run study.yaml --out AGAIN"
    return f"thermograd train {shlex.quote(data.source.runs[0].config['preset'])} --config config.yaml --out AGAIN"
