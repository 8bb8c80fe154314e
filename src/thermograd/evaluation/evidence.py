"""The evidence of images under a trained run: a table with error bars, and a picture of E_t[l] against t."""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from thermograd.evaluation.records import add_record, record_of
from thermograd.evidence import (
    IMAGE_PILOT_STEPS,
    IMAGE_RUNGS,
    IMAGE_STEPS,
    Evidence,
    Method,
    estimate_evidence,
)
from thermograd.files import written_whole
from thermograd.runs.pictures import own_style
from thermograd.runs.run import Run
from thermograd.streams import stream
from thermograd.training.builder import batch_images


def evidence_of_run(
    run: Run,
    *,
    split: str = "test",
    num_images: int = 100,
    method: Method = "thermodynamic",
    num_rungs: int = IMAGE_RUNGS,
    num_steps: int = IMAGE_STEPS,
    seed: int = 0,
) -> dict[str, Any]:
    """Estimate log p(x) of the first images of a split; add the record to the run's measurements.

    The standard error of the mean over images has two parts that are told apart: that images differ, and that each
    estimate has Monte Carlo error. Quadrature error is a bias and is never mixed with them.

    Returns:
        Means over images, warnings, and the table and picture that were written beside the record.
    """
    data = run.data(split)
    device = next(run.model.parameters()).device
    count = min(num_images, len(data))
    x = batch_images(run.config, data, range(count), 0, device)
    evidence = estimate_evidence(
        run.model,
        x,
        method=method,
        num_rungs=num_rungs,
        num_steps=num_steps,
        num_pilot_steps=IMAGE_PILOT_STEPS,
        generator=stream(seed, "evidence", 0, device),
    )
    stem = run.folder / f"evidence_{split}_{method}"
    files = [str(write_table(evidence, stem.with_suffix(".csv")))]
    if evidence.expected_log_likelihood is not None:
        files.append(str(draw_path(evidence, stem.with_suffix(".png"), f"{run.config.preset}, {split}")))
    total = float(evidence.log_evidence.std()) / count**0.5 if count > 1 else float("nan")
    record: dict[str, Any] = {
        "method": method,
        "dataset": f"{data.name}:{split}",
        "checkpoint": run.checkpoint.path.name,
        "num_images": count,
        "log_evidence": float(evidence.log_evidence.mean()),
        "standard_error_over_images": total,
        "monte_carlo_error_an_image": float(evidence.monte_carlo_error.square().mean().sqrt()),
        "quadrature_error_an_image": float(evidence.quadrature_error.mean()),
    }
    if evidence.lower is not None and evidence.upper is not None:
        record |= {"left_sum": float(evidence.lower.mean()), "right_sum": float(evidence.upper.mean())}
    record["evaluations_an_image"] = evidence.num_evaluations
    record["warnings"] = [asdict(each) for each in evidence.warnings]
    kept = record_of(
        run,
        "evidence",
        data,
        split,
        source="command",
        seed=seed,
        settings={"method": method, "num_images": count, "num_rungs": num_rungs, "num_steps": num_steps},
        values={
            **record,
            "images": {
                "log_evidence": evidence.log_evidence.tolist(),
                "monte_carlo_error": evidence.monte_carlo_error.tolist(),
                "quadrature_error": evidence.quadrature_error.tolist(),
            },
        },
    )
    add_record(run.folder, kept)
    return record | {"files": files}


def write_table(evidence: Evidence, file: Path) -> Path:
    """Write one row an image: log evidence, its errors and bounds, in nats."""
    columns = {
        "log_evidence": evidence.log_evidence,
        "monte_carlo_error": evidence.monte_carlo_error,
        "quadrature_error": evidence.quadrature_error,
        "lower": evidence.lower,
        "upper": evidence.upper,
    }
    present = {name: values.tolist() for name, values in columns.items() if values is not None}
    with file.open("w", newline="") as stream_:
        writer = csv.writer(stream_)
        writer.writerow(["image", *present])
        for i, row in enumerate(zip(*present.values(), strict=True)):
            writer.writerow([i, *(f"{value:.6f}" for value in row)])
    return file


@own_style()
def draw_path(evidence: Evidence, file: Path, title: str) -> Path:
    """Draw E_t[l] against t, mean over images, with the band of one standard deviation of l under p_t."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mean, variance = evidence.expected_log_likelihood, evidence.variance_log_likelihood
    if mean is None or variance is None:
        raise ValueError(f"`method` {evidence.method} does not visit the power posteriors.")
    t = evidence.inverse_temperatures.cpu()
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
    log_evidence = float(torch.as_tensor(evidence.log_evidence).mean())
    figure.suptitle(
        f"{title}: log p(x) = {log_evidence:.1f}, the area under the curve; band: sd of l under p_t"
    )
    with written_whole(file) as aside:
        figure.savefig(aside, dpi=130)
    return file
