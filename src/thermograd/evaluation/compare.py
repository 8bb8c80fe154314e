"""Runs side by side: what `evaluate` measured on each, with intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thermograd.errors import InputError
from thermograd.evaluation.records import Record, read_records
from thermograd.runs.folder import read_config


def compare_runs(folders: Sequence[Path]) -> dict[str, Any]:
    """Put the newest evaluation of each run side by side.

    Each quantity has a 95 % interval, mean ± 1.96 standard errors over images (or over draws of both sets, for a
    distance). It says how well this one model was measured; how much models differ from seed to seed takes a study.

    Args:
        folders: run folders that `evaluate` has measured, at least two.

    Returns:
        `runs` (folder, estimator, seed, checkpoint) and `quantities`: for each name its unit and one
        {value, low, high} per run, or None where a run lacks it.

    Raises:
        InputError: fewer than two runs, one that was never evaluated, or runs measured on different data or splits.
    """
    if len(folders) < 2:
        raise InputError(f"`runs` must name at least 2 run folders, got {len(folders)}.")
    configs = [read_config(folder) for folder in folders]
    records = []
    for folder in folders:
        found = read_records(folder, "evaluation")
        if not found:
            raise InputError(f"`run` {folder} was not evaluated yet: thermograd evaluate {folder}")
        records.append(max(found, key=lambda record: record.step))
    measured_on = {(record.dataset, record.split) for record in records}
    if len(measured_on) > 1:
        raise InputError(f"`runs` must be measured on one data set and split, got {sorted(measured_on)}.")
    quantities: dict[str, dict[str, Any]] = {}
    for i, record in enumerate(records):
        for name, unit, value, error in _quantities(record):
            row = quantities.setdefault(name, {"unit": unit, "runs": [None] * len(records)})
            row["runs"][i] = {"value": value, "low": value - 1.96 * error, "high": value + 1.96 * error}
    runs = [
        {
            "folder": str(folder),
            "estimator": config.gradient.estimator,
            "seed": config.seed,
            "checkpoint": record.checkpoint,
        }
        for folder, config, record in zip(folders, configs, records, strict=True)
    ]
    return {
        "dataset": records[0].dataset,
        "split": records[0].split,
        "runs": runs,
        "quantities": quantities,
    }


def _quantities(record: Record) -> list[tuple[str, str, float, float]]:
    rows = [
        (name, value["unit"], value["value"], value["standard_error"])
        for name, value in record.values["quantities"].items()
        if value["standard_error"] is not None  # one image has none, so no interval either
    ]
    for distance in record.values["distances"]:
        if not distance["is_floor"]:
            name = f"{distance['name']} to {distance['reference']}"
            rows.append((name, "distance", distance["value"], distance["standard_error"]))
    return rows
