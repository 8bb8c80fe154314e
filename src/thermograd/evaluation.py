"""Scores of a trained run on a split of its data, written to evaluation.json."""

import json
from typing import Any

import torch
from torch import Tensor

from thermograd.checkpoint import write_atomically
from thermograd.generation import sample_images, sample_posterior
from thermograd.pictures import pairs_grid, save_png
from thermograd.run import Run, batch_images


def evaluate_run(
    run: Run, *, split: str = "test", num_images: int | None = None, seed: int = 0, batch_size: int = 250
) -> dict[str, Any]:
    """Score a run: reconstruction by posterior chains, and energies of posterior against prior draws.

    Posterior chains are those of `sample_posterior`, whatever chains trained the model. The reconstruction is that of
    one posterior draw an image; its error is a mean over pixels in [-1, 1].

    Args:
        run: what `load_run` returned.
        split: "train" or "test".
        num_images: the first so many of the split; None for all, at most 1,000.
        seed: of the evaluation's random streams.
        batch_size: images at once.

    Returns:
        The record that is added to evaluation.json.
    """
    data = run.data(split)
    count = min(num_images or 1000, len(data))
    model, settings = run.model, run.config.posterior_chains
    device = next(model.parameters()).device
    parts: dict[str, list[Tensor]] = {"error": [], "log_likelihood": [], "energy": []}
    acceptance = []
    for first in range(0, count, batch_size):
        index = range(first, min(first + batch_size, count))
        x = batch_images(run.config, data, index, 0, device)
        posterior = sample_posterior(model, x, seed, step_size=settings.step_size, step=first)
        images = model.decode(posterior.latents[-1, 0])
        originals = 2 * x - 1 if model.likelihood == "bernoulli" else x
        if first == 0:
            pairs = pairs_grid(originals[:64], images[:64])
            save_png(pairs, run.folder / "samples" / f"reconstructions_{split}.png")
        parts["error"].append((images - originals).square().mean((1, 2, 3)))
        parts["log_likelihood"].append(posterior.log_likelihood[-1, 0])
        parts["energy"].append(posterior.energy[-1, 0])
        if posterior.acceptance is not None:
            acceptance.append(float(posterior.acceptance[-1]))
    prior = sample_images(model, run.config.prior_chains, count, seed)
    record = {
        "dataset": data.name,
        "split": split,
        "num_images": count,
        "seed": seed,
        "checkpoint": run.checkpoint.path.name,
        "epoch": run.checkpoint.state["epoch"] + 1,
        "posterior_acceptance": sum(acceptance) / len(acceptance),
        "values": {
            "reconstruction_mean_square_error": _mean(torch.cat(parts["error"]), "pixels in [-1, 1]"),
            "log_likelihood_at_posterior_draws": _mean(torch.cat(parts["log_likelihood"]), "nats"),
            "energy_posterior": _mean(torch.cat(parts["energy"]), "nats"),
            "energy_prior": _mean(prior.energy, "nats"),
        },
    }
    _append(run, record)
    return record


def _mean(values: Tensor, unit: str) -> dict[str, Any]:
    """Return the mean over images with its standard error, which one image does not have."""
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else None
    return {"mean": float(values.mean()), "standard_error": error, "unit": unit}


def _append(run: Run, record: dict[str, Any]) -> None:
    file = run.folder / "evaluation.json"
    records = json.loads(file.read_text()) if file.exists() else []
    key = ("split", "checkpoint", "seed", "num_images")
    records = [old for old in records if any(old[name] != record[name] for name in key)]
    write_atomically(file, json.dumps([*records, record], indent=1))
