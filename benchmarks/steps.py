"""Training steps against the plain loop: vanilla and ladder, float32 and bfloat16."""

from collections.abc import Callable
from typing import Any

import torch
from plain_loop import PlainModel, PlainTrainer
from timing import Make, Times, race, race_apart

from thermograd.config.resolve import resolve
from thermograd.config.schema import RunConfig
from thermograd.gradients.rules import compute_weights
from thermograd.ladders.named import make_schedule
from thermograd.ladders.quadrature import trapezoid_weights
from thermograd.training.builder import build_model
from thermograd.training.trainer import Trainer

PUBLISHED: dict[str, Any] = {
    "prior_chains.start": "base",
    "posterior_chains.kernel": "ula",
    "posterior_chains.start": "base",
    "posterior_chains.num_steps": 20,
    "posterior_chains.step_size": 0.1,
}
"""Short-run chains as published, whatever the preset says."""
LADDER: dict[str, Any] = {"gradient.estimator": "thermodynamic-detached", "gradient.num_rungs": 11}
COMPLETE: dict[str, Any] = {
    "gradient.estimator": "thermodynamic-complete",
    "gradient.num_rungs": 11,
    "gradient.num_chains": 2,
    "posterior_chains.start": "persistent",
    "posterior_chains.num_steps": 1,
    "compute.chunk_size": 512,
}
"""A complete ladder of 11 rungs and 2 chains whose stored chains take one step an iteration."""


def our_step(
    preset: str, overrides: dict[str, Any], batch_size: int, device: str = "cpu"
) -> Callable[[], object]:
    """Return a function that does one training step of the package."""
    own = {"training.batch_size": batch_size, "compute.device": device}
    config, _ = resolve(preset, overrides=PUBLISHED | overrides | own)
    trainer = Trainer(config, build_model(config), batch_size)
    x, index = images(config, batch_size).to(device), torch.arange(batch_size)
    count = iter(range(10**9))
    return lambda: trainer.step(x, index, next(count), 0)


DENSE: dict[str, Any] = {
    "model.latent_dim": 16,
    "model.energy.hidden": [100, 100],
    "model.generator.kind": "dense",
    "model.generator.widths": [128, 256],
}
STEIN: dict[str, Any] = {
    "gradient.estimator": "maximum-likelihood-stein",
    "gradient.prior_rule": "contrast-stein",
    "gradient.num_chains": 4,
    "posterior_chains.num_steps": 5,
    "prior_chains.num_updates": 1,
}
MULTISTATE: dict[str, Any] = {
    "gradient.estimator": "multistate",
    "gradient.prior_rule": "contrast-multistate",
    "gradient.num_chains": 2,
    "posterior_chains.exchange": True,
    "posterior_chains.num_steps": 5,
    "prior_chains.num_updates": 1,
}


def share_of_weights(preset: str, overrides: dict[str, Any], num_rounds: int) -> Times:
    """Race a whole training step of persistent MALA chains, batch 100, and the making of its weights alone."""
    own = {"training.batch_size": 100, "posterior_chains.kernel": "mala"}
    config, _ = resolve(preset, overrides=overrides | own)
    trainer = Trainer(config, build_model(config), 100)
    x, index, count = images(config, 100), torch.arange(100), iter(range(10**9))
    ladder = trainer.chains.draw(trainer.model, x, index, 0).ladder
    return race(
        {
            "step": lambda: trainer.step(x, index, next(count), 0),
            "weights": lambda: compute_weights(ladder, trainer.estimator, trainer.prior_rule),
        },
        num_rounds,
    )


def plain_step(
    preset: str, batch_size: int, ladder: bool = False, device: str = "cpu"
) -> Callable[[], object]:
    """Return a function that does one training step of the plain loop."""
    config, _ = resolve(preset, overrides=PUBLISHED | (LADDER if ladder else {}))
    temperatures = weights = torch.ones(1)
    if ladder:
        temperatures = make_schedule(config.gradient.schedule, config.gradient.num_rungs)
        weights = trapezoid_weights(temperatures)
    model = plain_model(config).to(device)
    trainer = PlainTrainer(model, temperatures.tolist(), weights.tolist(), num_steps=20)
    x = images(config, batch_size).to(device)
    return lambda: trainer.step(x)


def plain_model(config: RunConfig) -> PlainModel:
    settings = config.model
    torch.manual_seed(0)
    return PlainModel(
        settings.latent_dim, settings.image_shape, settings.generator.widths, settings.noise_std
    )


def images(config: RunConfig, batch_size: int) -> torch.Tensor:
    """Return noise in [-1, 1]; no time depends on what is in an image."""
    return (
        torch.rand(batch_size, *config.model.image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )


def multiply_adds(config: RunConfig) -> float:
    """Return the multiply-adds of one generator evaluation forward, for one image."""
    generator = plain_model(config).generator
    size, total = 1, 0
    for layer in generator:
        if isinstance(layer, torch.nn.ConvTranspose2d):
            total += size**2 * layer.weight.numel()
            size = (size - 1) * layer.stride[0] - 2 * layer.padding[0] + layer.kernel_size[0]
    return float(total)


def compare(preset: str, batch_size: int, num_rounds: int, ladder: bool, device: str = "cpu") -> Times:
    """Race the plain loop and the package in both precisions."""
    extra = LADDER if ladder else {}
    contestants: dict[str, Make] = {"plain": (plain_step, (preset, batch_size, ladder, device))}
    for precision in ("float32", "bfloat16-mixed"):
        own = extra | {"compute.precision": precision}
        contestants[precision] = (our_step, (preset, own, batch_size, device))
    return race_apart(contestants, num_rounds, device)


def compare_complete(preset: str, batch_size: int, num_rounds: int, device: str = "cpu") -> Times:
    """Race the plain loop's vanilla step and complete ladders of 11 rungs with 2 chains, one step per rung."""
    contestants: dict[str, Make] = {"plain": (plain_step, (preset, batch_size, False, device))}
    for kernel in ("mala", "ula"):
        for precision in ("float32", "bfloat16-mixed"):
            extra = COMPLETE | {"posterior_chains.kernel": kernel, "compute.precision": precision}
            contestants[f"{kernel} {precision}"] = (our_step, (preset, extra, batch_size, device))
    return race_apart(contestants, num_rounds, device)
