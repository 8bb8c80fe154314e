"""Rows of a report, read from what a run has written.

| table | a row is |
|---|---|
| `variances` | a measured variance of the gradient: run, step, split, network, and on which batches |
| `training` | a training record: log-likelihood, energies, chains that stand |
| `rungs` | a rung of the last training record or measured variance of a run |
| `parts` | a distance of a part of the model: decoded posterior draws, or samples at a number of steps |
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from thermograd.evaluation.records import Record
    from thermograd.study.results import RunFiles
    from thermograd.study.run import StudyRun

NETWORKS = ("total", "generator", "prior")
QUANTITIES = {
    "normalised_variance": "normalised variance",
    "total_variance": "variance",
    "chain_variance": "of the chains",
    "batch_variance": "of the batch",
    "squared_bias": "squared bias",
    "relative_squared_bias": "relative squared bias",
    "mean_square_error": "mean square error",
    "relative_mean_square_error": "relative mean square error",
    "reference_mean_square": "squared reference gradient",
}
"""What is kept of a measured variance, and what to call it."""

AGAINST_REFERENCE = {
    "squared_bias",
    "relative_squared_bias",
    "mean_square_error",
    "relative_mean_square_error",
    "reference_mean_square",
}
"""Quantities that take a reference gradient, of `thermograd variance` or `measure.chain_bias`."""

CHAIN_BIAS = "log_likelihood_bias"
"""l at the chains' draws less E_1[l] of the reference, in nats; in the rows of all networks together."""

FRESH, FIXED, AS_TRAINED, REFERENCE = "fresh", "fixed", "as trained", "reference"
"""Batches: drawn anew at each step; one that stays; fresh ones as training sees them from its stored chains; fixed
ones on which the run's own chains are held against a reference."""
BATCHES = {
    FRESH: lambda values: values["estimators"],
    FIXED: lambda values: values.get("fixed"),
    AS_TRAINED: lambda values: values.get("as_trained"),
}

PLACE = ("run", "arm", "seed", "step", "split", "network", "source", "batches")
BOUNDS = tuple(f"{name}:{end}" for name in QUANTITIES for end in ("low", "high"))
VARIANCES = (*PLACE, *QUANTITIES, *BOUNDS, CHAIN_BIAS)
TRAINED = (
    *("log_likelihood", "energy_posterior", "energy_prior", "seconds"),
    *("standing_chains", "restarted_chains"),
)
TRAINING = ("run", "arm", "seed", "step", "epoch", *TRAINED)
RUNG = ("inverse_temperature", "expected_log_likelihood", "variance_log_likelihood")
RUNGS = ("run", "arm", "seed", "rung", *RUNG)
PARTS = ("run", "arm", "seed", "step", "images", "num_steps", "name", "value", "standard_error", "verdict")


def with_bias(table: "pd.DataFrame", variances: "pd.DataFrame") -> "pd.DataFrame":
    """Return the table with the bias of the gradient of all networks, as last measured up to each step."""
    import pandas as pd

    names = [name for name in QUANTITIES if name in AGAINST_REFERENCE]
    told = variances[variances["network"] == "total"].dropna(subset=names, how="all")
    of_run = {run: rows for run, rows in told.groupby("run", sort=False)}
    extra = []
    for run, step in zip(table["run"], table["step"], strict=True):
        found = of_run.get(run, told.iloc[:0])
        extra.append({name: _last(found[found["step"] <= step], name) for name in names})
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(extra, columns=names)], axis=1)


def of_source(rows: "pd.DataFrame", name: str) -> "pd.DataFrame":
    """Return the rows that tell a quantity, by step: variance from the run's clock if it has any, bias from commands.

    A reference is measured apart, most often with batches and chains of other numbers than the run's. A measurement
    whose normalised variance could not be told, since the mean gradient drowns in noise, is among the rows: an older
    number in its place would be the smaller the worse the run.
    """
    rows = rows.sort_values("step", kind="stable")
    known = rows.dropna(subset=[name])
    among, source = (known, "command") if name in AGAINST_REFERENCE else (rows, "clock")
    own = among[among["source"] == source]
    return own if len(own) else known


def _last(rows: "pd.DataFrame", name: str) -> float:
    """Return what the last row that tells a quantity says, NaN where there is none."""
    told = of_source(rows, name)[name] if len(rows) else rows[name]
    return float(told.iloc[-1]) if len(told) else float("nan")


def _place(run: "StudyRun") -> dict[str, Any]:
    return {"run": run.identity, "arm": run.arm, "seed": run.seed}


def variance_rows(files: "RunFiles") -> Iterator[dict[str, Any]]:
    """Yield the variance of the run's own estimator by batches and network, and what a reference told of it."""
    own = files.run.config["gradient"]["estimator"]
    for record in files.records:
        if record.kind != "variance":
            continue
        measured = {batches: (read(record.values) or {}).get(own) for batches, read in BATCHES.items()}
        measured[REFERENCE] = record.values.get("chain_bias")
        for batches, each in measured.items():
            yield from _block_rows(files.run, record, batches, each) if each else ()


def _block_rows(
    run: "StudyRun", record: "Record", batches: str, each: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    for network in NETWORKS:
        row: dict[str, Any] = {
            **_place(run),
            **{"step": record.step, "split": record.split, "network": network},
            **{"source": record.source, "batches": batches},
        }
        for name in QUANTITIES:
            estimate = each["blocks"].get(network, {}).get(name)
            if estimate is not None:
                low, high = estimate.get("low"), estimate.get("high")
                row |= {name: estimate["value"], f"{name}:low": low, f"{name}:high": high}
        if network == "total" and (found := each.get(CHAIN_BIAS)):
            row[CHAIN_BIAS] = found["value"]
        if len(row) > len(PLACE):
            yield row


def trained(files: "RunFiles") -> list[dict[str, Any]]:
    """Return the training records of a run."""
    return [record for record in files.metrics if record["kind"] == "train"]


def training_rows(files: "RunFiles", most: int = 300) -> Iterator[dict[str, Any]]:
    """Yield a few hundred training records of a run."""
    records = trained(files)
    stride = -(-len(records) // most) or 1
    for record in records[::-1][::stride][::-1]:  # the last one always
        values = {name: record.get(name) for name in TRAINED}
        yield {**_place(files.run), "step": record["step"], "epoch": record["epoch"], **values}


def rung_rows(files: "RunFiles") -> Iterator[dict[str, Any]]:
    """Yield the rungs with which the run ended, and what is known of l on them.

    Training records hold the temperatures and, where they were kept, the mean of l on each; a measured variance of the
    gradient holds its variance.
    """
    records = [record for record in trained(files) if "inverse_temperature" in record]
    if not records:
        return
    record, own = records[-1], files.run.config["gradient"]["estimator"]
    measured = [
        each
        for found in sorted(files.records, key=lambda record: record.step)
        if (found.kind, found.source, found.split) == ("variance", "clock", "train")
        for each in [found.values["estimators"].get(own)]
        if each
    ]
    temperatures = [float(f"{t:.6g}") for t in record["inverse_temperature"]]
    means = record.get("expected_log_likelihood") or [None] * len(temperatures)
    rungs: dict[float, dict[str, Any]] = {
        t: {"expected_log_likelihood": m} for t, m in zip(temperatures, means)
    }
    for spread in measured[-1]["log_likelihood_variance"] if measured else ():
        t = float(f"{spread['inverse_temperature']:.6g}")
        rungs.setdefault(t, {})["variance_log_likelihood"] = spread["value"]
    # Vanilla's lower end is shared by all images, and not among the rungs that it records.
    rungs.setdefault(0.0, {})
    for number, t in enumerate(sorted(rungs)):
        yield {**_place(files.run), "rung": number, "inverse_temperature": t, **rungs[t]}


def part_rows(files: "RunFiles") -> Iterator[dict[str, Any]]:
    """Yield the two parts of the distance to the test images, as last measured, whoever asked for it."""
    told = [record for record in files.records if record.kind == "evaluation" and record.values.get("prior")]
    for record in sorted(told, key=lambda record: record.step)[-1:]:
        prior = record.values["prior"]
        for each in prior["distances"]:
            values = {name: each[name] for name in ("images", "num_steps", "name", "value", "standard_error")}
            yield {**_place(files.run), "step": record.step, **values, "verdict": prior["verdict"]}
