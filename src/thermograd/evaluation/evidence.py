"""The evidence of images under a trained run: a table with an interval for each image, and a picture of E_t[l]."""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

from thermograd.evaluation.records import add_record, record_of
from thermograd.evaluation.settings import RunEvidenceSettings
from thermograd.evidence import Evidence, estimate_evidence
from thermograd.files import written_whole
from thermograd.runs.pictures import own_style
from thermograd.runs.run import Run
from thermograd.streams import stream
from thermograd.training.builder import batch_images


def evidence_of_run(run: Run, settings: RunEvidenceSettings | None = None) -> dict[str, Any]:
    """Estimate log p(x) of the first images of a split; add the record to the run's measurements.

    The mean is over all images, those without an interval among them, whose number stands beside it. Its error is that
    of the estimates; that other images would give another mean is told apart.

    Returns:
        Means over images, counts of what has no interval, warnings, and the files written beside the record.
    """
    settings = settings or RunEvidenceSettings()
    split, data = settings.split, run.data(settings.split)
    device = next(run.model.parameters()).device
    x = batch_images(run.config, data, range(min(settings.num_images, len(data))), 0, device)
    generator = stream(settings.seed, "evidence", 0, device)
    evidence = estimate_evidence(
        run.model, x, settings, generator=generator, short_run_prior=run.config.prior_chains.is_short_run
    )
    stem = run.folder / f"evidence_{split}_{settings.method}"
    files = [str(write_table(evidence, stem.with_suffix(".csv")))]
    if evidence.expected_log_likelihood is not None:
        files.append(str(draw_path(evidence, stem.with_suffix(".png"), f"{run.config.preset}, {split}")))
    record: dict[str, Any] = {
        "dataset": f"{data.name}:{split}",
        "checkpoint": run.checkpoint.path.name,
        **summary(evidence),
    }
    kept = record_of(
        run,
        "evidence",
        data,
        split,
        source="command",
        seed=settings.seed,
        settings={**settings.model_dump(exclude={"split", "seed"}), "num_images": len(x)},
        values={**record, "images": evidence.columns()},
    )
    add_record(run.folder, kept)
    return record | {"files": files}


def summary(evidence: Evidence) -> dict[str, Any]:
    """Return the numbers of an estimate that stand for all of its images."""
    mean = evidence.mean()
    return {
        "method": evidence.method,
        "log_evidence": mean["value"],
        "error": mean["error"],
        "standard_error_over_images": mean["standard_error_over_images"],
        "log_partition_error": evidence.log_partition_error,
        "num_images": mean["num_images"],
        "num_doubtful": mean["num_doubtful"],
        "num_ranges": evidence.status.count("range"),
        "num_lower_bounds": evidence.status.count("lower-bound"),
        "num_evaluations": evidence.num_evaluations,
        "warnings": [asdict(each) for each in evidence.warnings],
    }


def write_table(evidence: Evidence, file: Path) -> Path:
    """Write one row per image: estimate, interval or range or bound, and why there is no interval; in nats."""
    columns = evidence.columns()
    with file.open("w", newline="") as stream_:
        writer = csv.writer(stream_)
        writer.writerow(["image", *columns])
        for i, row in enumerate(zip(*columns.values(), strict=True)):
            writer.writerow([i, *(f"{value:.6f}" if isinstance(value, float) else value for value in row)])
    return file


@own_style()
def draw_path(evidence: Evidence, file: Path, title: str) -> Path:
    """Draw E_t[l] against t, mean over images, with the band of one standard deviation of l under p_t."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mean, variance = evidence.expected_log_likelihood, evidence.variance_log_likelihood
    if mean is None or variance is None or evidence.inverse_temperatures is None:
        raise ValueError(f"`method` {evidence.method} does not visit the power posteriors.")
    t = evidence.inverse_temperatures.mean(1).cpu()  # rungs stand at other temperatures for each image
    centre, spread = mean.mean(1).cpu(), variance.mean(1).clamp(min=0).sqrt().cpu()
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    # Most of the path lies near t = 0, so it is drawn twice: whole, and without the rungs next to the prior.
    for axes, first in zip(figure.subplots(1, 2), (0, len(t) // 3), strict=True):
        axes.fill_between(
            t[first:], (centre - spread)[first:], (centre + spread)[first:], color="#1b6ca8", alpha=0.2
        )
        axes.plot(t[first:], centre[first:], marker="o", markersize=3, color="#1b6ca8")
        axes.set(xlabel="inverse temperature t", ylabel="E_t[l], nats per image")
        axes.set_title("whole path" if first == 0 else f"from t = {float(t[first]):.2g} on")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    log_evidence = float(evidence.log_evidence.mean())
    figure.suptitle(
        f"{title}: log p(x) = {log_evidence:.1f}, the area under the curve; band: sd of l under p_t"
    )
    with written_whole(file) as aside:
        figure.savefig(aside, dpi=130)
    return file
