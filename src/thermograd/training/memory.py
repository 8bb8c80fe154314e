"""The memory that training a config takes, told before any of it is allocated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from thermograd.config import names
from thermograd.config.schema import RunConfig
from thermograd.errors import InputError
from thermograd.machine import available_memory, total_memory
from thermograd.models.generator import STAGE_SIZES

GIB = 2**30
BYTES = 4
"""Of a float32."""
COPIES_OF_WEIGHTS = 4
"""The weights, their gradient and Adam's two moments."""
COPIES_OF_OUTPUTS = 5
"""Before and after the activation, the gradients of both, and a temporary tensor; 4 to 5 were measured."""


@dataclass(frozen=True)
class Memory:
    """An estimate of what training holds at once, in bytes.

    Attributes:
        weights: of both networks, with gradients, moments of the optimiser, and averaged weights.
        stored_chains: of every image, where chains persist.
        step: outputs of layers for the latents that are evaluated at once, and the images of a batch.
    """

    weights: int
    stored_chains: int
    step: int

    @property
    def total(self) -> int:
        """Return the sum."""
        return self.weights + self.stored_chains + self.step


def estimated_memory(config: RunConfig, num_images: int) -> Memory:
    """Estimate what training a config holds at once, without allocating any of it."""
    model, gradient, chains = config.model, config.gradient, config.posterior_chains
    copies = COPIES_OF_WEIGHTS + (config.optimiser.ema_decay is not None)
    num_rungs = gradient.num_rungs - (
        not chains.exchange
    )  # the rung of the prior runs chains only to exchange
    stored = num_images * num_rungs * gradient.num_chains * model.latent_dim
    latents = config.training.batch_size * num_rungs * gradient.num_chains
    evaluated = min(latents, config.compute.chunk_size or latents)
    outputs = sum(generator_outputs(config)) + sum(model.energy.hidden) + model.latent_dim
    pixels = config.training.batch_size * math.prod(model.image_shape)
    return Memory(
        weights=BYTES * copies * num_weights(config),
        stored_chains=BYTES * stored if chains.persists else 0,
        step=BYTES * (COPIES_OF_OUTPUTS * evaluated * outputs + pixels),
    )


def check_memory(config: RunConfig, num_images: int, device: torch.device) -> str | None:
    """Compare the estimate with what a device has; return a warning where less than that is free now.

    Raises:
        InputError: the device does not have that much.
    """
    needed = estimated_memory(config, num_images)
    text = (
        f"about {needed.total / GIB:.3g} GiB of memory ({needed.weights / GIB:.2g} for weights, "
        f"{needed.stored_chains / GIB:.2g} for stored chains, {needed.step / GIB:.2g} for a step)"
    )
    advice = (
        "A smaller `training.batch_size` or `compute.chunk_size`, fewer chains, rungs or widths need less."
    )
    limit, free = total_memory(device), available_memory(device)
    if limit is not None and needed.total > limit:
        raise InputError(
            f"`model` and `training` need {text}, and this device has {limit / GIB:.3g}. {advice}"
        )
    if free is not None and needed.total > free:
        return f"warning: this run needs {text}, and {free / GIB:.3g} are free. {advice}"
    return None


def generator_outputs(config: RunConfig) -> list[int]:
    """Return how many numbers each layer of the generator computes for one latent vector."""
    model = config.model
    channels, height, width = model.image_shape
    if not names.GENERATORS.is_own(model.generator.kind):
        return [channels * height * width]  # of a network of the user's no more is known
    if model.generator.kind == "dense":
        return [*model.generator.widths, channels * height * width]
    sizes = STAGE_SIZES.get(height, (height,))
    return [count * size**2 for count, size in zip((*model.generator.widths, channels), sizes)]


def num_weights(config: RunConfig) -> int:
    """Return how many weights and biases both networks have."""
    model = config.model
    channels, height, width = model.image_shape
    widths, energy = model.generator.widths, (model.latent_dim, *model.energy.hidden)
    count = _dense(energy) + energy[-1] if names.ENERGIES.is_own(model.energy.kind) else 0
    if not names.GENERATORS.is_own(model.generator.kind):
        return count
    if model.generator.kind == "dense":
        return count + _dense((model.latent_dim, *widths, channels * height * width))
    sizes = STAGE_SIZES.get(height, (height,))
    count += _dense((model.latent_dim, widths[0] * sizes[0] ** 2))
    for (width_in, width_out), (size_in, size_out) in zip(pairwise((*widths, channels)), pairwise(sizes)):
        kernel = 4 if size_out == 2 * size_in else 3
        count += (width_in * kernel**2 + 1) * width_out
    return count


def _dense(widths: Sequence[int]) -> int:
    return sum((width_in + 1) * width_out for width_in, width_out in pairwise(widths))
