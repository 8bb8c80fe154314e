"""One training step.

A step is: draws of the prior -> ladder of the batch -> weights -> one backward pass -> optimisers. All randomness comes
from streams named after what they are for and the step, so a step is a function of (config, state, step, batch).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from thermograd.config.schema import RunConfig, ScheduleConfig
from thermograd.errors import InputError
from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.rules import (
    ESTIMATORS,
    PRIOR_RULES,
    Weights,
    compute_noisy_weights,
    compute_weights,
)
from thermograd.ladders.diagnostics import ladder_warnings
from thermograd.ladders.ladder import Ladder, sample_ladder
from thermograd.ladders.schedules import (
    RunningMoments,
    equal_length_schedule,
    equal_swap_schedule,
    geometric_schedule,
    linear_schedule,
    power_schedule,
    sigmoid_schedule,
)
from thermograd.machine import keep_freed_memory
from thermograd.models.cuda_graphs import GraphedModel
from thermograd.models.generator import Bfloat16Generator, choose_precision
from thermograd.models.latent_ebm import LatentEBM
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.langevin import ULA
from thermograd.samplers.mala import MALA, adapted_step_size
from thermograd.samplers.prior import Kernel, PriorDraws, sample_prior
from thermograd.streams import stream
from thermograd.training.guards import check_draws, check_finite, count_zero_gradients
from thermograd.training.optimiser import SGD, Adam, Optimiser

LARGEST_STORE = 4 * 2**30
"""Bytes of stored chains beyond which a run is refused; fewer rungs, chains or images make them smaller."""


def make_schedule(config: ScheduleConfig, num_rungs: int) -> Tensor:
    """Return the inverse temperatures (K,) with which a run begins, in float64."""
    match config.kind:
        case "linear":
            return linear_schedule(num_rungs)
        case "geometric":
            return geometric_schedule(num_rungs, config.smallest)
        case "sigmoid":
            return sigmoid_schedule(num_rungs, config.steepness)
        case _:
            return power_schedule(num_rungs, config.power)


def make_kernel(kind: str, step_size: float | Tensor) -> Kernel:
    """Return the kernel that a config names."""
    return MALA(step_size) if kind == "mala" else ULA(step_size)


@dataclass(frozen=True)
class Draws:
    """What one step sampled: draws of the prior, where chains ran there, and the ladder."""

    prior: PriorDraws | None
    ladder: Ladder


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
        gradient, chains = config.gradient, config.posterior_chains
        self.estimator = ESTIMATORS[gradient.estimator]
        self.prior_rule = PRIOR_RULES[gradient.prior_rule]
        wanted = config.compute.precision
        self.precision = (
            choose_precision(wanted, model.generator) if isinstance(model, LatentEBM) else "float32"
        )
        self.chain_model = self._make_chain_model()
        self.shared_prior = not (self.estimator.needs_ladder or self.prior_rule.needs_ladder)
        self.runs_prior_chains = not chains.exchange or chains.start == "prior"
        self.schedule = make_schedule(gradient.schedule, gradient.num_rungs)
        self.step_sizes = torch.full((gradient.num_rungs,), chains.step_size, device=self.device)
        self.prior_step_size = torch.tensor(config.prior_chains.step_size, device=self.device)
        self.moments = RunningMoments(gradient.num_rungs, decay=0.99)
        self.swap_rates: Tensor | None = None
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
        self.stored = self._make_store(num_images) if chains.start == "persistent" else None
        self.stored_prior = (
            self._start_prior()
            if config.prior_chains.start == "persistent" and self.runs_prior_chains
            else None
        )

    # --- stored chains ---

    @property
    def num_running_rungs(self) -> int:
        """Return the rungs that run chains of their own for each image."""
        return self.config.gradient.num_rungs - (0 if self.config.posterior_chains.exchange else 1)

    def _make_store(self, num_images: int) -> Tensor:
        shape = (num_images, self.num_running_rungs, self.config.gradient.num_chains)
        size = 4 * math.prod(shape) * self.model.latent_dim
        if size > LARGEST_STORE:
            raise InputError(
                f"`posterior_chains.start` persistent would store {size / 2**30:.1f} GiB of chains "
                f"(at most {LARGEST_STORE / 2**30:.0f}): lower gradient.num_rungs or num_chains, "
                f"or choose another start."
            )
        return self.model.sample_base(shape, self._chain_stream("stored-chains", 0))

    def _start_prior(self) -> Tensor:
        generator = self._chain_stream("stored-prior", 0)
        return self.model.sample_base((self._num_prior_chains(),), generator)

    def _num_prior_chains(self) -> int:
        return (
            self.config.prior_chains.num_chains
            or self.config.gradient.num_chains * self.config.training.batch_size
        )

    def _make_chain_model(self) -> LatentModel:
        """Return the model that training's chains evaluate: the run's precision, on a GPU with graphs if wanted."""
        model = self.model
        if self.precision == "bfloat16-mixed" and isinstance(model, LatentEBM):
            model = model.with_bfloat16_generator()
        if self.config.compute.cuda_graphs and self.device.type == "cuda":
            return GraphedModel(model)
        return model

    def _refreshed(self) -> LatentModel:
        """Return the chains' model with the weights as they stand now."""
        for module in self.chain_model.modules():
            if isinstance(module, Bfloat16Generator):
                module.refresh()
        return self.chain_model

    def _chain_stream(self, name: str, step: int) -> torch.Generator:
        """Return the stream of chains, which `chain_stream` exchanges for another of the same seed."""
        number = self.config.chain_stream
        name = f"chain-stream-{number}-{name}" if number else name
        return stream(self.config.seed, name, step, self.device)

    # --- one step ---

    def draw(self, x: Tensor, index: Tensor, step: int, name: str = "") -> Draws:
        """Sample the prior and the ladder of a batch, from where the stored chains stand.

        Args:
            x: images (B, *image_shape).
            index: (B,), which training images they are, for chains that are stored.
            step: counter of the random streams.
            name: prefix of the random streams; probes have one of their own, and are always in float32.
        """
        config = self.config
        model = self.model if name else self._refreshed()
        prior = None
        if self.runs_prior_chains:
            generator = self._chain_stream(f"{name}prior-chains", step)
            start = self.stored_prior
            if start is None:
                start = self.model.sample_base((self._num_prior_chains(),), generator)
            kernel = make_kernel(config.prior_chains.kernel, self.prior_step_size)
            prior = sample_prior(model, kernel, config.prior_chains.num_steps, start, generator)
        chains = config.posterior_chains
        ladder = sample_ladder(
            model,
            x,
            self.schedule,
            make_kernel(chains.kernel, self.step_sizes),
            config.gradient.num_chains,
            chains.num_steps,
            chains.start,
            self._chain_stream(f"{name}posterior-chains", step),
            num_start_steps=chains.num_start_steps,
            exchange_rungs=chains.exchange,
            first_parity=step * chains.num_steps % 2,
            shared_prior=self.shared_prior,
            prior_latents=None if prior is None else prior.latents,
            initial_latents=None if self.stored is None else self.stored[index].permute(1, 2, 0, 3),
            chunk_size=config.compute.chunk_size,
        )
        return Draws(prior, ladder)

    def step(self, x: Tensor, index: Tensor, step: int, epoch: int) -> dict[str, Any]:
        """Do one training step and return what it measured.

        Raises:
            RunError: a quantity is not finite, chains exploded, or a gradient is exactly zero for too long.
        """
        draws = self.draw(x, index, step)
        ladder = draws.ladder
        quantities = {
            "log-likelihood": ladder.log_likelihood,
            "energy": ladder.energy,
            "posterior latents": ladder.latents,
        }
        if draws.prior is not None:
            quantities |= {"prior energy": draws.prior.energy, "prior latents": draws.prior.latents}
        check_draws(quantities, self.config.training.largest_latent, step)
        gradient, clean = self._gradient(x, ladder, step)
        record = self._update(gradient, clean, step, epoch)
        self._keep(draws, index, step)
        self.num_evaluations += ladder.num_evaluations * len(x)
        return (
            self._describe(draws)
            | record
            | {"warnings": [asdict(caution) for caution in ladder_warnings(ladder)]}
        )

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

    def _keep(self, draws: Draws, index: Tensor, step: int) -> None:
        """Store chains for their next visit, and let step sizes and the schedule follow what was seen."""
        chains, ladder = self.config.posterior_chains, draws.ladder
        if self.stored is not None:
            self.stored[index] = ladder.latents[-self.num_running_rungs :].permute(2, 0, 1, 3)
        if self.stored_prior is not None and draws.prior is not None:
            self.stored_prior = draws.prior.latents
        if ladder.acceptance is not None and chains.kernel == "mala":
            rungs = slice(-self.num_running_rungs, None)  # a rung of dealt draws has no step size to adapt
            self.step_sizes[rungs] = adapted_step_size(
                self.step_sizes[rungs],
                ladder.acceptance[rungs],
                MALA(self.step_sizes).target_acceptance,
                chains.adaptation_gain,
            )
        if draws.prior is not None and self.config.prior_chains.kernel == "mala":
            self.prior_step_size = adapted_step_size(
                self.prior_step_size,
                torch.tensor(draws.prior.acceptance),
                MALA(self.prior_step_size).target_acceptance,
                chains.adaptation_gain,
            )
        self._adapt_schedule(ladder, step)

    def _adapt_schedule(self, ladder: Ladder, step: int) -> None:
        schedule = self.config.gradient.schedule
        if schedule.kind == "equal-length":
            self.moments.update(ladder.log_likelihood)
            if (step + 1) % schedule.adapt_every == 0:
                new = equal_length_schedule(self.schedule, self.moments.variance)
                self.moments.move(self.schedule, new)
                self.schedule = new
        elif schedule.kind == "equal-swap" and ladder.swap_rates is not None:
            rates = ladder.swap_rates.double().cpu()
            self.swap_rates = rates if self.swap_rates is None else 0.95 * self.swap_rates + 0.05 * rates
            if (step + 1) % schedule.adapt_every == 0:
                self.schedule = equal_swap_schedule(self.schedule, self.swap_rates)

    # --- records ---

    def _describe(self, draws: Draws) -> dict[str, Any]:
        ladder, prior = draws.ladder, draws.prior
        record: dict[str, Any] = {
            "log_likelihood": float(ladder.log_likelihood[-1].mean()),
            "energy_posterior": float(ladder.energy[-1].mean()),
            "energy_prior": float(ladder.energy[0].mean() if prior is None else prior.energy.mean()),
            "num_evaluations": ladder.num_evaluations,
        }
        if prior is not None:
            record |= {"acceptance_prior": prior.acceptance, "score_norm_prior": prior.score_norm}
        for name, values in (
            ("inverse_temperature", ladder.inverse_temperatures),
            ("expected_log_likelihood", ladder.log_likelihood.mean((1, 2))),
            ("acceptance", ladder.acceptance),
            ("score_norm", ladder.score_norm),
            ("step_size", ladder.step_sizes),
            ("swap_rate", ladder.swap_rates),
        ):
            if values is not None:
                record[name] = [float(f"{value:.6g}") for value in values.tolist()]
        return record

    # --- saving ---

    def tensors(self) -> dict[str, Tensor]:
        """Return all of the training state but the model's weights."""
        tensors = {
            "schedule": self.schedule,
            "step_sizes": self.step_sizes,
            "prior_step_size": self.prior_step_size,
            "zero_steps": torch.tensor(list(self.zero_steps.values())),
            "num_evaluations": torch.tensor(self.num_evaluations, dtype=torch.float64),
        }
        tensors |= {f"moments.{name}": tensor for name, tensor in self.moments.tensors().items()}
        for group, optimiser in self.optimisers.items():
            tensors |= {f"optimiser.{group}.{name}": tensor for name, tensor in optimiser.state().items()}
        for name, tensor in (
            ("stored", self.stored),
            ("stored_prior", self.stored_prior),
            ("swap_rates", self.swap_rates),
        ):
            if tensor is not None:
                tensors[name] = tensor
        return tensors

    def load_tensors(self, tensors: Mapping[str, Tensor], average: Mapping[str, Tensor] | None) -> None:
        """Take back what `tensors` returned, and the averaged weights."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

        # Copies, since numbers that lie in memory otherwise aligned or strided may round otherwise.
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        self.schedule = tensors["schedule"]
        self.step_sizes = tensors["step_sizes"].to(self.device)
        self.prior_step_size = tensors["prior_step_size"].to(self.device)
        self.zero_steps = dict(zip(self.zero_steps, tensors["zero_steps"].tolist(), strict=True))
        self.num_evaluations = float(tensors["num_evaluations"])
        self.moments.load(under("moments."))
        for group, optimiser in self.optimisers.items():
            optimiser.load_state(under(f"optimiser.{group}."))
        if self.stored is not None:
            self.stored = tensors["stored"].to(self.device)
        if self.stored_prior is not None:
            self.stored_prior = tensors["stored_prior"].to(self.device)
        self.swap_rates = tensors.get("swap_rates")
        if self.average is not None and average is not None:
            for name, tensor in average.items():
                self.average[name].copy_(tensor)
