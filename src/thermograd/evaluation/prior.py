"""The prior of a run: whether its chains settle, and the distance of what they make, in its two parts.

A decoder can be good and the prior not, or the other way round: decoded posterior draws of real images show the
decoder, and samples at several numbers of steps show the prior.
"""

from typing import Any

import torch
from torch import Tensor

from thermograd.data import ImageDataset
from thermograd.evaluation.settings import EvaluationSettings
from thermograd.metrics import (
    FeatureExtractor,
    Reference,
    extract_features,
    frechet_distance,
    frechet_standard_error,
    reference_features,
)
from thermograd.metrics.scoring import distance_name
from thermograd.runs.run import Run
from thermograd.training.builder import batch_images
from thermograd.training.convergence import NUM_STEPS, follow_prior
from thermograd.training.samples import sample_posterior

FEWEST_CHAINS, MOST_CHAINS = 100, 1000


def prior_of_run(
    run: Run,
    posterior_latents: dict[str, Tensor],
    splits: dict[str, ImageDataset],
    num_samples: int,
    settings: EvaluationSettings,
    extractor: FeatureExtractor | None,
) -> dict[str, Any]:
    """Measure the prior of a run.

    Args:
        run: what `load_run` returned.
        posterior_latents: by split, (N, d), posterior draws that were made already; those of training images are taken
            from the run's stored chains, or else made here.
        splits: images by split.
        num_samples: chains, and images scored, at most.
        settings: seed, counts, and the variant; "quick" leaves out the last number of steps.
        extractor: of the distances to the test images; None for no distances.

    Returns:
        `PriorConvergence` as a dictionary, `is_short_run` and `distances`: of the decoded posterior draws of either
        split and of samples at each number of steps, {images, num_steps, name, value, standard_error, num_images}.
    """
    latents = {"train": training_posterior(run, splits["train"], num_samples, settings), **posterior_latents}
    found = follow_prior(
        run.model,
        run.prior_chains,
        latents["train"],
        settings.seed,
        num_chains=min(max(num_samples, FEWEST_CHAINS), MOST_CHAINS),
        num_steps=NUM_STEPS[:2] if settings.variant == "quick" else NUM_STEPS,
    )
    record = found.record() | {"is_short_run": run.config.prior_chains.is_short_run, "distances": []}
    if extractor is None:
        return record
    reference = Reference(f"{splits['test'].name}:test", splits["test"].images)
    images: list[tuple[str, int | None, Tensor]] = [
        (f"posterior-{split}", None, z[:num_samples]) for split, z in sorted(latents.items())
    ]
    images += [("prior", mark.num_steps, z) for mark, z in zip(found.marks, found.latents, strict=True)]
    real = reference_features(reference, extractor, seed=settings.seed, variant=settings.variant)
    for name, num_steps, z in images:
        if min(len(z), len(real)) < 2 * extractor.num_features:
            continue  # too few for a covariance
        fake = extract_features((run.model.decode(part) for part in z.split(settings.batch_size)), extractor)
        record["distances"].append(
            {
                "images": name,
                "num_steps": num_steps,
                "name": distance_name("frechet", extractor.name),
                "value": frechet_distance(real, fake),
                "standard_error": frechet_standard_error(real, fake, seed=settings.seed),
                "num_images": len(z),
            }
        )
    return record


def training_posterior(run: Run, data: ImageDataset, num_images: int, settings: EvaluationSettings) -> Tensor:
    """Return posterior draws (N, d) of training images: the run's stored chains, or where there are none new ones."""
    device = next(run.model.parameters()).device
    stored = run.checkpoint.parts["training_state"].get("stored")
    if stored is not None:
        return stored[:, -1, 0].to(device)
    parts = []
    for first in range(0, min(num_images, settings.num_images, len(data)), settings.batch_size):
        index = range(first, min(first + settings.batch_size, num_images, settings.num_images, len(data)))
        x = batch_images(run.config, data, index, 0, device)
        h = run.config.posterior_chains.step_size
        parts.append(sample_posterior(run.model, x, settings.seed, step_size=h, step=first).latents[-1, 0])
    return torch.cat(parts)
