"""Where the runs of a study stand, as their own folders say."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thermograd.errors import InputError
from thermograd.evaluation.records import measured_steps
from thermograd.files import read_json
from thermograd.study.attempts import Attempt, read_attempts
from thermograd.study.folder import StudyFolder
from thermograd.study.run import StudyRun


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
