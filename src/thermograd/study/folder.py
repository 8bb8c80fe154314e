"""The study folder, in which files are the only truth.

study.json      the study file with its versions, and for each run: identity, arm, seed, the version it came with
study.yaml      the study file once more, for people
plugins/        copies of the files that bring algorithms, from which its runs load them
runs/IDENTITY/  a run folder each, as `thermograd train` makes them
attempts/IDENTITY/0001.json ...  who worked on it, and how that ended;  IDENTITY/log.txt  what it printed
results.parquet, results.csv     the table, written at the end of every `study run`
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from thermograd.config.plugins import PLUGINS, plugin_source
from thermograd.errors import InputError, failure
from thermograd.evaluation.records import measured_steps
from thermograd.files import begun_writing, read_json, write_atomically
from thermograd.study.attempts import Attempt, read_attempts
from thermograd.study.file import StudyFile, parse_study
from thermograd.study.plan import check_metrics, check_weights, plan_runs
from thermograd.study.run import StudyRun

FROZEN = ("name", "preset", "overrides", "equal", "contrasts")
"""What a study cannot change once it has begun: contrasts are only worth something if they were named before."""


@dataclass(frozen=True)
class StudyFolder:
    """A study on disk: its folder, what is measured, and its runs."""

    path: Path
    study: StudyFile
    runs: tuple[StudyRun, ...]

    def run_folder(self, identity: str) -> Path:
        """Return the folder of a run."""
        return self.path / "runs" / identity

    def attempts_folder(self, identity: str) -> Path:
        """Return the folder of the attempts at a run."""
        return self.path / "attempts" / identity

    def run(self, identity: str) -> StudyRun:
        """Return a run by its identity."""
        return next(run for run in self.runs if run.identity == identity)


def make_study(file: StudyFile, path: Path) -> StudyFolder:
    """Make a study folder, or open it where it holds the same study.

    Raises:
        InputError: the folder holds something else, or another version of the study; or a new study cannot measure
            what it compares.
    """
    if (path / "study.json").is_file():
        held = open_study(path)
        changed = [name for name in _changes(held.study, file) if name != "measure"]
        if changed:
            raise InputError(
                f"`out` {path} holds another version of study {held.study.name!r} (changed: {', '.join(changed)}); "
                f"extend it with `study add`, or choose another --out."
            )
        if held.study == file:
            return held
        # What is measured changes no trained number: runs that are not done yet are measured in the new way.
        check_metrics(file, plan_runs(file))
        versions = read_json(path / "study.json", "study")["versions"]
        _write(path, file, [run.plain() for run in held.runs], versions)
        return open_study(path)
    if path.exists() and (not path.is_dir() or set(path.iterdir()) - _begun(path)):
        raise InputError(f"`out` {path} is not empty and holds no study.")
    planned = plan_runs(file)
    check_metrics(file, planned)
    check_weights(file)  # a study that is under way may do without them here
    _write(path, file, [run.plain() for run in planned], [{"time": time.time(), "version": 0}])
    return open_study(path)


def extend_study(file: StudyFile, path: Path) -> tuple[StudyFolder, int]:
    """Add the arms, seeds and cells of a larger study file to a study folder; return it and how many runs are new.

    Raises:
        InputError: the file changes what was named before the first run, or lacks a run that the study has.
    """
    held = open_study(path)
    for name in FROZEN:
        if getattr(held.study, name) != getattr(file, name):
            raise InputError(f"`{name}` cannot change once a study has begun; start another study.")
    began = {plugin.file.name: plugin for plugin in held.study.plugins}
    for plugin in file.plugins:
        if began.get(plugin.file.name, plugin) != plugin:
            raise InputError(
                f"`plugins` {plugin.file} has changed since the study began; give the new version another name."
            )
    planned = plan_runs(file)
    check_metrics(file, planned)
    known = {run.identity: run for run in held.runs}
    lacking = set(known) - {run.identity for run in planned}
    if lacking:
        run = known[min(lacking)]
        raise InputError(
            f"`arms` of the file lack a run of the study: {run.arm}, seed {run.seed}; only add to it."
        )
    versions = read_json(path / "study.json", "study")["versions"]
    new = [replace(run, added=len(versions)).plain() for run in planned if run.identity not in known]
    if new:
        versions.append({"time": time.time(), "version": len(versions)})
        _write(path, file, [run.plain() for run in held.runs] + new, versions)
    return open_study(path), len(new)


def open_study(path: Path) -> StudyFolder:
    """Open a study folder.

    Raises:
        InputError: it is none.
    """
    if not (path / "study.json").is_file():
        raise InputError(f"`study` {path} is not a study folder: it has no study.json.")
    held = read_json(path / "study.json", "study")
    try:
        runs = TypeAdapter(tuple[StudyRun, ...]).validate_python(held["runs"], strict=False)
        study = held["study"]
    except (ValidationError, KeyError, TypeError) as error:
        problem = failure(error) if not isinstance(error, ValidationError) else error.errors()[0]["msg"]
        raise InputError(f"`study` {path} is damaged: study.json holds no study ({problem}).") from None
    if len({run.identity for run in runs}) < len(runs) or not runs:
        raise InputError(f"`study` {path} is damaged: study.json must hold different runs, at least one.")
    return StudyFolder(path, parse_study(study, checked_before=True), runs)


def _begun(path: Path) -> set[Path]:
    """Return what a process that died while it made the folder may have left."""
    return {path / "study.yaml", path / PLUGINS, *begun_writing(path)}


def _write(path: Path, file: StudyFile, runs: list[dict[str, Any]], versions: list[dict[str, Any]]) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"`out` {path} cannot be made: {error.strerror}.") from None
    for plugin in file.plugins:
        write_atomically(path / PLUGINS / plugin.file.name, plugin_source(plugin.sha256))
    study = file.model_dump(mode="json")
    write_atomically(path / "study.yaml", yaml.safe_dump(study, sort_keys=False))
    # Written last, and in one piece: while it is there, the folder is a study's.
    whole = {"study": study, "versions": versions, "runs": runs}
    write_atomically(path / "study.json", json.dumps(whole, indent=1))


def _changes(old: StudyFile, new: StudyFile) -> list[str]:
    return [name for name in StudyFile.model_fields if getattr(old, name) != getattr(new, name)]


# --- the state of each run ---


def is_done(folder: Path) -> bool:
    """Return whether a run is trained to its end and was measured there, as its own folder says."""
    status = read_status(folder)
    return status.get("state") == "done" and status.get("num_steps", 0) in measured_steps(folder)


def needs_work(folder: StudyFolder, run: StudyRun) -> bool:
    """Return whether a run is not done; one whose files are damaged is not."""
    try:
        return not is_done(folder.run_folder(run.identity))
    except InputError:
        return True


def read_status(folder: Path) -> dict[str, Any]:
    """Return status.json of a run folder; empty where it was not begun, or the file is damaged."""
    try:
        status = read_json(folder / "status.json", "run")
    except InputError:
        return {}
    return status if isinstance(status, dict) else {}


def study_status(
    folder: StudyFolder, newest: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Return where each run stands, and the seconds that are left.

    States: waiting, running, interrupted (it will go on where it stopped), failed, done. The time left is what the
    remaining steps take at the pace of the arm so far (of all arms where it has none), over the runs at work.

    Args:
        folder: the study.
        newest: the last training record of each run by its identity, for those who have read them; None to read them.
    """
    if newest is None:
        newest = {run.identity: _newest(folder.run_folder(run.identity)) for run in folder.runs}
    rows = []
    for run in folder.runs:
        attempts = read_attempts(folder.attempts_folder(run.identity))
        last = attempts[-1] if attempts else None
        status = read_status(folder.run_folder(run.identity))
        try:
            state, damage = _state(folder, run, last), None
        except InputError as error:
            state, damage = "damaged", str(error)
        step = run.num_steps if state == "done" else newest[run.identity].get("step", 0)
        rows.append(
            {
                "arm": run.arm,
                "seed": run.seed,
                "identity": run.identity,
                "state": state,
                "step": step,
                "num_steps": run.num_steps,
                "attempts": len(attempts),
                "cause": last.facts.get("cause") if last is not None and state == "failed" else damage,
                "updated": status.get("updated"),
            }
        )
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES}
    return {
        "study": folder.study.name,
        "counts": counts,
        "seconds_left": _seconds_left(rows, newest),
        "runs": rows,
    }


STATES = ("waiting", "running", "interrupted", "failed", "damaged", "done")


def _state(folder: StudyFolder, run: StudyRun, last: Attempt | None) -> str:
    if is_done(folder.run_folder(run.identity)):
        return "done"
    if last is None:
        return "waiting"
    if last.is_alive() and last.beat_lately():
        return "running"
    return "failed" if last.ended == "failed" else "interrupted"


TAIL = 2**16
"""Bytes at the end of metrics.jsonl in which a training record is looked for."""


def _newest(folder: Path) -> dict[str, Any]:
    """Return the newest whole training record of a run."""
    file = folder / "metrics.jsonl"
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - TAIL))
            lines = stream.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            record = json.loads(line)
            if record["kind"] == "train" and record["step"] > 0 and record["seconds"] > 0:
                return record
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # being written this moment, or damaged
    return {}


def _seconds_left(rows: Sequence[Mapping[str, Any]], newest: Mapping[str, Mapping[str, Any]]) -> float | None:
    paces: dict[str, list[float]] = {}
    for row in rows:
        record = newest[row["identity"]]
        if record:
            paces.setdefault(row["arm"], []).append(record["seconds"])
    if not paces:
        return None
    overall = sum(sum(values) for values in paces.values()) / sum(len(values) for values in paces.values())
    left = 0.0
    for row in rows:
        if row["state"] not in ("done", "failed", "damaged"):
            values = paces.get(row["arm"], [overall])
            left += (row["num_steps"] - row["step"]) * sum(values) / len(values)
    return left / max(1, sum(row["state"] == "running" for row in rows))
