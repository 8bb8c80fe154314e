"""Scores of a trained run on a split of its data, kept in evaluation.json.

Every number says what it was measured on: split, counts, seed, checkpoint, and for a distance the feature network with
the hash of its weights. Beside each distance stands its floor, the distance between two halves of the reference.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thermograd.data import ImageDataset, to_tensor
from thermograd.errors import InputError
from thermograd.evaluation.distances import distances_of_run
from thermograd.evaluation.settings import EvaluationSettings
from thermograd.evaluation.variance import VarianceSettings, variance_of_run
from thermograd.evidence import IMAGE_PILOT_STEPS, IMAGE_RUNGS, IMAGE_STEPS, estimate_evidence
from thermograd.files import write_atomically
from thermograd.metrics import (
    nearest_neighbours,
)
from thermograd.runs.pictures import image_grid, pairs_grid, save_png
from thermograd.runs.run import Run
from thermograd.streams import stream
from thermograd.training.builder import batch_images
from thermograd.training.probe import Changes
from thermograd.training.samples import Samples, sample_images, sample_posterior

START_STEPS = 20
"""Steps of chains that persist in training, where there are none to go on from; the published number."""


def evaluate_run(run: Run, settings: EvaluationSettings | None = None) -> dict[str, Any]:
    """Measure a run and add the record to its evaluation.json.

    Posterior chains are those of `sample_posterior`, whatever chains trained the model. The reconstruction is that of
    one posterior draw an image; its error is a mean over pixels in [-1, 1].

    Args:
        run: what `load_run` returned.
        settings: what to measure; None for the defaults.

    Returns:
        The record: what was measured, on what, `values` by name (mean, standard error over images, unit),
        `distances` (a list of `DistanceRecord` as dictionaries, floors among them) and `gradient_variance` (of each
        network and in total, as `thermograd variance` gives it).
    """
    settings = settings or EvaluationSettings()
    if settings.num_gradient_batches in (1, 2):
        raise InputError(
            f"`num_gradient_batches` must be 0, or at least 3, got {settings.num_gradient_batches}."
        )
    splits = {split: run.data(split) for split in ("train", "test")}
    data = splits[settings.split]
    values = _posterior_values(run, data, settings)
    num_samples = settings.num_samples or min(len(splits["test"]), 10_000)
    samples = sample_images(run.model, run.prior_chains, num_samples, settings.seed)
    values["energy_prior"] = _mean(samples.energy, "nats")
    if settings.num_evidence:
        values |= _evidence_values(run, data, settings)
    folder = run.folder / "samples"
    save_png(image_grid(samples.images[:64]), folder / f"samples_{run.checkpoint.path.name}.png")
    values |= _neighbour_values(run, samples, splits, folder)
    record = {
        "source": settings.source,
        "dataset": data.name,
        "split": settings.split,
        "num_images": min(settings.num_images, len(data)),
        "num_samples": num_samples,
        "seed": settings.seed,
        "checkpoint": run.checkpoint.path.name,
        "step": run.checkpoint.step,
        "epoch": run.checkpoint.state["epoch"] + 1,
        "values": values,
        "distances": distances_of_run(run, samples, splits, settings),
        "gradient_variance": _gradient_variance(run, data, settings),
    }
    add_record(run.folder, record)
    return record


def add_record(folder: Path, record: dict[str, Any]) -> None:
    """Add a record to evaluation.json, in place of one of the same source, checkpoint, split, seed and counts."""
    file = folder / "evaluation.json"
    key = ("source", "split", "checkpoint", "seed", "num_images", "num_samples")
    records = [old for old in read_evaluation(folder) if any(old.get(name) != record[name] for name in key)]
    write_atomically(file, json.dumps([*records, record], indent=1))


def read_evaluation(folder: Path) -> list[dict[str, Any]]:
    """Return the records of evaluation.json, oldest first; none where the run was never evaluated."""
    file = folder / "evaluation.json"
    return json.loads(file.read_text()) if file.is_file() else []


def _posterior_values(run: Run, data: ImageDataset, settings: EvaluationSettings) -> dict[str, Any]:
    model, device = run.model, next(run.model.parameters()).device
    count = min(settings.num_images, len(data))
    parts: dict[str, list[Tensor]] = {"error": [], "log_likelihood": [], "energy": []}
    for first in range(0, count, settings.batch_size):
        x = batch_images(run.config, data, range(first, min(first + settings.batch_size, count)), 0, device)
        posterior = sample_posterior(
            model, x, settings.seed, step_size=run.config.posterior_chains.step_size, step=first
        )
        images = model.decode(posterior.latents[-1, 0])
        originals = 2 * x - 1 if model.likelihood == "bernoulli" else x
        if first == 0:
            file = run.folder / "samples" / f"reconstructions_{settings.split}.png"
            save_png(pairs_grid(originals[:64], images[:64]), file)
        parts["error"].append((images - originals).square().mean((1, 2, 3)))
        parts["log_likelihood"].append(posterior.log_likelihood[-1, 0])
        parts["energy"].append(posterior.energy[-1, 0])
    return {
        "reconstruction_mean_square_error": _mean(torch.cat(parts["error"]), "pixels in [-1, 1]"),
        "log_likelihood_at_posterior_draws": _mean(torch.cat(parts["log_likelihood"]), "nats"),
        "energy_posterior": _mean(torch.cat(parts["energy"]), "nats"),
    }


def _evidence_values(run: Run, data: ImageDataset, settings: EvaluationSettings) -> dict[str, Any]:
    device = next(run.model.parameters()).device
    x = batch_images(run.config, data, range(min(settings.num_evidence, len(data))), 0, device)
    generator = stream(settings.seed, "evaluation-evidence", 0, device)
    evidence = estimate_evidence(
        run.model,
        x,
        generator=generator,
        num_rungs=IMAGE_RUNGS,
        num_steps=IMAGE_STEPS,
        num_pilot_steps=IMAGE_PILOT_STEPS,
    )
    value = _mean(evidence.log_evidence, "nats")
    value["monte_carlo_error"] = float(evidence.monte_carlo_error.square().mean().sqrt() / len(x) ** 0.5)
    value["quadrature_error"] = float(evidence.quadrature_error.mean())
    value["num_images"] = len(x)
    value["num_evaluations"] = evidence.num_evaluations
    value["warnings"] = [asdict(each) for each in evidence.warnings]
    return {"log_evidence": value}


def _gradient_variance(run: Run, data: ImageDataset, settings: EvaluationSettings) -> dict[str, Any] | None:
    """Measure the variance of the run's own estimator on fresh batches of the split, at the checkpoint's weights.

    The noise that a `noise_multiplier` adds is left out. Images of the test split have no stored chains: where those of
    training are persistent, these begin at the base distribution and take `START_STEPS` at least.
    """
    if not settings.num_gradient_batches:
        return None
    estimator, chains = run.config.gradient.estimator, run.config.posterior_chains
    from_nowhere = chains.start == "persistent" and settings.split == "test"
    asked = VarianceSettings(
        estimators=(estimator,),
        num_batches=settings.num_gradient_batches,
        num_repeats=4,
        changes=Changes(
            batch_size=min(16, len(data)),
            num_steps=max(chains.num_steps, START_STEPS) if from_nowhere else None,
        ),
        reference=None,
        split=settings.split,
        seed=settings.seed,
    )
    record = variance_of_run(run, asked, write=False)
    found = record["estimators"][estimator]
    blocks = {
        name: found["blocks"][name] for name in ("generator", "prior", "total") if name in found["blocks"]
    }
    return {
        "estimator": estimator,
        "batch_size": record["batch_size"],
        "num_batches": record["num_batches"],
    } | blocks


def _neighbour_values(
    run: Run, samples: Samples, splits: dict[str, ImageDataset], folder: Path, count: int = 200
) -> dict[str, Any]:
    """Compare how near samples and test images are to the training images: nearer samples hint at copies."""
    train = to_tensor(splits["train"].images)
    queries = {"samples": samples.images[:count].cpu(), "test": to_tensor(splits["test"].images[:count])}
    found = {name: nearest_neighbours(images, train) for name, images in queries.items()}
    nearest = train[found["samples"].indices[:32, 0]]
    save_png(pairs_grid(queries["samples"][:32], nearest), folder / "nearest_training_images.png")
    return {
        f"distance_to_nearest_training_image_{name}": _mean(neighbours.distances[:, 0], "pixels in [-1, 1]")
        for name, neighbours in found.items()
    }


# --- distances ---


def _mean(values: Tensor, unit: str) -> dict[str, Any]:
    """Return the mean over images with its standard error, which one image does not have."""
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else None
    return {"mean": float(values.mean()), "standard_error": error, "unit": unit}
