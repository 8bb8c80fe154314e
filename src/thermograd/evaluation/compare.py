"""Runs side by side: what was measured on each, and on the same images their differences and the log Bayes factor.

Images are the units of a paired difference: it says how far two models differ, and not how far two ways of training do,
which takes seeds, a study.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from thermograd.errors import InputError
from thermograd.evaluation.evaluate import posterior_scores
from thermograd.evaluation.records import Record, read_records
from thermograd.evaluation.settings import CompareSettings
from thermograd.evidence import BayesFactor, Evidence, bayes_factor, estimate_evidence
from thermograd.runs.run import Run, load_run
from thermograd.streams import stream
from thermograd.training.builder import batch_images

PAIRED = {
    "reconstruction_mean_square_error": ("error", "pixels in [-1, 1]"),
    "log_likelihood_at_posterior_draws": ("log_likelihood", "nats"),
}
"""Quantities that each image has by itself: where `posterior_scores` has them, and their unit."""


@dataclass(frozen=True)
class Pair:
    """Two models on the same images; a difference is that of the first less the second.

    Attributes:
        first: folder of the first run.
        second: folder of the other.
        num_images: on which they were compared.
        differences: by quantity {value, low, high, unit}, mean over images ± 1.96 of its standard errors.
        bayes_factor: of the first against the second; None where none was asked for.
    """

    first: str
    second: str
    num_images: int
    differences: dict[str, dict[str, Any]]
    bayes_factor: BayesFactor | None

    def record(self) -> dict[str, Any]:
        """Return it as plain data."""
        factor = None if self.bayes_factor is None else self.bayes_factor.record()
        return {**vars(self), "bayes_factor": factor}


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        dataset: all were compared on.
        split: of it.
        runs: of each its folder, estimator, seed and checkpoint.
        quantities: what `evaluate` or `measure` found on the split: by name its unit and one {value, low, high} per
            run, or None where a run lacks it.
        pairs: the first run and each of the others, on the same images.
    """

    dataset: str
    split: str
    runs: list[dict[str, Any]]
    quantities: dict[str, dict[str, Any]]
    pairs: tuple[Pair, ...]

    def record(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**vars(self), "pairs": [pair.record() for pair in self.pairs]}


def compare_runs(folders: Sequence[Path | str], settings: CompareSettings | None = None) -> Comparison:
    """Compare the models of runs on the same images, the first with each of the others.

    Args:
        folders: run folders, at least two.
        settings: split, counts, and how log p(x) is estimated; None for the defaults.

    Raises:
        InputError: fewer than two runs, or runs of other images or other likelihoods.

    Example:
        >>> found = tg.compare_runs(["runs/first", "runs/second"])  # doctest: +SKIP
        >>> found.pairs[0].bayes_factor  # doctest: +SKIP
    """
    settings = settings or CompareSettings()
    if len(folders) < 2:
        raise InputError(f"`runs` must name at least 2 run folders, got {len(folders)}.")
    paths = [Path(folder) for folder in folders]
    runs = [load_run(path) for path in paths]
    data = [run.data(settings.split) for run in runs]
    if len({each.fingerprint for each in data}) > 1:
        names = ", ".join(f"{len(each):,} of {each.name}" for each in data)
        raise InputError(f"`runs` must be of the same {settings.split} images to be compared, got {names}.")
    if len(kinds := {run.model.likelihood for run in runs}) > 1:
        raise InputError(
            f"`runs` must have one likelihood to be compared, got {' and '.join(sorted(kinds))}."
        )
    scores = [
        posterior_scores(run, each, settings.num_images, settings.seed)
        for run, each in zip(runs, data, strict=True)
    ]
    evidence = [_evidence(run, i, settings) if settings.num_evidence else None for i, run in enumerate(runs)]
    pairs = tuple(
        _pair((paths[0], scores[0], evidence[0]), (paths[i], scores[i], evidence[i]))
        for i in range(1, len(runs))
    )
    return Comparison(
        dataset=data[0].name,
        split=settings.split,
        runs=[
            {"folder": str(path), "estimator": run.config.gradient.estimator, "seed": run.config.seed}
            | {"checkpoint": run.checkpoint.path.name}
            for path, run in zip(paths, runs, strict=True)
        ],
        quantities=_side_by_side([_newest(run, settings.split) for run in runs]),
        pairs=pairs,
    )


Side = tuple[Path, dict[str, Tensor], Evidence | None]


def _pair(first: Side, second: Side) -> Pair:
    differences = {}
    for name, (part, unit) in PAIRED.items():
        each = (first[1][part] - second[1][part]).double()
        value, error = float(each.mean()), float(each.std()) / len(each) ** 0.5 if len(each) > 1 else None
        ends = (None, None) if error is None else (value - 1.96 * error, value + 1.96 * error)
        differences[name] = {"value": value, "low": ends[0], "high": ends[1], "unit": unit}
    factor = None if first[2] is None or second[2] is None else bayes_factor(first[2], second[2])
    return Pair(str(first[0]), str(second[0]), len(first[1]["error"]), differences, factor)


def _evidence(run: Run, number: int, settings: CompareSettings) -> Evidence:
    """Estimate the evidence of the first images, each run from random numbers of its own."""
    data, device = run.data(settings.split), next(run.model.parameters()).device
    x = batch_images(run.config, data, range(min(settings.num_evidence, len(data))), 0, device)
    generator = stream(settings.seed, f"compare-evidence-{number}", 0, device)
    short_run = run.config.prior_chains.is_short_run
    return estimate_evidence(run.model, x, settings, generator=generator, short_run_prior=short_run)


def _newest(run: Run, split: str) -> Record | None:
    """Return the last evaluation of the checkpoint that is compared, on the split."""
    found = [
        record
        for record in read_records(run.folder, "evaluation")
        if (record.split, record.step) == (split, run.checkpoint.step)
    ]
    return found[-1] if found else None


def _side_by_side(records: Sequence[Record | None]) -> dict[str, dict[str, Any]]:
    quantities: dict[str, dict[str, Any]] = {}
    for i, record in enumerate(records):
        for name, unit, value, error in _quantities(record) if record is not None else ():
            row = quantities.setdefault(name, {"unit": unit, "runs": [None] * len(records)})
            row["runs"][i] = {"value": value, "low": value - 1.96 * error, "high": value + 1.96 * error}
    return quantities


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


def write_factors(found: BayesFactor, file: Path) -> Path:
    """Write a row per image: its log Bayes factor with interval, range or bound, and why it is in doubt; in nats."""
    images = found.record()["images"]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as held:
        writer = csv.writer(held)
        writer.writerow(["image", *images])
        writer.writerows([i, *row] for i, row in enumerate(zip(*images.values(), strict=True)))
    return file
