"""Probing the learning gradient of a run at frozen parameters, by any estimator.

A probe reads the model and the `Chains` of a run and changes none of them. Its random streams are its own, so training
with and without it is the same, on a CPU to the byte. Its chains evaluate the model in float32, whatever training does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from thermograd.config import names
from thermograd.config.measure import Changes
from thermograd.config.plugins import plugins_of
from thermograd.config.resolve import validate
from thermograd.config.schema import LearningConfig, RunConfig
from thermograd.config.sections import fewest_chains
from thermograd.config.tables import Table
from thermograd.data import batch_order
from thermograd.errors import InputError, RunError
from thermograd.gradients.noise import compute_noisy_weights
from thermograd.gradients.reference import Reference
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES, Weights
from thermograd.gradients.variance import Measurement, Rule, make_rule, measure_gradients
from thermograd.ladders.ladder import Ladder
from thermograd.ladders.sampler import LadderSampler
from thermograd.models.latent_model import LatentModel
from thermograd.progress import tell
from thermograd.samplers.named import make_kernel
from thermograd.streams import stream, stream_seed
from thermograd.training.chains import Chains

Learning = TypeVar("Learning", bound=LearningConfig)

NUM_PILOT_STEPS = 60
"""Steps in which MALA finds step sizes for a ladder that the run does not have."""


def estimator_config(config: Learning, estimator: str, changes: Changes) -> Learning:
    """Return a config with another estimator and what has to change with it.

    Raises:
        InputError: one line that names each field and value at fault.
    """
    values = config.model_dump(mode="json")
    gradient, chains, prior = values["gradient"], values["posterior_chains"], values["prior_chains"]
    names.ESTIMATORS.check(estimator, "estimator")
    prior_rule = names.PRIOR_RULES.check(changes.prior_rule or gradient["prior_rule"], "prior_rule")
    facts, rule = names.ESTIMATORS[estimator], names.PRIOR_RULES[prior_rule]
    old_rungs = gradient["num_rungs"]
    num_rungs = changes.num_rungs or (
        old_rungs if old_rungs > 2 else max(facts.default_rungs, rule.default_rungs)
    )
    if facts.max_rungs is not None and not rule.needs_prior_rung:
        num_rungs = min(num_rungs, facts.max_rungs)
    gradient |= {
        "estimator": estimator,
        "prior_rule": prior_rule,
        "num_chains": changes.num_chains or max(gradient["num_chains"], fewest_chains(facts, rule)),
        "num_rungs": num_rungs,
        "noise_multiplier": 0.0,
        "clean_second_moments": False,
    }
    if changes.power is not None:
        gradient["schedule"] |= {"kind": "power", "power": changes.power}
    elif num_rungs != old_rungs and (num_rungs == 2 or names.SCHEDULES[gradient["schedule"]["kind"]].follows):
        gradient["schedule"]["kind"] = "power"
    chains["num_steps"] = changes.num_steps or chains["num_steps"]
    chains["kernel"] = changes.kernel or chains["kernel"]
    chains["exchange"] = (chains["exchange"] or facts.needs_exchange) and num_rungs > 2
    same = (num_rungs, gradient["num_chains"]) == (old_rungs, config.gradient.num_chains)
    if changes.start is not None:
        chains["start"] = changes.start
    elif config.posterior_chains.persists and not same:
        chains["start"] = "base"
    takes_covariance = names.KERNELS[chains["kernel"]].takes_covariance
    if not (takes_covariance and names.POSTERIOR_STARTS[chains["start"]].persists):
        chains["precondition"] = "none"  # covariances are stored with the run's chains
    batch_size = changes.batch_size or config.training.batch_size
    prior["num_updates"] = 1
    if (not same or batch_size != config.training.batch_size) and num_rungs > 2:
        prior["num_chains"] = None  # as many as are dealt out
    values["training"]["batch_size"] = batch_size
    if isinstance(config, RunConfig):
        used: list[tuple[Table[Any], str]] = [
            (names.ESTIMATORS, estimator),
            (names.PRIOR_RULES, prior_rule),
            (names.KERNELS, chains["kernel"]),
        ]
        known = {plugin.sha256 for plugin in config.plugins}
        values["plugins"] += [each for each in plugins_of(used) if each["sha256"] not in known]
    return validate(type(config), values)


@dataclass
class Sampler:
    """One kind of ladder, and the estimators that are read off it."""

    chains: Chains
    rules: dict[str, Rule] = field(default_factory=dict)


def make_samplers(
    own: Chains, model: LatentModel, configs: Mapping[str, LearningConfig], x: Tensor, stored: bool = True
) -> list[Sampler]:
    """Return samplers for estimators, one for all that read the same kind of ladder.

    Args:
        own: the run's chains, from which schedule, step sizes and stored chains are taken where they fit.
        model: the run's model.
        configs: of each estimator, from `estimator_config`.
        x: images on which MALA finds step sizes for ladders that the run does not have.
        stored: whether the images probed are those of the stored chains.

    Raises:
        InputError: a persistent start for images or rungs that have no stored chains.
    """
    samplers: dict[Any, Sampler] = {}
    for name, config in configs.items():
        chains = _make_chains(own, model, config, x, stored)
        gradient = config.gradient
        key = (
            chains.bottom,
            gradient.num_chains,
            gradient.num_rungs,
            gradient.schedule,
            config.posterior_chains,
        )
        sampler = samplers.setdefault(key, Sampler(chains))
        sampler.chains.keeps_states |= chains.keeps_states
        sampler.rules[name] = make_rule(ESTIMATORS[gradient.estimator], PRIOR_RULES[gradient.prior_rule])
    return list(samplers.values())


def _make_chains(own: Chains, model: LatentModel, config: LearningConfig, x: Tensor, stored: bool) -> Chains:
    """Return the chains of another estimator, at the run's temperatures and step sizes where they fit."""
    chains = Chains(config, model, num_images=1)  # a store of its own is never used
    chains.prior.borrow(own.prior, model, stream(own.config.seed, "probe-prior", 0, own.device))
    gradient, settings, run = config.gradient, config.posterior_chains, own.config
    same_rungs = gradient.num_rungs == run.gradient.num_rungs
    if settings.persists:
        fits = same_rungs and gradient.num_chains == run.gradient.num_chains
        fits = fits and chains.num_running_rungs <= own.num_running_rungs
        if own.stored is None or not fits or not stored:
            raise InputError(
                f"`start` persistent needs chains that the run stored for its training images on {gradient.num_rungs} "
                f"rungs with {gradient.num_chains} chains; try base or annealed."
            )
        chains.stored, chains.log_factors = own.stored, own.log_factors
        chains.covariances = None if chains.covariances is None else own.covariances
        if (
            chains.num_running_rungs < own.num_running_rungs
        ):  # the run has a rung t = 0, where this one shares draws
            chains.stored, chains.log_factors = own.stored[:, 1:], own.log_factors[:, 1:]
            chains.covariances = None if chains.covariances is None else chains.covariances[:, 1:]
    if same_rungs and gradient.schedule == run.gradient.schedule:
        chains.schedule = own.schedule
        same_proposals = (settings.kernel, settings.precondition) == (
            run.posterior_chains.kernel,
            run.posterior_chains.precondition,
        )
        if same_proposals:
            chains.step_sizes = own.step_sizes
            return chains
    generator = stream(run.seed, "probe-pilot", 0, own.device)
    pilot = LadderSampler(
        chains.schedule,
        make_kernel(settings.kernel, chains.step_sizes),
        chunk_size=config.compute.chunk_size,
    )
    pilot, _ = pilot.adapt(model, x, pilot.start(model, x, generator), NUM_PILOT_STEPS, generator)
    chains.step_sizes = pilot.step_sizes(chains.step_sizes)
    return chains


def random_batches(num_images: int, batch_size: int, num_batches: int, seed: int, name: str) -> np.ndarray:
    """Return image indices (num_batches, batch_size) of independent batches; no image twice in one.

    Raises:
        InputError: a batch of more images than there are.
    """
    return np.stack(
        [batch_order(num_images, batch_size, stream_seed(seed, name, b), 0)[0] for b in range(num_batches)]
    )


def measure_batches(
    model: LatentModel,
    samplers: Sequence[Sampler],
    batches: Sequence[Tensor],
    index: np.ndarray,
    num_repeats: int,
    name: str,
    *,
    references: Sequence[Reference] | None = None,
    by_rung: bool = False,
) -> dict[str, Measurement]:
    """Measure estimators on batches, with random streams under the prefix `name`.

    Args:
        model: the run's model, which stays as it is.
        samplers: from `make_samplers`.
        batches: images of each batch.
        index: which images they are, for chains that are stored.
        num_repeats: R.
        name: prefix of the streams.
        references: of each batch.
        by_rung: tell rungs apart as well.

    Raises:
        RunError: chains whose values are not finite.
    """
    found: dict[str, Measurement] = {}
    done, total = 0, len(samplers) * len(batches) * num_repeats

    def count() -> None:
        nonlocal done
        done += 1
        tell("gradients", done, total)

    for sampler in samplers:
        chains = sampler.chains

        def draw(b: int, r: int, chains: Chains = chains) -> tuple[Ladder, float]:
            numbers = torch.from_numpy(index[b])
            draws = chains.draw(model, batches[b], numbers, b * num_repeats + r, name=f"{name}-")
            ladder = draws.ladder
            if not (ladder.log_likelihood.isfinite().all() and ladder.energy.isfinite().all()):
                raise RunError(f"The chains of the probe are not finite in batch {b}, repeat {r}.")
            return ladder, draws.info.num_evaluations

        found |= measure_gradients(
            model,
            batches,
            draw,
            sampler.rules,
            num_repeats,
            references=references,
            by_rung=by_rung,
            chunk_size=chains.config.compute.chunk_size,
            on_gradient=count,
        )
    return found


def describe(measurement: Measurement) -> dict[str, Any]:
    """Return a measurement as JSON holds it."""
    blocks = measurement.summary()
    temperatures = measurement.inverse_temperatures.tolist()
    spread = measurement.log_likelihood_variance
    record: dict[str, Any] = {
        "num_evaluations_per_image": measurement.num_evaluations,
        "num_backward_per_image": measurement.num_backward,
        "cautions": [asdict(caution) for caution in measurement.cautions()],
        "log_likelihood_variance": [
            {"inverse_temperature": t, "value": value, "low": _finite(low), "high": _finite(high)}
            for t, value, low, high in zip(temperatures, *(part.tolist() for part in spread), strict=True)
        ],
        "log_likelihood_bias": None
        if measurement.log_likelihood_bias is None
        else measurement.log_likelihood_bias.record(),
        "blocks": {
            name: {"num_parameters": measurement.groups[name].num_parameters}
            | {quantity: estimate.record() for quantity, estimate in quantities.items()}
            for name, quantities in blocks.items()
        },
    }
    if measurement.rungs:
        record["rungs"] = [
            {
                "inverse_temperature": rung.inverse_temperature,
                "chain_variance": rung.chain_variance,
                "batch_variance": {name: _finite(value) for name, value in rung.batch_variance.items()},
            }
            for rung in measurement.rungs
        ]
    return record


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def own_rule(config: RunConfig, name: str, num_repeats: int) -> Rule:
    """Return the rule with which a run trains, its added noise counted.

    Args:
        config: the run.
        name: of the stream of the noise's signs.
        num_repeats: R, of the measurement.
    """
    gradient = config.gradient
    estimator, prior_rule = ESTIMATORS[gradient.estimator], PRIOR_RULES[gradient.prior_rule]
    if not gradient.noise_multiplier:
        return make_rule(estimator, prior_rule)

    def noisy(ladder: Ladder, batch: int, repeat: int) -> Weights:
        coin = torch.rand((), generator=stream(config.seed, name, batch * num_repeats + repeat))
        sign = 1.0 if coin < 0.5 else -1.0
        return compute_noisy_weights(ladder, estimator, prior_rule, gradient.noise_multiplier, sign)

    return noisy
