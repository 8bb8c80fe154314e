"""The memory that training a config takes, told before any of it is allocated."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from thermograd.config import names
from thermograd.config.schema import RunConfig
from thermograd.config.sections import ModelConfig
from thermograd.errors import InputError
from thermograd.machine import available_memory, total_memory
from thermograd.models.networks import make_energy, make_generator

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
        unknown: settings that name networks whose size is not known, and not in the figures.
    """

    weights: int
    stored_chains: int
    step: int
    unknown: tuple[str, ...] = ()

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
    networks = network_sizes(config)
    outputs = model.latent_dim + sum(sum(network.outputs or ()) for network in networks.values())
    pixels = config.training.batch_size * math.prod(model.image_shape)
    return Memory(
        weights=BYTES * copies * sum(network.num_weights or 0 for network in networks.values()),
        stored_chains=BYTES * stored if chains.persists else 0,
        step=BYTES * (COPIES_OF_OUTPUTS * evaluated * outputs + pixels),
        unknown=tuple(f"model.{name}.kind" for name, network in networks.items() if network.outputs is None),
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
    unknown = " and ".join(f"`{setting}`" for setting in needed.unknown)
    text += f", apart from what {unknown} takes" if unknown else ""
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


def unknown_sizes(config: RunConfig) -> str | None:
    """Return a note on the networks whose memory no estimate holds, or None."""
    unknown = " and ".join(f"`{setting}`" for setting in estimated_memory(config, 0).unknown)
    if not unknown:
        return None
    return f"note: the memory of {unknown} is not known, since it cannot be evaluated on torch's meta device."


@dataclass(frozen=True)
class Network:
    """What a network holds and computes; None of what cannot be told.

    Attributes:
        num_weights: of its parameters.
        outputs: of each layer with parameters, the numbers that it computes for one latent vector.
    """

    num_weights: int | None
    outputs: tuple[int, ...] | None


def network_sizes(config: RunConfig) -> dict[str, Network]:
    """Return the sizes of "generator" and "energy", made and evaluated on the meta device, where nothing is allocated.

    A network of the user's may refuse that, e.g. by a call of numpy; of it nothing is known.

    Raises:
        InputError: settings that make no network of the package.
    """
    model = config.model
    return {
        "generator": _size(make_generator, config, names.GENERATORS.is_own(model.generator.kind)),
        "energy": _size(make_energy, config, names.ENERGIES.is_own(model.energy.kind)),
    }


def _size(make: Callable[[ModelConfig, int], nn.Module], config: RunConfig, is_own: bool) -> Network:
    outputs: list[int] = []
    num_weights = None
    try:
        with torch.device("meta"), torch.no_grad():
            network = make(config.model, config.seed)
            num_weights = sum(parameter.numel() for parameter in network.parameters())
            for layer in network.modules():
                if list(layer.parameters(recurse=False)):
                    layer.register_forward_hook(lambda _, inputs, output: outputs.append(output[0].numel()))
            network(torch.zeros(2, config.model.latent_dim))
    except Exception:
        if is_own:
            raise
        return Network(num_weights, None)
    return Network(num_weights, tuple(outputs))
