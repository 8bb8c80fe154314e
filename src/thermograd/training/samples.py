"""Images from a model: samples of its prior, and reconstructions through its posterior."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thermograd.ladders.ladder import Ladder
from thermograd.ladders.sampler import LadderSampler
from thermograd.ladders.schedules import power_schedule
from thermograd.models.latent_ebm import LatentEBM
from thermograd.models.latent_model import LatentModel
from thermograd.progress import steps
from thermograd.samplers.mala import MALA
from thermograd.samplers.named import make_kernel
from thermograd.samplers.prior import PriorSource, sample_prior
from thermograd.streams import stream

NUM_RUNGS, POWER, NUM_STEPS = 8, 3.0, 50
"""Of the ladder (k/N)^p for posteriors without stored chains; as many steps before draws are kept as after."""


@dataclass(frozen=True)
class Samples:
    """Samples of a model.

    Attributes:
        latents: (N, d).
        energy: (N,).
        images: (N, C, H, W), mean images in [-1, 1].
    """

    latents: Tensor
    energy: Tensor
    images: Tensor


def sample_images(
    model: LatentEBM, source: PriorSource, num_images: int, seed: int, batch_size: int = 1000
) -> Samples:
    """Sample the prior as the run does, and decode the draws.

    Chains that persist in training are run on: each image begins at a copy of a stored chain and takes
    `prior_chains.num_sample_steps`. Short chains begin at the base distribution and take `prior_chains.num_steps`.

    Args:
        model: the model.
        source: the run's prior chains, e.g. `run.prior_chains`.
        num_images: N.
        seed: of the stream "samples"; the same seed gives the same images.
        batch_size: images at once.
    """
    device = next(model.parameters()).device
    kernel = make_kernel(source.settings.kernel, source.step_size.to(device))
    parts = []
    for first in steps(range(0, num_images, batch_size), "batches of samples"):
        generator = stream(seed, "samples", first, device)
        start = source.start(model, min(batch_size, num_images - first), generator)
        draws = sample_prior(model, kernel, source.num_steps, start.to(device), generator)
        parts.append(Samples(draws.latents, draws.energy, model.decode(draws.latents)))
    return Samples(
        torch.cat([part.latents for part in parts]),
        torch.cat([part.energy for part in parts]),
        torch.cat([part.images for part in parts]),
    )


def sample_posterior(
    model: LatentModel, x: Tensor, seed: int, *, step_size: float = 0.1, step: int = 0
) -> Ladder:
    """Sample the posterior of images that have no stored chains: MALA with replica exchange from the base distribution.

    A posterior over latents has several modes, and a short chain at t = 1 alone stays in the one it falls into; the
    rungs below let it leave. Step sizes adapt while burning in and are frozen afterwards. The rule is the same however
    a model was trained, so models with different training chains can be compared.

    Args:
        model: the model.
        x: images (B, C, H, W), as the likelihood takes them.
        seed: of the stream "evaluation-posterior".
        step_size: h with which adaptation begins.
        step: counter of the stream, e.g. of the first image of a batch.

    Returns:
        The ladder of one chain per rung and image; the posterior's draws are on its last rung.
    """
    generator = stream(seed, "evaluation-posterior", step, x.device)
    sampler = LadderSampler(power_schedule(NUM_RUNGS, POWER), MALA(step_size), exchange=True)
    state = sampler.start(model, x, generator)
    sampler, state = sampler.adapt(model, x, state, NUM_STEPS, generator)
    return sampler.run(model, x, state, NUM_STEPS, generator)[0]
