"""Where the runs of a study stand, as their own folders say."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thermograd.errors import InputError
from thermograd.evaluation.records import measured_steps, read_records
from thermograd.files import parse_json, read_json
from thermograd.progress import tell
from thermograd.study.attempts import Attempt, attempt_numbers, read_attempt
from thermograd.study.folder import StudyFolder
from thermograd.study.run import StudyRun


def is_done(folder: Path) -> bool:
    """Return whether a run is trained to its end and was measured there, as its own folder says."""
    return _is_done(folder, read_status(folder))


def _is_done(folder: Path, status: Mapping[str, Any]) -> bool:
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
    remaining steps and breaks take at the pace of the arm so far (of all arms where it has none), over the runs at
    work.

    Args:
        folder: the study.
        newest: the last training record of each run by its identity, for those who have read them; None to read them
            where they are needed.
    """
    paths = {run.identity: folder.run_folder(run.identity) for run in folder.runs}
    rows = [_row(run, paths[run.identity], folder.attempts_folder(run.identity)) for run in folder.runs]
    if newest is None:
        unfinished = any(row["state"] != "done" for row in rows)
        newest = {identity: _newest(path) if unfinished else {} for identity, path in paths.items()}
    for row in rows:
        row["step"] = row["num_steps"] if row["state"] == "done" else newest[row["identity"]].get("step", 0)
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES}
    return {
        "study": folder.study.name,
        "counts": counts,
        "seconds_left": _seconds_left(folder, rows, newest),
        "runs": rows,
    }


STATES = ("waiting", "running", "interrupted", "failed", "damaged", "done")


def _row(run: StudyRun, path: Path, attempts: Path) -> dict[str, Any]:
    """Return where a run stands; of one that is done no attempt is read."""
    status, numbers, cause = read_status(path), attempt_numbers(attempts), None
    try:
        state = "done" if _is_done(path, status) else "waiting"
    except InputError as error:
        state, cause = "damaged", str(error)
    if state == "waiting" and numbers:
        last = read_attempt(attempts, numbers[-1])
        state = _state(last)
        cause = last.facts.get("cause") if state == "failed" else None
    return {
        "arm": run.arm,
        "seed": run.seed,
        "identity": run.identity,
        "state": state,
        "step": 0,
        "num_steps": run.num_steps,
        "attempts": len(numbers),
        "cause": cause,
        "updated": status.get("updated"),
    }


def _state(last: Attempt) -> str:
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
            record = parse_json(line)
            if record["kind"] == "train" and record["step"] > 0 and record["seconds"] > 0:
                return record
        except (ValueError, TypeError, KeyError):
            continue  # being written this moment, or damaged
    return {}


def _seconds_left(
    folder: StudyFolder, rows: Sequence[Mapping[str, Any]], newest: Mapping[str, Mapping[str, Any]]
) -> float | None:
    """Return what the remaining steps and breaks take at the pace of each arm so far, over the runs at work."""
    ended = ("done", "failed", "damaged")
    if all(row["state"] in ended for row in rows):
        return None
    steps, breaks = _Paces(), _Paces()
    for row in rows:
        if record := newest[row["identity"]]:
            steps.add(row["arm"], record["seconds"])
        if breaks.count(row["arm"]) < FEW:
            for seconds in _seconds_of_breaks(folder.run_folder(row["identity"])):
                breaks.add(row["arm"], seconds)
    if not steps:
        return None
    left = 0.0
    for row in rows:
        if row["state"] in ended:
            continue
        run = folder.run(row["identity"])
        epochs = run.config["training"]["num_epochs"]
        clock = folder.study.measure.steps(epochs, run.num_steps // epochs)
        num_breaks = len(set(clock) - _measured(folder.run_folder(run.identity)))
        left += (row["num_steps"] - row["step"]) * steps.mean(row["arm"]) + num_breaks * breaks.mean(
            row["arm"]
        )
    return left / max(1, sum(row["state"] == "running" for row in rows))


def _measured(folder: Path) -> set[int]:
    try:
        return measured_steps(folder)
    except InputError:
        return set()


FEW = 3
"""Breaks of an arm from which the time of the others is told."""


def _seconds_of_breaks(folder: Path) -> list[float]:
    """Return how long each break of a run took to measure, as far as the records tell."""
    try:
        records = read_records(folder, source="clock")
    except InputError:
        return []
    seconds: dict[int, float] = {}
    for record in records:
        seconds[record.step] = seconds.get(record.step, 0.0) + float(record.values.get("seconds", 0.0))
    return list(seconds.values())


class _Paces(dict[str, list[float]]):
    """Seconds by arm."""

    def add(self, arm: str, seconds: float) -> None:
        self.setdefault(arm, []).append(seconds)

    def count(self, arm: str) -> int:
        return len(self.get(arm, ()))

    def mean(self, arm: str) -> float:
        """Return the mean of an arm, of all arms where it has none, 0 where none has."""
        values = self.get(arm) or [each for values in self.values() for each in values]
        return sum(values) / len(values) if values else 0.0


class StudyMeter:
    """Tells how far a study is whenever it is called, but does not look into its folders all the time."""

    def __init__(self, folder: StudyFolder):
        self.folder = folder
        self._next = 0.0

    def __call__(self) -> None:
        """Look, if it is time to."""
        begun = time.monotonic()
        if begun < self._next:
            return
        found = study_status(self.folder)
        counts, rows = found["counts"], found["runs"]
        tell(
            "steps of all runs",
            sum(row["step"] for row in rows),
            sum(row["num_steps"] for row in rows),
            f"{counts['done']} of {len(rows)} runs done, {counts['running']} at work",
            found["seconds_left"],
        )
        # Of thousands of runs a look takes seconds: it may take a twentieth of the time.
        self._next = time.monotonic() + max(2.0, 20 * (time.monotonic() - begun))
