"""What a report is made of, read from a study folder and nothing else.

| table | a row is |
|---|---|
| `table` | a measured checkpoint: what `load_study` returns, with the bias of the gradient where it was measured |
| `variances` | a measurement of the gradient's variance: run, step, split and network |
| `training` | a training record: log-likelihood, energies, temperatures |
| `rungs` | a rung of the last training record or measured variance of a run |
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thermograd.errors import InputError, failure
from thermograd.study.arms import ArmKind

if TYPE_CHECKING:
    import pandas as pd

    from thermograd.evaluation.records import Record
    from thermograd.study.folder import StudyFolder, StudyRun
    from thermograd.study.results import RunFiles

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
"""Quantities that take a reference gradient, of `thermograd variance`."""

CHAIN_BIAS = "log_likelihood_bias"
"""l at the chains' draws less E_1[l] of the reference, in nats; in the rows of all networks together."""

SAMPLES = re.compile(r"samples_epoch_(\d+)\.png")


@dataclass(frozen=True)
class Contrast:
    """A difference a - b that was named before the first run."""

    name: str
    a: str
    b: str
    metric: str


@dataclass(frozen=True)
class Picture:
    """A grid of samples of a run."""

    arm: str
    seed: int
    epoch: int
    file: Path


@dataclass(frozen=True)
class StudyData:
    """All that a report shows.

    Attributes:
        name: of the study.
        table: rows of measured checkpoints.
        variances: rows of measured variances.
        training: rows of training records, a few hundred per run.
        rungs: rows of rungs: arm, seed, rung, inverse_temperature, expected and variance of the log-likelihood.
        pictures: of samples, one seed an arm.
        contrasts: named beforehand.
        arms: name -> its kind and cell; in the order of the file.
        settings: rows of (setting, value) of the study.
        arm_settings: a row an arm: what it changes.
        counts: runs done, and planned.
        failed: a line for each run that is not done.
    """

    name: str
    table: "pd.DataFrame"
    variances: "pd.DataFrame"
    training: "pd.DataFrame"
    rungs: "pd.DataFrame"
    pictures: tuple[Picture, ...]
    contrasts: tuple[Contrast, ...]
    arms: dict[str, ArmKind]
    settings: tuple[tuple[str, str], ...]
    arm_settings: "pd.DataFrame"
    counts: tuple[int, int]
    failed: tuple[str, ...]
    unfinished: frozenset[str]


def collect(path: Path) -> StudyData:
    """Read a study folder.

    Raises:
        InputError: not a study folder, or one in which nothing was measured yet.
    """
    import pandas as pd

    from thermograd.study.folder import open_study, study_status
    from thermograd.study.results import MALFORMED, read_runs, table_of

    folder = open_study(path)
    files = read_runs(folder)
    table = table_of(files)
    if table.empty:
        raise InputError(f"`study` {path} has no measured checkpoint yet; see thermograd study status {path}")
    variances: list[dict[str, Any]] = []
    training: list[dict[str, Any]] = []
    rungs: list[dict[str, Any]] = []
    newest: dict[str, dict[str, Any]] = {}
    for each in files:
        newest[each.run.identity] = next(iter(_trained(each)[::-1]), {})
        try:
            mine = [list(rows_of(each)) for rows_of in (_variance_rows, _training_rows, _rung_rows)]
        except MALFORMED as error:
            warnings.warn(f"{each.run.arm}, seed {each.run.seed} is damaged: {failure(error)}.", stacklevel=2)
            continue
        for rows, own in zip((variances, training, rungs), mine, strict=True):
            rows += own
    status = study_status(folder, newest)
    rows = status["runs"]
    frame = pd.DataFrame(variances, columns=[*PLACE, *QUANTITIES, *BOUNDS, CHAIN_BIAS])
    return StudyData(
        name=folder.study.name,
        table=with_bias(table, frame),
        variances=frame,
        training=pd.DataFrame(training, columns=["run", "arm", "seed", "step", "epoch", *TRAINED]),
        rungs=pd.DataFrame(rungs, columns=["run", "arm", "seed", "rung", *RUNG]),
        pictures=tuple(_pictures(folder)),
        contrasts=tuple(Contrast(c.name, c.a, c.b, c.metric) for c in folder.study.contrasts),
        arms={run.arm: ArmKind(run.ready, run.cell) for run in folder.runs},
        settings=tuple(_settings(folder)),
        arm_settings=_arm_settings(folder),
        counts=(status["counts"]["done"], len(rows)),
        failed=tuple(
            f"{row['arm']}, seed {row['seed']}: {row['state']}"
            + (f" ({row['cause']})" if row["cause"] else f" at step {row['step']} of {row['num_steps']}")
            for row in rows
            if row["state"] != "done"
        ),
        unfinished=frozenset(
            row["arm"] for row in rows if row["state"] in ("waiting", "running", "interrupted")
        ),
    )


PLACE = ("run", "arm", "seed", "step", "split", "network", "source")
BOUNDS = tuple(f"{name}:{end}" for name in QUANTITIES for end in ("low", "high"))
TRAINED = (
    *("log_likelihood", "energy_posterior", "energy_prior", "seconds"),
    *("standing_chains", "restarted_chains"),
)
RUNG = ("inverse_temperature", "expected_log_likelihood", "variance_log_likelihood")


def with_bias(table: "pd.DataFrame", variances: "pd.DataFrame") -> "pd.DataFrame":
    """Return the table with the bias of the gradient of all networks, as last measured up to each step."""
    import pandas as pd

    names = [name for name in QUANTITIES if name in AGAINST_REFERENCE]
    extra = []
    for run, step in zip(table["run"], table["step"], strict=True):
        found = variances[
            (variances["run"] == run) & (variances["network"] == "total") & (variances["step"] <= step)
        ]
        extra.append({name: _last(found, name) for name in names})
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
    told = of_source(rows, name)[name]
    return float(told.iloc[-1]) if len(told) else float("nan")


# --- measurements and metrics ---


def _place(run: "StudyRun") -> dict[str, Any]:
    return {"run": run.identity, "arm": run.arm, "seed": run.seed}


def _own(files: "RunFiles", record: "Record") -> dict[str, Any] | None:
    """Return what a record tells of the run's own estimator, or None."""
    own = files.run.config["gradient"]["estimator"]
    return record.values["estimators"].get(own) if record.kind == "variance" else None


def _variance_rows(files: "RunFiles") -> Iterator[dict[str, Any]]:
    """Yield the variance of the run's own estimator by network, and what a reference gradient told of it."""
    for record in files.records:
        each = _own(files, record)
        for network in NETWORKS if each else ():
            place = {"step": record.step, "split": record.split, "network": network, "source": record.source}
            row: dict[str, Any] = {**_place(files.run), **place}
            for name in QUANTITIES:
                estimate = (each or {})["blocks"].get(network, {}).get(name)
                if estimate is not None:
                    low, high = estimate.get("low"), estimate.get("high")
                    row |= {name: estimate["value"], f"{name}:low": low, f"{name}:high": high}
            told = record.values.get("chain_bias") or each or {}
            if network == "total" and (found := told.get(CHAIN_BIAS)):
                row[CHAIN_BIAS] = found["value"]
            if len(row) > len(PLACE):
                yield row


def _trained(files: "RunFiles") -> list[dict[str, Any]]:
    return [record for record in files.metrics if record["kind"] == "train"]


def _training_rows(files: "RunFiles", most: int = 300) -> Iterator[dict[str, Any]]:
    records = _trained(files)
    stride = -(-len(records) // most) or 1
    for record in records[::-1][::stride][::-1]:  # the last one always
        values = {name: record.get(name) for name in TRAINED}
        yield {**_place(files.run), "step": record["step"], "epoch": record["epoch"], **values}


def _rung_rows(files: "RunFiles") -> Iterator[dict[str, Any]]:
    """Yield the rungs with which the run ended, and what is known of l on them.

    Training records hold the temperatures and, where they were kept, the mean of l on each; a measured variance of the
    gradient holds its variance.
    """
    trained = [record for record in _trained(files) if "inverse_temperature" in record]
    measured = [
        each
        for record in sorted(files.records, key=lambda record: record.step)
        if record.source == "clock" and record.split == "train"
        for each in [_own(files, record)]
        if each
    ]
    if not trained:
        return
    record = trained[-1]
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


# --- pictures and settings ---


def _pictures(folder: "StudyFolder") -> Iterator[Picture]:
    """Yield the sample grids of each arm's first seed that has any."""
    for arm in dict.fromkeys(run.arm for run in folder.runs):
        for run in (run for run in folder.runs if run.arm == arm):
            files = sorted((folder.run_folder(run.identity) / "samples").glob("samples_epoch_*.png"))
            found = [(match, file) for file in files if (match := SAMPLES.fullmatch(file.name))]
            if found:
                yield from (Picture(arm, run.seed, int(match[1]), file) for match, file in found)
                break


def _settings(folder: "StudyFolder") -> Iterator[tuple[str, str]]:
    study = folder.study.model_dump(mode="json")
    yield "study", study["name"]
    yield "preset", study["preset"]
    for name, value in study["overrides"].items():
        yield name, _text(value)
    yield "seeds", ", ".join(map(str, study["seeds"]))
    yield "held equal", study["equal"]
    for name, value in study["measure"].items():
        yield f"measure.{name}", _text(value)
    run = folder.runs[0]
    yield "training images", f"{run.num_images:,}"
    from thermograd.runs.folder import read_environment

    facts = read_environment(folder.run_folder(run.identity))
    if facts:
        for name in ("thermograd", "commit", "python", "processor", "gpu", "num_threads"):
            if facts.get(name) is not None:
                yield name, str(facts[name])
        yield "torch", str(facts.get("packages", {}).get("torch", "-"))


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    return "-" if value is None else str(value)


def _arm_settings(folder: "StudyFolder") -> "pd.DataFrame":
    import pandas as pd

    rows: dict[str, dict[str, Any]] = {}
    for run in folder.runs:
        gradient = run.config["gradient"]
        rows.setdefault(
            run.arm,
            {
                "arm": run.arm,
                "estimator": gradient["estimator"],
                "prior rule": gradient["prior_rule"],
                "schedule": gradient["schedule"]["kind"],
                "p": gradient["schedule"]["power"] if gradient["schedule"]["kind"] == "power" else None,
                "rungs": gradient["num_rungs"],
                "chains": gradient["num_chains"],
                "noise": gradient["noise_multiplier"],
                "steps": run.num_steps,
                "runs": 0,
                "identities": "",
            },
        )
        rows[run.arm]["runs"] += 1
        rows[run.arm]["identities"] = f"{rows[run.arm]['identities']} {run.identity}".strip()
    return pd.DataFrame(list(rows.values()))
