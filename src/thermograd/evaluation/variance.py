"""The variance of the learning gradient of a trained run, by several estimators at the same checkpoint and batches.

Each measurement is a record of the run folder, with everything that its numbers depend on.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from thermograd.config import names
from thermograd.config.schema import RunConfig, evaluations_per_image
from thermograd.errors import InputError
from thermograd.evaluation.records import Record, add_record, record_of
from thermograd.evaluation.settings import VarianceSettings
from thermograd.gradients.reference import Reference, reference_gradient, reference_record
from thermograd.progress import steps
from thermograd.runs.run import Run
from thermograd.streams import stream
from thermograd.training.builder import batch_images
from thermograd.training.probe import (
    describe,
    estimator_config,
    make_samplers,
    measure_batches,
    random_batches,
)
from thermograd.training.trainer import Trainer


def variance_of_run(
    run: Run,
    settings: VarianceSettings | None = None,
    on_message: Callable[[str], None] = lambda message: None,
) -> Record:
    """Measure the gradient's variance at a run's checkpoint and add the record to its measurements.

    The weights are those that were being trained, not averaged ones.

    Args:
        run: what `load_run` returned.
        settings: what to measure; None for the defaults.
        on_message: called with a line on the cost before the start, and on each reference.

    Returns:
        The record.

    Raises:
        InputError: an unknown estimator, settings out of range, or a start without stored chains.
    """
    settings = settings or VarianceSettings()
    if not settings.estimators:
        raise InputError("`estimators` must name at least one, got none.")
    for estimator in settings.estimators:
        names.ESTIMATORS.check(estimator, "estimator")
    data, own = run.data(settings.split), run.trainer()
    configs = _configs(run.config, settings)
    size = next(iter(configs.values())).training.batch_size
    index = random_batches(len(data), size, settings.num_batches, settings.seed, "probe-variance-batches")
    images = [batch_images(run.config, data, row, 0, own.device) for row in index]
    samplers = make_samplers(own.chains, own.model, configs, images[0], stored=settings.split == "train")
    progress = _Progress(on_message, own, configs, [list(each.rules) for each in samplers], settings, size)
    references = _references(own, images, settings, run.config.compute.chunk_size, progress)
    begun = time.perf_counter()
    measured = measure_batches(
        own.model,
        samplers,
        images,
        index,
        settings.num_repeats,
        f"probe-variance-{settings.seed}",
        references=references,
        by_rung=True,
    )
    record = record_of(
        run,
        "variance",
        data,
        settings.split,
        source="command",
        seed=settings.seed,
        settings={
            "num_batches": settings.num_batches,
            "num_repeats": settings.num_repeats,
            "batch_size": size,
            "equal_cost": settings.equal_cost,
            "reference": settings.reference and asdict(settings.reference),
            "estimators": {name: sampling(configs[name]) for name in settings.estimators},
            "plugins": {p.file.name: p.sha256 for each in configs.values() for p in each.plugins},
        },
        values={
            "reference": None
            if references is None or settings.reference is None
            else reference_record(references, settings.reference),
            "seconds_reference": progress.seconds_reference,
            "seconds_estimators": time.perf_counter() - begun,
            "estimators": {name: describe(measured[name]) for name in settings.estimators},
        },
    )
    add_record(run.folder, record)
    return record


def _configs(config: RunConfig, settings: VarianceSettings) -> dict[str, RunConfig]:
    """Return the config of each estimator; chains of all start in the same way."""
    changes = settings.changes
    configs: dict[str, RunConfig] = {
        name: estimator_config(config, name, changes) for name in settings.estimators
    }
    every = [each.posterior_chains for each in configs.values()]
    persist, differ = any(each.persists for each in every), len({each.start for each in every}) > 1
    if changes.start is None and persist and (differ or settings.split != "train"):
        changes = changes.model_copy(update={"start": "base"})
        configs = {name: estimator_config(config, name, changes) for name in settings.estimators}
    if not settings.equal_cost:
        return configs
    budget = max(evaluations_per_image(each) for each in configs.values())
    for name, each in configs.items():
        chains = each.gradient.num_chains
        paid = budget // (evaluations_per_image(each) // chains)
        if paid > chains:
            configs[name] = estimator_config(config, name, changes.model_copy(update={"num_chains": paid}))
    return configs


def sampling(config: RunConfig) -> dict[str, Any]:
    """Return how an estimator was sampled, starts of its chains among it, for a record."""
    gradient, chains, prior = config.gradient, config.posterior_chains, config.prior_chains
    return {
        "prior_rule": gradient.prior_rule,
        "num_chains": gradient.num_chains,
        "num_rungs": gradient.num_rungs,
        "schedule": gradient.schedule.model_dump(mode="json"),
        "posterior_chains": chains.model_dump(mode="json"),
        "prior_chains": prior.model_dump(mode="json"),
    }


def _references(
    own: Trainer,
    images: list[torch.Tensor],
    settings: VarianceSettings,
    chunk_size: int | None,
    progress: "_Progress",
) -> list[Reference] | None:
    if settings.reference is None:
        return None
    references = []
    for b, x in enumerate(steps(images, "references")):
        generator = stream(settings.seed, "probe-variance-reference", b, own.device)
        references.append(reference_gradient(own.model, x, generator, settings.reference, chunk_size))
        progress.reference(b + 1, references[-1])
    return references


class _Progress:
    """Says what a measurement will cost before it starts, and how far it is."""

    def __init__(
        self,
        on_message: Callable[[str], None],
        own: Trainer,
        configs: Mapping[str, RunConfig],
        shared: list[list[str]],
        settings: VarianceSettings,
        batch_size: int,
    ):
        self.on_message, self.settings = on_message, settings
        self.begun = time.perf_counter()
        self.seconds_reference = 0.0
        each = settings.num_batches * batch_size
        sampling = (
            sum(evaluations_per_image(configs[names[0]]) for names in shared) * each * settings.num_repeats
        )
        reference = 0 if settings.reference is None else settings.reference.num_evaluations * each
        seconds = (sampling + reference) / _evaluations_a_second(own)
        on_message(
            f"{sampling + reference:.3g} generator evaluations ({sampling:.3g} for {settings.num_batches} batches of "
            f"{batch_size} images x {settings.num_repeats} repeats, {reference:.3g} for the reference), "
            f"about {seconds / 60:.1f} minutes on {own.device} with {torch.get_num_threads()} threads."
        )

    def reference(self, done: int, reference: Reference) -> None:
        self.seconds_reference = time.perf_counter() - self.begun
        self.on_message(
            f"reference {done}/{self.settings.num_batches}  {self.seconds_reference:.0f} s  "
            f"R-hat median {float(reference.r_hat.median()):.3f}, largest {float(reference.r_hat.max()):.3f}"
        )


def _evaluations_a_second(own: Trainer) -> float:
    """Time evaluations of the model at 512 latents, once to warm up and twice for the clock."""
    z = own.model.sample_base((8, 64), stream(0, "probe-timing", 0, own.device))
    x = z.new_zeros(64, *own.model.image_shape)
    own.model.evaluate(x, z)
    begun = _clock(own.device)
    for _ in range(2):
        own.model.evaluate(x, z)
    return 2 * 512 / (_clock(own.device) - begun)


def _clock(device: torch.device) -> float:
    """Return seconds on a clock, once a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def rows_of(record: Record) -> list[dict[str, Any]]:
    """Return one row for each estimator and network of a record, with its settings and main quantities."""
    rows = []
    for name, each in record.values["estimators"].items():
        sampled = record.settings["estimators"][name]
        for block in ("generator", "prior", "total"):
            if block in each["blocks"]:
                rows.append(
                    {
                        "estimator": name,
                        "block": block,
                        "num_rungs": sampled["num_rungs"],
                        "num_chains": sampled["num_chains"],
                        "num_evaluations_per_image": each["num_evaluations_per_image"],
                        **each["blocks"][block],
                    }
                )
    return rows
