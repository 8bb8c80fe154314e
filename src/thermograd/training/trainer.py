"""One training step.

A step is: draws of the prior -> ladder of the batch -> weights -> one backward pass -> optimisers. All randomness comes
from streams named after what they are for and the step, so a step is a function of (config, state, step, batch).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from thermograd.config.schema import LearningConfig
from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.noise import compute_noisy_weights
from thermograd.gradients.rules import (
    ESTIMATORS,
    PRIOR_RULES,
    Weights,
    compute_weights,
)
from thermograd.ladders.diagnostics import ladder_warnings
from thermograd.ladders.ladder import Ladder
from thermograd.machine import keep_freed_memory
from thermograd.models.generator import Bfloat16Generator, choose_precision
from thermograd.models.latent_ebm import LatentEBM
from thermograd.models.latent_model import LatentModel
from thermograd.streams import stream
from thermograd.training.chains import Chains, Draws, standing_cautions
from thermograd.training.guards import check_draws, check_finite, count_zero_gradients, energy_constants
from thermograd.training.optimiser import (
    CleanAdam,
    load_optimiser_tensors,
    make_optimiser,
    moving_average,
    optimiser_tensors,
)

OPTIMISER = "optimiser/"
"""Prefix of the optimiser's tensors in a checkpoint."""


class Trainer:
    """Model, optimisers, chains and schedule of a run, stepped one batch at a time.

    Args:
        config: the run.
        model: the model to train, on the device where it is to be trained.
        num_images: size of the training set, for chains that are stored for each image.

    Raises:
        InputError: stored chains would take more memory than `LARGEST_STORE`.
    """

    def __init__(self, config: LearningConfig, model: LatentModel, num_images: int):
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
        self.names = {parameter: name for name, parameter in parameters.items()}
        self.optimiser = make_optimiser(config, self.groups)
        ema_decay = config.optimiser.ema_decay
        self.average = (
            None if ema_decay is None else AveragedModel(model, multi_avg_fn=moving_average(ema_decay))
        )
        constants = energy_constants(model)
        self.zero_steps = {name: 0 for name in parameters if name not in constants}
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
        for update in range(1, self.config.prior_chains.num_updates):
            self._update_energy(x, draws, step, epoch, update)
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.num_evaluations += draws.info.num_evaluations * len(x) + kept.get("restart_evaluations", 0.0)
        found = [*ladder_warnings(draws.info), *standing_cautions(kept)]
        cautions = [asdict(caution) for caution in found]
        return describe_draws(draws) | record | kept | {"warnings": cautions}

    def _gradient(
        self, x: Tensor, ladder: Ladder, step: int, update: int = 0
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Return the gradient, and the one without added noise where the optimiser wants it.

        A further update is of the prior alone: it has no weights on likelihoods, and noise of its own sign.
        """
        config = self.config.gradient
        chunk_size = self.config.compute.chunk_size

        def backward(weights: Weights) -> dict[str, Tensor]:
            if not update:
                return learning_gradient(self.model, x, ladder, weights, chunk_size)
            weights = weights._replace(log_likelihood=torch.zeros_like(weights.log_likelihood))
            return learning_gradient(self.model, x, ladder, weights, chunk_size, self.groups["prior"])

        if not config.noise_multiplier:
            return backward(compute_weights(ladder, self.estimator, self.prior_rule)), None
        coin = torch.rand(
            (), generator=stream(self.config.seed, "noise-sign" + (f"-{update}" if update else ""), step)
        )
        noisy = compute_noisy_weights(
            ladder, self.estimator, self.prior_rule, config.noise_multiplier, 1.0 if coin < 0.5 else -1.0
        )
        if not config.clean_second_moments:
            return backward(noisy), None
        return backward(noisy), backward(compute_weights(ladder, self.estimator, self.prior_rule))

    def _update_energy(self, x: Tensor, draws: Draws, step: int, epoch: int, update: int) -> None:
        """Do a further step of the energy alone: the same posterior draws, the prior's chains run on."""
        prior = self.chains.prior.draw(self.model, step, update=update)
        check_draws(replace(draws, prior=prior), self.config.training.largest_latent, step)
        ladder = replace(draws.ladder, prior_latents=prior.latents, prior_score=None)
        self._update(*self._gradient(x, ladder, step, update), step, epoch)
        self.chains.prior.keep(prior)

    def _update(
        self, gradient: dict[str, Tensor], clean: dict[str, Tensor] | None, step: int, epoch: int
    ) -> dict[str, float]:
        """Move the parameters that a gradient is given of up it, and return lengths of gradients and moves."""
        settings, record = self.config.optimiser, {}
        count_zero_gradients(self.zero_steps, gradient, self.config.training.zero_gradient_steps, step)
        groups = {
            group: [tensor for name, tensor in tensors.items() if name in gradient]
            for group, tensors in self.groups.items()
        }
        before = {group: [p.detach().clone() for p in tensors] for group, tensors in groups.items()}
        for parameter, name in self.names.items():
            parameter.grad = gradient.get(name)
        for group, tensors in groups.items():
            longest = math.inf if settings.clip_norm is None else settings.clip_norm
            norm = torch.nn.utils.clip_grad_norm_(tensors, longest)
            check_finite(f"gradient of the {group}", norm, step)
            record[f"gradient_norm_{group}"] = float(norm)
        if isinstance(self.optimiser, CleanAdam):
            source = gradient if clean is None else clean
            self.optimiser.clean = {p: source[name] for p, name in self.names.items() if name in source}
        for (
            group_of_parameters
        ) in self.optimiser.param_groups:  # a function of the epoch, so there is no state to keep
            group_of_parameters["lr"] = group_of_parameters["initial_lr"] * settings.decay**epoch
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        for group, tensors in groups.items():
            moves = [p.detach() - old for p, old in zip(tensors, before[group], strict=True)]
            length = torch.nn.utils.get_total_norm(moves)
            check_finite(f"update of the {group}", length, step)
            record[f"update_length_{group}"] = float(length)
        return record

    # --- saving ---

    def weights(self) -> dict[str, Tensor]:
        """Return the weights for samples and evaluation: averaged ones where the run keeps them."""
        return (self.model if self.average is None else self.average.module).state_dict()

    def tensors(self) -> dict[str, Tensor]:
        """Return all of the training state but the model's weights."""
        tensors = self.chains.tensors() | {
            "zero_steps": torch.tensor(list(self.zero_steps.values())),
            "num_evaluations": torch.tensor(self.num_evaluations, dtype=torch.float64),
            "num_averaged": torch.tensor(0) if self.average is None else self.average.n_averaged,
        }
        state = optimiser_tensors(self.optimiser, self.names)
        return tensors | {f"{OPTIMISER}{name}": tensor for name, tensor in state.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor], average: Mapping[str, Tensor] | None) -> None:
        """Take back what `tensors` returned, and the averaged weights."""
        # Copies, since numbers that lie in memory otherwise aligned or strided may round otherwise.
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        self.chains.load_tensors(tensors)
        self.zero_steps = dict(zip(self.zero_steps, tensors["zero_steps"].tolist(), strict=True))
        self.num_evaluations = float(tensors["num_evaluations"])
        state = {name.removeprefix(OPTIMISER): t for name, t in tensors.items() if name.startswith(OPTIMISER)}
        load_optimiser_tensors(self.optimiser, self.names, state)
        if self.average is not None and average is not None:
            self.average.module.load_state_dict(dict(average))
            self.average.n_averaged.copy_(tensors["num_averaged"])


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
        record |= {"acceptance_prior": float(prior.acceptance.mean()), "score_norm_prior": prior.score_norm}
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
