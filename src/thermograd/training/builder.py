"""From a config to the model and the images it names."""

from typing import Any

import torch
from torch import Tensor

from thermograd.config import names
from thermograd.config.schema import RunConfig
from thermograd.data import (
    ImageDataset,
    binarise,
    first_images,
    load_dataset,
    load_user_images,
    to_tensor,
)
from thermograd.errors import InputError
from thermograd.machine import resolve_device
from thermograd.models.check import check_model
from thermograd.models.latent_ebm import LatentEBM
from thermograd.models.networks import make_energy, make_generator
from thermograd.streams import stream


def build_model(config: RunConfig) -> LatentEBM:
    """Build the model of a config on its device, with initial weights that are a function of the seed."""
    settings = config.model
    shape = settings.image_shape
    model = LatentEBM(
        make_energy(settings, config.seed),
        make_generator(settings, config.seed),
        latent_dim=settings.latent_dim,
        image_shape=shape,
        likelihood=settings.likelihood,
        noise_std=settings.noise_std,
        base_std=settings.base_std,
    )
    model = model.to(resolve_device(config.compute.device))
    if not (names.GENERATORS.is_own(settings.generator.kind) and names.ENERGIES.is_own(settings.energy.kind)):
        check_model(model)
    return model


def load_data(config: RunConfig, split: str = "train") -> ImageDataset:
    """Load the images of a config.

    Raises:
        InputError: images that the model's `image_shape` does not fit, or fewer than a batch.
    """
    num_images = config.data.num_images if split == "train" else None
    if config.data.path is not None:
        data = load_user_images(config.data.path, split, value_range=config.data.range)
        data = first_images(data, num_images)
    else:
        data = load_dataset(config.data.name, split, num_images=num_images)
    found = (data.num_channels, data.image_size, data.image_size)
    if found != config.model.image_shape:
        raise InputError(
            f"`model.image_shape` must be {list(found)} for {data.name}, got {list(config.model.image_shape)}."
        )
    return data


def batch_images(
    config: RunConfig, data: ImageDataset, index: Any, epoch: int, device: torch.device
) -> Tensor:
    """Return images (B, C, H, W) as the likelihood takes them, binarised by the config's rule."""
    x = to_tensor(data.images[index])
    if config.data.binarise != "none":
        generator = stream(config.seed, "binarise", epoch * len(data) + int(index[0]))
        x = binarise(x, config.data.binarise, config.data.threshold, generator)
    return x.to(device)
