"""The networks that a config can name, made with initial weights that are a function of a seed."""

from typing import Any, Literal

import torch
from torch import nn

from thermograd.config import names
from thermograd.config.sections import ModelConfig
from thermograd.config.tables import Made
from thermograd.errors import InputError
from thermograd.models.energy import EnergyNetwork
from thermograd.models.generator import ConvGenerator, DenseGenerator
from thermograd.streams import stream, stream_seed

GENERATORS: Made[Any] = Made(names.GENERATORS, {"conv": ConvGenerator, "dense": DenseGenerator})
ENERGIES: Made[Any] = Made(names.ENERGIES, {"dense": EnergyNetwork})
"""Every network that a config can name."""


def make_generator(model: ModelConfig, seed: int) -> nn.Module:
    """Return the generator that settings name.

    Raises:
        InputError: a network of a plugin that cannot be made from the sizes and options.
    """
    settings = model.generator
    if not names.GENERATORS.is_own(settings.kind):
        return _own_network(model, "generator", seed, model.latent_dim, model.image_shape)
    squash, random = model.likelihood == "gaussian", stream(seed, "init-generator")
    return GENERATORS[settings.kind](model.latent_dim, model.image_shape, settings.widths, squash, random)


def make_energy(model: ModelConfig, seed: int) -> nn.Module:
    """Return the energy network that settings name.

    Raises:
        InputError: a network of a plugin that cannot be made from the sizes and options.
    """
    settings = model.energy
    if not names.ENERGIES.is_own(settings.kind):
        return _own_network(model, "energy", seed, model.latent_dim)
    random = stream(seed, "init-prior")
    return ENERGIES[settings.kind](model.latent_dim, settings.hidden, settings.activation, random)


def _own_network(
    model: ModelConfig, group: Literal["generator", "energy"], seed: int, *sizes: Any
) -> nn.Module:
    """Return a network of the user's, whose initial weights are a function of the seed as well."""
    settings = getattr(model, group)
    network = (GENERATORS if group == "generator" else ENERGIES)[settings.kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, f"init-{group}", 0))
        try:
            return network(*sizes, **settings.options)
        except TypeError as error:
            words = ", ".join(
                [*map(str, sizes), *(f"{name}={value!r}" for name, value in settings.options.items())]
            )
            raise InputError(
                f"`model.{group}.kind` {settings.kind} cannot be made as {network.__name__}({words}): {error}."
            ) from None
