"""One table of all runs of a study, and SQL over its folders.

A row is one measurement of one checkpoint of one run; its key is (run, step, split). docs/study.md tells the columns.
Rows are made of what the runs' own clock measured; what a command measured beside it stays in the run folders.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from thermograd.errors import InputError, failure, import_extra
from thermograd.evaluation.records import Record, read_records
from thermograd.files import written_whole
from thermograd.study.folder import StudyFolder, open_study
from thermograd.study.run import StudyRun

if TYPE_CHECKING:
    import pandas as pd

TIME_COLUMNS = ("seconds",)
"""What differs between two studies that did the same."""
GRADIENT_QUANTITIES = ("chain_variance", "batch_variance", "total_variance", "normalised_variance")
"""Of the learning gradient on the split of a row."""


@dataclass(frozen=True)
class RunFiles:
    """What a run has written so far, each file read once.

    Attributes:
        run: of the study.
        metrics: records of training, by step.
        records: measurements.
        rows: of the table.
        damage: what is wrong with the files where they cannot be used; the rest is then empty.
    """

    run: StudyRun
    metrics: list[dict[str, Any]]
    records: list[Record]
    rows: list[dict[str, Any]]
    damage: str | None = None


MALFORMED = (InputError, KeyError, TypeError, ValueError, AttributeError, IndexError)
"""What a file of the right form raises that does not hold what its writer would have written."""


def read_run(study: str, run: StudyRun, path: Path) -> RunFiles:
    """Read what a run in a folder has written; `study` is what its rows name.

    Warns:
        UserWarning: its files are damaged.
    """
    from thermograd.runs.metrics import read_metrics

    try:
        metrics, records = read_metrics(path), read_records(path)
        return RunFiles(run, metrics, records, list(_rows(study, run, metrics, records)))
    except MALFORMED as error:
        damage = failure(error)
        warnings.warn(f"{run.arm}, seed {run.seed} ({path}) is damaged: {damage}.", stacklevel=2)
        return RunFiles(run, [], [], [], damage)


def load_study(path: Path | str) -> "pd.DataFrame":
    """Return the table of a study folder as it stands, in the order of the study file.

    Raises:
        InputError: not a study folder.

    Example:
        >>> table = tg.load_study("studies/quick")  # doctest: +SKIP
    """
    return _table(open_study(Path(path)))


def _table(folder: StudyFolder) -> "pd.DataFrame":
    """Return the table of a study, with the files of one run in memory at a time."""
    places = ((run, folder.run_folder(run.identity)) for run in folder.runs)
    return table_of([row for run, path in places for row in read_run(folder.study.name, run, path).rows])


def table_of(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Return the table of a study from the rows of its runs."""
    pd = import_extra("pandas")
    # A study that has measured nothing yet still has the columns that say what its rows will be.
    names = dict.fromkeys(name for row in rows for name in row) or (
        "study",
        "run",
        "arm",
        "seed",
        "step",
        "split",
    )
    return pd.DataFrame({name: [row.get(name, math.nan) for row in rows] for name in names})


def write_tables(path: Path) -> list[Path]:
    """Write results.parquet and results.csv into a study folder, whole or not at all."""
    frame = load_study(path)
    files = [path / "results.parquet", path / "results.csv"]
    for file in files:
        with written_whole(file) as aside:
            frame.to_parquet(aside, index=False) if file == files[0] else aside.write_text(csv_text(frame))
    return files


def csv_text(frame: "pd.DataFrame") -> str:
    """Return a table as CSV; text that a spreadsheet would run as a formula has an apostrophe before it."""

    def guard(cell: Any) -> Any:
        return f"'{cell}" if isinstance(cell, str) and len(cell) > 1 and cell[0] in "=+-@\t\r" else cell

    texts = frame.select_dtypes(include=["object", "string"]).columns
    return frame.assign(**{name: frame[name].map(guard) for name in texts}).to_csv(index=False)


def query_study(path: Path | str, sql: str) -> "pd.DataFrame":
    """Answer a question in SQL: `results` is the table, `metrics` every line of every metrics.jsonl.

    Raises:
        InputError: not a study folder, or SQL that DuckDB refuses.

    Example:
        >>> tg.query_study("studies/quick", "SELECT arm, avg(log_evidence) FROM results GROUP BY arm")  # doctest: +SKIP
    """
    duckdb = import_extra("duckdb")

    folder = open_study(Path(path))
    with duckdb.connect() as connection, TemporaryDirectory(prefix="thermograd-query-") as scratch:
        # Each table is made when a question needs it: reading all runs takes far longer than most answers.
        try:
            needed = connection.get_table_names(sql)
            if "results" in needed:
                connection.register("results", _table(folder))
            if "metrics" in needed:
                _make_metrics(connection, folder, Path(scratch) / "metrics.jsonl")
            answer = connection.sql(sql)
            if answer is None:
                raise InputError(f"`sql` must be a question with an answer, got {sql!r}.")
            return answer.df()
        except duckdb.Error as error:
            raise InputError(f"`sql` is refused: {' '.join(str(error).split())}") from None


def _make_metrics(connection: Any, folder: StudyFolder, whole: Path) -> None:
    """Make the table `metrics` of every whole line, from one file: DuckDB would hold all of thousands open at once."""
    with whole.open("wb") as lines:
        for run in folder.runs:
            name = f'{{"run": "{run.identity}", '.encode()
            with suppress(OSError):
                content = (folder.run_folder(run.identity) / "metrics.jsonl").read_bytes()
                for line in content.splitlines():
                    if line.startswith(b"{") and line.endswith(b"}"):
                        lines.write(name + line[1:] + b"\n")
    if whole.stat().st_size:
        connection.execute(
            f"CREATE VIEW metrics AS SELECT * FROM read_json('{whole}', format = 'newline_delimited', "
            "ignore_errors = true, sample_size = -1)"
        )


def _rows(
    study: str, run: StudyRun, metrics: list[dict[str, Any]], measured: list[Record]
) -> Iterator[dict[str, Any]]:
    points: dict[tuple[int, bool], list[Record]] = {}
    for record in measured:
        if record.source == "clock":
            points.setdefault((record.step, record.split == "test"), []).append(record)
    for (step, _), records in sorted(points.items()):
        row = {
            **_place(study, run),
            "dataset": records[0].dataset,
            "step": step,
            "epoch": records[0].epoch,
            "split": records[0].split,
            "is_final": step == run.num_steps,
            **_cost(run, step, metrics),
            **{f"train:{name}": value for name, value in _numbers(_latest(metrics, step))},
        }
        for record in records:
            row |= _values(record) if record.kind == "evaluation" else {}
            row |= gradient_values(record, run.config["gradient"]["estimator"])
        yield row


def _place(study: str, run: StudyRun) -> dict[str, Any]:
    config, gradient = run.config, run.config["gradient"]
    generator = config["model"]["generator"]
    return {
        "study": study,
        "run": run.identity,
        "folder": run.folder or run.identity,
        "arm": run.arm,
        "ready": run.ready,
        "seed": run.seed,
        "added": run.added,
        "preset": config["preset"],
        "network": f"{generator['kind']} {'-'.join(map(str, generator['widths']))}",
        "latent_dim": config["model"]["latent_dim"],
        "estimator": gradient["estimator"],
        "prior_rule": gradient["prior_rule"],
        "schedule": gradient["schedule"]["kind"],
        "power": gradient["schedule"]["power"],
        "num_rungs": gradient["num_rungs"],
        "num_chains": gradient["num_chains"],
        "noise_multiplier": gradient["noise_multiplier"],
        "chain_stream": config["chain_stream"],
    }


def _cost(run: StudyRun, step: int, metrics: list[dict[str, Any]]) -> dict[str, float]:
    evaluations = run.evaluations // run.num_steps * step
    seconds = [
        record["seconds"] for record in metrics if record["kind"] == "train" and record["step"] <= step
    ]
    return {
        "evaluations": evaluations,
        "evaluations_per_image": evaluations / run.num_images,
        "seconds": step * sum(seconds) / len(seconds) if seconds else float("nan"),
    }


def _latest(metrics: list[dict[str, Any]], step: int) -> dict[str, Any]:
    """Return the last training record up to a step, empty where there is none."""
    found = [record for record in metrics if record["kind"] == "train" and record["step"] <= step]
    return found[-1] if found else {}


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the plain numbers of a training record, its own step among them."""
    for name, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "seconds":
            yield name, value


def gradient_values(record: Record, estimator: str) -> dict[str, float]:
    """Return the variance of an estimator from a record of kind `variance`, by column; empty where it has none."""
    measured = record.values["estimators"] if record.kind == "variance" else {}
    blocks = measured.get(estimator, {}).get("blocks", {})
    return {
        (name if block == "total" else f"{block}:{name}"): blocks[block][name]["value"]
        for block in ("total", "generator", "prior")
        for name in GRADIENT_QUANTITIES
        if block in blocks and blocks[block].get(name) is not None
    }


def _values(record: Record) -> dict[str, Any]:
    """Return what was measured on images, and the distances to the split of the record."""
    values: dict[str, Any] = {}
    for name, value in record.values["quantities"].items():
        values |= {name: value["value"], f"error:{name}": value["standard_error"]}
    for distance in record.values["distances"]:
        name = distance["name"]
        if distance["is_floor"]:
            values[f"floor:{name}"] = distance["value"]
        else:
            values[f"distance:{name}"] = distance["value"]
            values[f"error:distance:{name}"] = distance["standard_error"]
    return values
