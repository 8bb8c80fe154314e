"""One training step.

A step is: draws of the prior -> ladder of the batch -> weights -> one backward pass -> optimisers. All randomness comes
from streams named after what they are for and the step, so a step is a function of (config, state, step, batch).
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from thermograd.config.schema import RunConfig
from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.rules import (
    ESTIMATORS,
    PRIOR_RULES,
    Weights,
    compute_noisy_weights,
    compute_weights,
)
from thermograd.ladders.diagnostics import ladder_warnings
from thermograd.ladders.ladder import Ladder
from thermograd.machine import keep_freed_memory
from thermograd.models.generator import Bfloat16Generator, choose_precision
from thermograd.models.latent_ebm import LatentEBM
from thermograd.models.latent_model import LatentModel
from thermograd.streams import stream
from thermograd.training.chains import Chains, Draws
from thermograd.training.guards import check_draws, check_finite, count_zero_gradients
from thermograd.training.optimiser import SGD, Adam, Optimiser


class Trainer:
    """Model, optimisers, chains and schedule of a run, stepped one batch at a time.

    Args:
        config: the run.
        model: the model to train, on the device where it is to be trained.
        num_images: size of the training set, for chains that are stored for each image.

    Raises:
        InputError: stored chains would take more memory than `LARGEST_STORE`.
    """

    def __init__(self, config: RunConfig, model: LatentModel, num_images: int):
        self.config, self.model = config, model
        self.device = next(model.parameters()).device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.chains = Chains(config, model, num_images)
        self.estimator = ESTIMATORS[config.gradient.estimator]
        self.prior_rule = PRIOR_RULES[config.gradient.prior_rule]
        wanted = config.compute.precision
        self.precision = (
            choose_precision(wanted, model.generator) if isinstance(model, LatentEBM) else "float32"
        )
        self.chain_model = model
        if self.precision == "bfloat16-mixed" and isinstance(model, LatentEBM):
            self.chain_model = model.with_bfloat16_generator()
        parameters = dict(model.named_parameters())
        self.groups = {
            group: {name: parameters[name] for name in names}
            for group, names in model.parameter_groups().items()
        }
        self.optimisers: dict[str, Optimiser] = {
            group: Adam(tensors, config.optimiser.betas) if config.optimiser.kind == "adam" else SGD(tensors)
            for group, tensors in self.groups.items()
        }
        self.average = (
            {name: tensor.detach().clone() for name, tensor in parameters.items()}
            if config.optimiser.ema_decay is not None
            else None
        )
        self.zero_steps = dict.fromkeys(parameters, 0)
        self.num_evaluations = 0.0

    def refreshed_model(self) -> LatentModel:
        """Return the chains' model with the weights as they stand now."""
        for module in self.chain_model.modules():
            if isinstance(module, Bfloat16Generator):
                module.refresh()
        return self.chain_model

    # --- one step ---

    def step(self, x: Tensor, index: Tensor, step: int, epoch: int) -> dict[str, Any]:
        """Do one training step and return what it measured.

        Args:
            x: images (B, *image_shape).
            index: (B,), which training images they are.
            step: counter of the random streams.
            epoch: by which learning rates have decayed.

        Raises:
            RunError: a quantity is not finite, chains exploded, or a gradient is exactly zero for too long.
        """
        draws = self.chains.draw(self.refreshed_model(), x, index, step)
        check_draws(draws, self.config.training.largest_latent, step)
        gradient, clean = self._gradient(x, draws.ladder, step)
        record = self._update(gradient, clean, step, epoch)
        kept = self.chains.keep(self.model, x, draws, index, step)
        self.num_evaluations += draws.info.num_evaluations * len(x) + kept.get("restart_evaluations", 0.0)
        cautions = [asdict(caution) for caution in ladder_warnings(draws.info)]
        return describe_draws(draws) | record | kept | {"warnings": cautions}

    def _gradient(
        self, x: Tensor, ladder: Ladder, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Return the gradient, and the one without added noise where the optimiser wants it."""
        config = self.config.gradient
        chunk_size = self.config.compute.chunk_size

        def backward(weights: Weights) -> dict[str, Tensor]:
            return learning_gradient(self.model, x, ladder, weights, chunk_size)

        if not config.noise_multiplier:
            return backward(compute_weights(ladder, self.estimator, self.prior_rule)), None
        coin = torch.rand((), generator=stream(self.config.seed, "noise-sign", step))
        noisy = compute_noisy_weights(
            ladder, self.estimator, self.prior_rule, config.noise_multiplier, 1.0 if coin < 0.5 else -1.0
        )
        if not config.clean_second_moments:
            return backward(noisy), None
        return backward(noisy), backward(compute_weights(ladder, self.estimator, self.prior_rule))

    def _update(
        self, gradient: dict[str, Tensor], clean: dict[str, Tensor] | None, step: int, epoch: int
    ) -> dict[str, float]:
        settings = self.config.optimiser
        count_zero_gradients(self.zero_steps, gradient, self.config.training.zero_gradient_steps, step)
        norms = {
            group: torch.stack([gradient[name].square().sum() for name in names]).sum().sqrt()
            for group, names in self.groups.items()
        }
        for group, norm in norms.items():
            check_finite(f"gradient of the {group}", norm, step)
        record: dict[str, float] = {}
        decay = settings.decay**epoch
        for group, names in self.groups.items():
            part = {name: gradient[name] for name in names}
            if settings.clip_norm is not None and norms[group] > settings.clip_norm:
                part = {name: tensor * (settings.clip_norm / norms[group]) for name, tensor in part.items()}
            lr = settings.prior_lr if group == "prior" else settings.generator_lr
            length = self.optimisers[group].step(part, lr * decay, clean)
            check_finite(f"update of the {group}", length, step)
            record |= {f"gradient_norm_{group}": float(norms[group]), f"update_length_{group}": float(length)}
        if self.average is not None and settings.ema_decay is not None:
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    self.average[name].lerp_(parameter, 1 - settings.ema_decay)
        return record

    # --- saving ---

    def tensors(self) -> dict[str, Tensor]:
        """Return all of the training state but the model's weights."""
        tensors = self.chains.tensors() | {
            "zero_steps": torch.tensor(list(self.zero_steps.values())),
            "num_evaluations": torch.tensor(self.num_evaluations, dtype=torch.float64),
        }
        for group, optimiser in self.optimisers.items():
            tensors |= {f"optimiser.{group}.{name}": tensor for name, tensor in optimiser.state().items()}
        return tensors

    def load_tensors(self, tensors: Mapping[str, Tensor], average: Mapping[str, Tensor] | None) -> None:
        """Take back what `tensors` returned, and the averaged weights."""
        # Copies, since numbers that lie in memory otherwise aligned or strided may round otherwise.
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        self.chains.load_tensors(tensors)
        self.zero_steps = dict(zip(self.zero_steps, tensors["zero_steps"].tolist(), strict=True))
        self.num_evaluations = float(tensors["num_evaluations"])
        for group, optimiser in self.optimisers.items():
            prefix = f"optimiser.{group}."
            optimiser.load_state(
                {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            )
        if self.average is not None and average is not None:
            for name, tensor in average.items():
                self.average[name].copy_(tensor)


def describe_draws(draws: Draws) -> dict[str, Any]:
    """Return what a record of training says of one visit's draws."""
    ladder, info, prior = draws.ladder, draws.info, draws.prior
    record: dict[str, Any] = {
        "log_likelihood": float(ladder.log_likelihood[-1].mean()),
        "energy_posterior": float(ladder.energy[-1].mean()),
        "energy_prior": float(ladder.energy[0].mean() if prior is None else prior.energy.mean()),
        "num_evaluations": info.num_evaluations,
    }
    if prior is not None:
        record |= {"acceptance_prior": prior.acceptance, "score_norm_prior": prior.score_norm}
    for name, values in (
        ("inverse_temperature", ladder.inverse_temperatures),
        ("expected_log_likelihood", ladder.log_likelihood.mean((1, 2))),
        ("acceptance", info.acceptance.mean(1)),
        ("score_norm", info.score_norm),
        ("step_size", info.step_sizes.reshape(len(info.acceptance), -1).mean(1)),
        ("swap_rate", info.swap_rates),
    ):
        if values is not None:
            record[name] = [float(f"{value:.6g}") for value in values.tolist()]
    return record
