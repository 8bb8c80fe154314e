"""What a report is made of, read from the folder of a study or a run and nothing else.

`table` has a row for each measured checkpoint and split, as `load_study` returns them, with the bias of the gradient
where it was measured; `thermograd.reports.rows` says what the other tables hold.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thermograd.config import names
from thermograd.errors import InputError, failure
from thermograd.reports import rows
from thermograd.reports.sources import Source, open_source
from thermograd.study.arms import ArmKind

if TYPE_CHECKING:
    import pandas as pd

    from thermograd.study.results import RunFiles


@dataclass(frozen=True)
class Picture:
    """A grid of images of a run, at one step."""

    arm: str
    seed: int
    step: int
    file: Path


@dataclass(frozen=True)
class ReportData:
    """All that a report shows.

    Attributes:
        source: the study or the run.
        table: rows of measured checkpoints.
        variances: rows of measured variances.
        training: rows of training records, a few hundred per run.
        rungs: rows of rungs.
        parts: rows of the two parts of the distance.
        pictures: of samples, one seed per arm, by step.
        arms: name -> its kind and cell; in the order of the file.
        settings: rows of (setting, value).
        arm_settings: a row per arm: what it changes.
        counts: runs done, and planned.
        failed: a line for each run that is not done.
        unfinished: arms with runs still to come.
    """

    source: Source
    table: "pd.DataFrame"
    variances: "pd.DataFrame"
    training: "pd.DataFrame"
    rungs: "pd.DataFrame"
    parts: "pd.DataFrame"
    pictures: tuple[Picture, ...]
    arms: dict[str, ArmKind]
    settings: tuple[tuple[str, str], ...]
    arm_settings: "pd.DataFrame"
    counts: tuple[int, int]
    failed: tuple[str, ...]
    unfinished: frozenset[str]


TABLES = {
    "variances": (rows.variance_rows, rows.VARIANCES),
    "training": (rows.training_rows, rows.TRAINING),
    "rungs": (rows.rung_rows, rows.RUNGS),
    "parts": (rows.part_rows, rows.PARTS),
}


def collect(path: Path) -> ReportData:
    """Read the folder of a study or of a run.

    Raises:
        InputError: it is neither, or nothing was measured yet.
    """
    import pandas as pd

    from thermograd.study.results import MALFORMED, read_run, table_of

    source = open_source(path)
    table: list[dict[str, Any]] = []
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    newest: dict[str, dict[str, Any]] = {}
    pictures: dict[str, list[Picture]] = {}
    for run, folder in zip(source.runs, source.folders, strict=True):
        each = read_run(source.name, run, folder)  # the files of one run at a time
        table += each.rows
        newest[run.identity] = next(iter(rows.trained(each)[::-1]), {})
        try:
            mine = {name: list(rows_of(each)) for name, (rows_of, _) in TABLES.items()}
        except MALFORMED as error:
            warnings.warn(f"{run.arm}, seed {run.seed} is damaged: {failure(error)}.", stacklevel=2)
            continue
        for name, own in mine.items():
            found[name] += own
        pictures[run.arm] = pictures.get(run.arm) or _pictures(each, folder)
    if not table:
        raise InputError(f"`study` {path} has no measured checkpoint yet; see thermograd study status {path}")
    frames = {name: pd.DataFrame(found[name], columns=columns) for name, (_, columns) in TABLES.items()}
    states = source.states(newest)
    return ReportData(
        source=source,
        table=rows.with_bias(table_of(table), frames["variances"]),
        **frames,
        pictures=tuple(picture for of_arm in pictures.values() for picture in of_arm),
        arms={run.arm: ArmKind(run.ready, run.cell) for run in source.runs},
        settings=tuple(_settings(source)),
        arm_settings=_arm_settings(source),
        counts=(sum(state["state"] == "done" for state in states), len(states)),
        failed=tuple(_unfinished_line(state) for state in states if state["state"] != "done"),
        unfinished=frozenset(
            state["arm"] for state in states if state["state"] in ("waiting", "running", "interrupted")
        ),
    )


def _unfinished_line(state: Mapping[str, Any]) -> str:
    where = f"({state['cause']})" if state["cause"] else f"at step {state['step']} of {state['num_steps']}"
    return f"{state['arm']}, seed {state['seed']}: {state['state']} {where}"


# --- pictures and settings ---


def _pictures(files: "RunFiles", folder: Path) -> list[Picture]:
    """Return the sample grids of a run, at the steps that its clock measured."""
    steps = {record.step: record.checkpoint for record in files.records if record.source == "clock"}
    found = [(step, folder / "samples" / f"samples_{name}.png") for step, name in sorted(steps.items())]
    return [Picture(files.run.arm, files.run.seed, step, file) for step, file in found if file.is_file()]


def _settings(source: Source) -> Iterator[tuple[str, str]]:
    run, study = source.runs[0], source.study
    if study is not None:
        described = study.study.model_dump(mode="json")
        yield "study", described["name"]
        yield "preset", described["preset"]
        for name, value in described["overrides"].items():
            yield name, _text(value)
        yield "seeds", ", ".join(map(str, described["seeds"]))
        yield "held equal", described["equal"]
        measured = described["measure"]
    else:
        for name in ("preset", "seed", "data", "model", "prior_chains", "posterior_chains", "gradient"):
            yield name, _text(run.config[name])
        for name in ("optimiser", "training"):
            yield name, _text(run.config[name])
        measured = run.config["measure"]
    for name, value in measured.items():
        yield f"measure.{name}", _text(value)
    yield "training images", f"{run.num_images:,}"
    from thermograd.runs.folder import read_environment

    facts = read_environment(source.folders[0])
    if facts:
        for name in ("thermograd", "commit", "python", "processor", "gpu", "num_threads"):
            if facts.get(name) is not None:
                yield name, str(facts[name])
        yield "torch", str(facts.get("packages", {}).get("torch", "-"))


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name} ({_text(each)})" if isinstance(each, Mapping) else f"{name} {_text(each)}"
            for name, each in value.items()
        )
    return "-" if value in (None, [], ()) else str(value)


def objective(estimator: str) -> str:
    """Return what an estimator ascends, in words; of one that a plugin brought, its name."""
    facts = names.ESTIMATORS.get(estimator)
    return facts.objective if facts is not None and facts.objective else estimator


def _arm_settings(source: Source) -> "pd.DataFrame":
    import pandas as pd

    found: dict[str, dict[str, Any]] = {}
    for run in source.runs:
        gradient = run.config["gradient"]
        has_rungs = gradient["num_rungs"] > 2  # two are the prior and the posterior, and no schedule
        is_power = has_rungs and gradient["schedule"]["kind"] == "power"
        found.setdefault(
            run.arm,
            {
                "arm": run.arm,
                "estimator": gradient["estimator"],
                "objective": objective(gradient["estimator"]),
                "prior rule": gradient["prior_rule"],
                "chains": gradient["num_chains"],
                "rungs": gradient["num_rungs"] if has_rungs else None,
                "schedule": gradient["schedule"]["kind"] if has_rungs else None,
                "p": gradient["schedule"]["power"] if is_power else None,
                "noise": gradient["noise_multiplier"] or None,
                "steps": run.num_steps,
                "runs": 0,
                "identities": "",
            },
        )
        found[run.arm]["runs"] += 1
        found[run.arm]["identities"] = f"{found[run.arm]['identities']} {run.identity}".strip()
    return pd.DataFrame(list(found.values()))
