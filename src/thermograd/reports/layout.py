"""The tables of the page, laid out so that they fit: metrics down and arms across, or the other way round.

Where neither fits a page the columns are divided; on a telephone each row becomes a card.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thermograd.reports.rows import AS_TRAINED, FIXED, FRESH, QUANTITIES, REFERENCE
from thermograd.reports.style import SPLIT_WORDS
from thermograd.reports.words import label, number

if TYPE_CHECKING:
    import pandas as pd

MOST_COLUMNS = 7
"""Beside the first, on a screen of 1280 pixels."""

BATCH_WORDS = {
    FRESH: "fresh batches and chains",
    FIXED: "one fixed batch",
    AS_TRAINED: "fresh batches, the stored chains of training",
    REFERENCE: "fixed batches, against long chains",
}


@dataclass(frozen=True)
class Cell:
    """A value as text, with its interval below it."""

    text: str
    interval: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page; rows begin with their name."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def shown_tables(tables: dict[str, "pd.DataFrame"]) -> list[Table]:
    """Return the tables of the page, from those that are written as CSV."""
    shown: list[Table] = []
    if "finals" in tables:
        shown += _crossed("finals", "At the end, on the test images", _cells(tables["finals"], "mean"))
    if "differences" in tables:
        frame = tables["differences"]
        cells = _cells(frame, "difference")
        if frame["placebo"].notna().any():
            for metric, rows in frame.groupby("metric", sort=False):
                cells[label(str(metric)), "noise floor (placebo)"] = _cell(rows.iloc[0], "placebo")
        shown += _crossed("differences", "Differences from vanilla, paired over seeds", cells)
    if "gradients" in tables:
        shown += _crossed("gradients", "The gradient as last measured", _gradient_cells(tables["gradients"]))
    for name, title in (
        ("chains", "Stored chains at the end of training"),
        ("costs", "Cost"),
        ("arms", "Arms"),
    ):
        if name in tables:
            frame = tables[name].drop(columns=["identities"], errors="ignore").set_index("arm")
            frame = frame.dropna(axis=1, how="all")
            cells = {
                (label(str(column)), str(arm)): Cell(_text(value))
                for column in frame
                for arm, value in frame[column].items()
            }
            shown += _crossed(name, title, cells)
    return shown


def _cells(frame: "pd.DataFrame", value: str) -> dict[tuple[str, str], Cell]:
    """Return the cells of a long table by metric and arm."""
    return {(label(row["metric"]), row["arm"]): _cell(row, value) for row in frame.to_dict("records")}


def _gradient_cells(frame: "pd.DataFrame") -> dict[tuple[str, str], Cell]:
    cells = {}
    for row in frame[frame["network"] == "total"].to_dict("records"):
        for name in QUANTITIES:
            if row[name] == row[name]:
                where = f"{SPLIT_WORDS[row['split']]}, {BATCH_WORDS[row['batches']]}: {QUANTITY_WORDS[name]}"
                cells[where, row["arm"]] = _cell(row, name)
    return cells


QUANTITY_WORDS = {
    **QUANTITIES,
    "total_variance": "total variance",
    "chain_variance": "variance of the chains",
    "batch_variance": "variance of the batch",
}


def _crossed(name: str, title: str, cells: dict[tuple[str, str], Cell]) -> list[Table]:
    """Lay cells by (metric, arm) out with metrics down and arms across; arms down where they are many."""
    metrics = list(dict.fromkeys(metric for metric, _ in cells))
    arms = list(dict.fromkeys(arm for _, arm in cells))
    down = metrics if len(arms) <= MOST_COLUMNS else arms
    across = arms if down is metrics else metrics
    found = []
    for first in range(0, len(across), MOST_COLUMNS):
        columns = across[first : first + MOST_COLUMNS]
        rows = []
        for row in down:
            keys = [(row, column) if down is metrics else (column, row) for column in columns]
            rows.append((Cell(row), *(cells.get(key, Cell("–")) for key in keys)))
        more = f" ({first // MOST_COLUMNS + 1} of {-(-len(across) // MOST_COLUMNS)})"
        corner = "" if down is metrics else "arm"
        part = Table(
            name if not first else f"{name}-{first // MOST_COLUMNS + 1}",
            title + (more if len(across) > MOST_COLUMNS else ""),
            (corner, *columns),
            tuple(rows),
        )
        found.append(part)
    return found


def _cell(row: Any, name: str) -> Cell:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return Cell(number(value), "" if low != low else f"[{number(low)}, {number(high)}]")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1e5):
        return f"{int(value):,}"
    return number(float(value)) if isinstance(value, float) else "–" if value is None else str(value)
