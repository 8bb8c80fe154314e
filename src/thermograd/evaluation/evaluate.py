"""Scores of a trained run on a split of its data.

Every number says what it was measured on: split, counts, seed, checkpoint, and for a distance the feature network with
the hash of its weights. Beside each distance stands its floor, the distance between two halves of the reference.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thermograd.data import ImageDataset, to_tensor
from thermograd.evaluation.distances import distances_of_run, extractor_of_run
from thermograd.evaluation.evidence import summary
from thermograd.evaluation.prior import prior_of_run
from thermograd.evaluation.records import Record, add_record, record_of
from thermograd.evaluation.settings import EvaluationSettings
from thermograd.evidence import estimate_evidence
from thermograd.metrics import nearest_neighbours
from thermograd.progress import tell
from thermograd.runs.pictures import image_grid, pairs_grid, save_png
from thermograd.runs.run import Run
from thermograd.streams import stream
from thermograd.training.builder import batch_images
from thermograd.training.samples import Samples, sample_images, sample_posterior

PARTS = "parts of the evaluation"
"""Reconstructions, samples, evidence, the prior's chains, distances."""


def evaluate_run(run: Run, settings: EvaluationSettings | None = None) -> Record:
    """Measure a run and add the record to its measurements.

    Posterior chains are those of `sample_posterior`, whatever chains trained the model. The reconstruction is that of
    one posterior draw per image; its error is a mean over pixels in [-1, 1].

    Args:
        run: what `load_run` returned.
        settings: what to measure; None for the defaults.

    Returns:
        The record. Its values are `quantities` by name ({value, standard_error over images, unit}), `distances`, a
        list of `DistanceRecord` as dictionaries, floors among them, `prior`, what `prior_of_run` found or None,
        `left_out`, a line for each thing that could not be measured, and the `seconds` that it took.
    """
    settings, begun = settings or EvaluationSettings(), time.perf_counter()
    splits = {split: run.data(split) for split in ("train", "test")}
    data = splits[settings.split]
    # First: a network that is not there costs no work.
    extractor, left_out = extractor_of_run(run, splits, settings)
    tell(PARTS, 0, 5)
    quantities, latents = _posterior_values(run, data, settings)
    tell(PARTS, 1, 5)
    num_samples = settings.num_samples or min(len(splits["test"]), 10_000)
    samples = sample_images(run.model, run.prior_chains, num_samples, settings.seed)
    quantities["energy_prior"] = _mean(samples.energy, "nats")
    tell(PARTS, 2, 5)
    if settings.num_evidence:
        quantities |= _evidence_values(run, data, settings)
    folder = run.folder / "samples"
    save_png(image_grid(samples.images[:64]), folder / f"samples_{run.checkpoint.path.name}.png")
    quantities |= _neighbour_values(run, samples, splits, folder)
    tell(PARTS, 3, 5)
    prior: dict[str, Any] | None = None
    if settings.prior:
        posterior: dict[str, Tensor] = {"test": latents} if settings.split == "test" else {}
        prior = prior_of_run(run, posterior, splits, num_samples, settings, extractor)
    tell(PARTS, 4, 5)
    distances, too_few = distances_of_run(run, samples, splits, settings, extractor)
    used = {
        **settings.model_dump(exclude={"source", "split", "seed"}),
        "num_images": min(settings.num_images, len(data)),
        "num_samples": num_samples,
        "num_evidence": min(settings.num_evidence, len(data)),
    }
    record = record_of(
        run,
        "evaluation",
        data,
        settings.split,
        source=settings.source,
        seed=settings.seed,
        settings=used,
        values={
            "quantities": quantities,
            "distances": distances,
            "prior": prior,
            "left_out": [*left_out, *too_few],
            "seconds": time.perf_counter() - begun,
        },
    )
    add_record(run.folder, record)
    tell(PARTS, 5, 5)
    return record


def posterior_scores(
    run: Run,
    data: ImageDataset,
    num_images: int,
    seed: int,
    batch_size: int = 250,
    picture: Path | None = None,
) -> dict[str, Tensor]:
    """Return what one posterior draw per image says of the first images of a split.

    Args:
        run: what `load_run` returned.
        data: the split.
        num_images: at most.
        seed: of the chains.
        batch_size: images at once.
        picture: where the first images with their reconstructions are drawn; None for nowhere.

    Returns:
        `error`, mean square over pixels in [-1, 1], `log_likelihood` and `energy`, (N,), and `latents` (N, d).
    """
    model, device = run.model, next(run.model.parameters()).device
    count = min(num_images, len(data))
    parts: dict[str, list[Tensor]] = {"error": [], "log_likelihood": [], "energy": [], "latents": []}
    for first in range(0, count, batch_size):
        x = batch_images(run.config, data, range(first, min(first + batch_size, count)), 0, device)
        posterior = sample_posterior(
            model, x, seed, step_size=run.config.posterior_chains.step_size, step=first
        )
        images = model.decode(posterior.latents[-1, 0])
        originals = 2 * x - 1 if model.likelihood == "bernoulli" else x
        if first == 0 and picture is not None:
            save_png(pairs_grid(originals[:64], images[:64]), picture)
        parts["error"].append((images - originals).square().mean((1, 2, 3)))
        parts["log_likelihood"].append(posterior.log_likelihood[-1, 0])
        parts["energy"].append(posterior.energy[-1, 0])
        parts["latents"].append(posterior.latents[-1, 0])
    return {name: torch.cat(each) for name, each in parts.items()}


def _posterior_values(
    run: Run, data: ImageDataset, settings: EvaluationSettings
) -> tuple[dict[str, Any], Tensor]:
    """Return what posterior draws say, and the latents (N, d) of one draw per image."""
    picture = run.folder / "samples" / f"reconstructions_{settings.split}_{run.checkpoint.path.name}.png"
    scores = posterior_scores(run, data, settings.num_images, settings.seed, settings.batch_size, picture)
    values = {
        "reconstruction_mean_square_error": _mean(scores["error"], "pixels in [-1, 1]"),
        "log_likelihood_at_posterior_draws": _mean(scores["log_likelihood"], "nats"),
        "energy_posterior": _mean(scores["energy"], "nats"),
    }
    return values, scores["latents"]


def _evidence_values(run: Run, data: ImageDataset, settings: EvaluationSettings) -> dict[str, Any]:
    device = next(run.model.parameters()).device
    x = batch_images(run.config, data, range(min(settings.num_evidence, len(data))), 0, device)
    generator = stream(settings.seed, "evaluation-evidence", 0, device)
    short = run.config.prior_chains.is_short_run
    evidence = estimate_evidence(run.model, x, generator=generator, short_run_prior=short)
    found = summary(evidence)
    error = found["standard_error_over_images"]
    value = {"value": found.pop("log_evidence"), "standard_error": error, "unit": "nats"}
    value |= {name: each for name, each in found.items() if name != "standard_error_over_images"}
    return {"log_evidence": value}


def _neighbour_values(
    run: Run, samples: Samples, splits: dict[str, ImageDataset], folder: Path, count: int = 200
) -> dict[str, Any]:
    """Compare how near samples and test images are to the training images: nearer samples hint at copies."""
    train = to_tensor(splits["train"].images)
    queries = {"samples": samples.images[:count].cpu(), "test": to_tensor(splits["test"].images[:count])}
    found = {name: nearest_neighbours(images, train) for name, images in queries.items()}
    nearest = train[found["samples"].indices[:32, 0]]
    name = f"nearest_training_images_{run.checkpoint.path.name}.png"
    save_png(pairs_grid(queries["samples"][:32], nearest), folder / name)
    return {
        f"distance_to_nearest_training_image_{kind}": _mean(neighbours.distances[:, 0], "pixels in [-1, 1]")
        for kind, neighbours in found.items()
    }


def _mean(values: Tensor, unit: str) -> dict[str, Any]:
    """Return the mean over images with its standard error, which one image does not have."""
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else None
    return {"value": float(values.mean()), "standard_error": error, "unit": unit}
