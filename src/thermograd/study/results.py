"""One table of all runs of a study, and SQL over its folders.

A row is one measurement of one checkpoint of one run; its key is (run, step, split). Columns:

| column | is |
|---|---|
| study, run, arm, ready, seed, added | where it belongs; `added` is the version of the study it came with, 0 at first |
| dataset, preset, network, latent_dim | what was learnt, by which network |
| estimator, prior_rule, schedule, power, num_rungs, num_chains, noise_multiplier, chain_stream | how |
| step, epoch, split, is_final | of the checkpoint; `is_final` for the end of the run |
| evaluations, evaluations_per_image | spent on chains by training until then; for each image of the training set |
| seconds | that training had taken by then (mean of the recorded steps x steps) |
| train:NAME | the training record of that step, numbers only |
| NAME, error:NAME | mean over images and its standard error: log_evidence, reconstruction_mean_square_error, ... |
| distance:NAME, error:distance:NAME, floor:NAME | to the row's own split; what real images reach |
| probe:NAME | the last probe of the gradient up to that step, numbers only, nested names joined by dots |
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thermograd.errors import InputError
from thermograd.study.folder import StudyFolder, StudyRun, open_study

if TYPE_CHECKING:
    import pandas as pd

TIME_COLUMNS = ("seconds",)
"""What differs between two studies that did the same."""
GRADIENT_QUANTITIES = ("chain_variance", "batch_variance", "total_variance", "normalised_variance")
"""Of the learning gradient on the split of a row."""


def load_study(path: Path | str) -> "pd.DataFrame":
    """Return the table of a study folder, as far as it has come; the order is that of the study file.

    Raises:
        InputError: not a study folder.
    """
    import pandas as pd

    folder = open_study(Path(path))
    rows = [row for run in folder.runs for row in _rows(folder, run)]
    frame = pd.DataFrame(rows)
    # A study that has measured nothing yet still has the columns that say what its rows will be.
    return frame if rows else pd.DataFrame(columns=["study", "run", "arm", "seed", "step", "split"])


def write_tables(path: Path) -> list[Path]:
    """Write results.parquet and results.csv into a study folder, whole or not at all."""
    frame = load_study(path)
    files = [path / "results.parquet", path / "results.csv"]
    for file in files:
        aside = file.with_name(f".writing_{file.name}")
        frame.to_parquet(aside, index=False) if file.suffix == ".parquet" else frame.to_csv(
            aside, index=False
        )
        aside.replace(file)
    return files


def query_study(path: Path | str, sql: str) -> "pd.DataFrame":
    """Answer a question of one's own in SQL: `results` is the table, `metrics` every line of every metrics.jsonl.

    Raises:
        InputError: not a study folder, or SQL that DuckDB refuses.
    """
    import duckdb

    results = load_study(path)
    connection = duckdb.connect()
    try:
        connection.register("results", results)
        files = [str(file) for file in sorted(Path(path).glob("runs/*/metrics.jsonl"))]
        if files:
            names = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
            connection.execute(
                "CREATE VIEW metrics AS SELECT string_split(filename, '/')[-2] AS run, * EXCLUDE (filename) "
                f"FROM read_json([{names}], format = 'newline_delimited', union_by_name = true, "
                "ignore_errors = true, filename = true)"
            )
        answer = connection.sql(sql)
        if answer is None:
            raise InputError(f"`sql` must be a question with an answer, got {sql!r}.")
        return answer.df()
    except duckdb.Error as error:
        raise InputError(f"`sql` is refused: {' '.join(str(error).split())}") from None
    finally:
        connection.close()


def _rows(folder: StudyFolder, run: StudyRun) -> Iterator[dict[str, Any]]:
    from thermograd.evaluation.evaluate import read_evaluation
    from thermograd.runs.folder import read_metrics

    run_folder = folder.run_folder(run.identity)
    metrics = read_metrics(run_folder)
    records = [record for record in read_evaluation(run_folder) if record["source"] == "study"]
    for record in sorted(records, key=lambda record: (record["step"], record["split"] == "test")):
        step = record["step"]
        yield {
            **_place(folder, run),
            "dataset": record["dataset"],
            "step": step,
            "epoch": record["epoch"],
            "split": record["split"],
            "is_final": step == run.num_steps,
            **_cost(run, step, metrics),
            **{f"train:{name}": value for name, value in _numbers(_latest(metrics, "train", step))},
            **_values(record),
            **_probe(metrics, step, run.config["gradient"]["estimator"]),
        }


def _place(folder: StudyFolder, run: StudyRun) -> dict[str, Any]:
    config, gradient = run.config, run.config["gradient"]
    generator = config["model"]["generator"]
    return {
        "study": folder.study.name,
        "run": run.identity,
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


def _latest(metrics: list[dict[str, Any]], kind: str, step: int) -> dict[str, Any]:
    """Return the last record of a kind up to a step, empty where there is none."""
    found = [record for record in metrics if record["kind"] == kind and record["step"] <= step]
    return found[-1] if found else {}


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the plain numbers of a training record, its own step among them."""
    for name, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "seconds":
            yield name, value


def _probe(metrics: list[dict[str, Any]], step: int, own: str) -> dict[str, float]:
    """Return the run's own estimator in the last probe up to a step: on fresh batches, by network.

    Layers, the fixed batch, intervals and other estimators stay in metrics.jsonl, where SQL finds them.
    """
    record = _latest(metrics, "probe", step)
    blocks = record.get("estimators", {}).get(own, {}).get("fresh", {}).get("blocks", {})
    values = {
        f"probe:{block}.{name}": blocks[block][name]["value"]
        for block in ("total", "generator", "prior")
        for name in GRADIENT_QUANTITIES
        if block in blocks and blocks[block].get(name) is not None
    }
    return {"probe:step": record["step"]} | values if values else {}


def _values(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured, the variance of the gradient, and the distances to the split of the record."""
    values: dict[str, Any] = {}
    for name, value in record["values"].items():
        values |= {name: value["mean"], f"error:{name}": value["standard_error"]}
    for block, quantities in (record["gradient_variance"] or {}).items():
        if isinstance(quantities, Mapping):
            values |= {
                f"gradient:{block}.{name}": quantities[name]["value"]
                for name in GRADIENT_QUANTITIES
                if quantities.get(name) is not None
            }
    for distance in record["distances"]:
        if not distance["reference"].endswith(f":{record['split']}"):
            continue
        name = distance["name"]
        if distance["is_floor"]:
            values[f"floor:{name}"] = distance["value"]
        else:
            values[f"distance:{name}"] = distance["value"]
            values[f"error:distance:{name}"] = distance["standard_error"]
    return values
