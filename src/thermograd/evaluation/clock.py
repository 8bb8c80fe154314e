"""One measurement for each break of training: the gradient, its variance, samples and distances, all at one step.

It is made from the checkpoint of that step, by streams of its own. So measuring changes no trained number, and what was
not measured while training, or failed, is measured later to the same numbers (`thermograd measure`).
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from thermograd.config import names
from thermograd.config.measure import Changes, MeasureConfig
from thermograd.config.schema import RunConfig
from thermograd.data import ImageDataset
from thermograd.evaluation.distances import make_extractor
from thermograd.evaluation.evaluate import evaluate_run
from thermograd.evaluation.records import Record, add_record, measured_steps, record_of
from thermograd.evaluation.settings import EvaluationSettings, Split
from thermograd.evaluation.variance import sampling
from thermograd.files import written_whole
from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.reference import ReferenceSettings, reference_gradient, reference_record
from thermograd.progress import steps
from thermograd.runs.checkpoint import list_checkpoints
from thermograd.runs.run import Run, load_run
from thermograd.runs.train import train_run
from thermograd.streams import stream, stream_seed
from thermograd.training.builder import batch_images
from thermograd.training.convergence import follow_prior
from thermograd.training.probe import (
    Sampler,
    describe,
    estimator_config,
    make_samplers,
    measure_batches,
    own_rule,
    random_batches,
)
from thermograd.training.trainer import Trainer

START_STEPS = 20
"""Least steps of chains that begin at the base distribution where those of training go on; the published number."""
PRIOR_CHAINS, PRIOR_STEPS = 200, (40, 200)
"""Chains and steps with which a measurement looks at the prior."""
BIAS_BATCHES, BIAS_IMAGES = 4, 16
"""Fixed batches and their images on which the bias of a run's own chains is measured."""
SPLITS: tuple[Split, ...] = ("train", "test")


def train_measured(
    config: RunConfig,
    folder: Path,
    *,
    on_message: Callable[[str], None] = lambda message: None,
    **options: Any,
) -> str:
    """Train a run as `train_run` does, and measure it at each break and at its end.

    Checkpoints that a break left unmeasured, because the process died or the measurement failed, are measured first.

    Args:
        config: the run; `config.measure` says when and what.
        folder: run folder.
        on_message: called with a sentence for the user.
        options: further arguments of `train_run`.

    Returns:
        "done" or "stopped".

    Raises:
        InputError: as `train_run`; or a feature network whose weights are missing, or an unknown estimator.
    """
    check_measure(config.measure)

    def measure(checkpoint: Path) -> None:
        run = load_run(folder, checkpoint.name)
        if run.checkpoint.step not in measured_steps(folder):
            on_message(f"Measuring {checkpoint.name}.")
            measure_checkpoint(run, config.measure)

    return train_run(
        config, folder, on_break=measure, measured=measured_steps(folder), on_message=on_message, **options
    )


def check_measure(measure: MeasureConfig) -> None:
    """Check, before anything is trained, that all that is to be measured can be.

    Raises:
        InputError: a feature network whose weights are missing, or an unknown estimator.
    """
    for name in measure.estimators:
        names.ESTIMATORS.check(name, "estimators")
    if names.EXTRACTORS[measure.extractor].needs_weights:
        make_extractor(measure.extractor, "", {}, measure.weights)


def measure_run(
    folder: Path,
    measure: MeasureConfig | None = None,
    *,
    again: bool = False,
    anew: Collection[int] = (),
    on_message: Callable[[str], None] = lambda message: None,
) -> list[Record]:
    """Measure kept checkpoints of a run: those of its breaks that were not measured yet, or all that there are.

    Args:
        folder: run folder.
        measure: what to measure; None for the run's own settings.
        again: every kept checkpoint, measured or not, e.g. by another distance.
        anew: steps that are measured again where their checkpoint is kept.
        on_message: called with a sentence for the user.

    Raises:
        InputError: no run, no checkpoint, or settings that cannot be measured.
    """
    if measure is not None:
        check_measure(measure)
    last = load_run(folder)  # refuses what is no run, or has no checkpoint
    breaks = last.config.measure.steps(
        last.config.training.num_epochs, last.checkpoint.state["steps_per_epoch"]
    )
    missing = set(breaks) - measured_steps(folder) | set(anew)
    records = []
    for path in steps(list_checkpoints(folder / "checkpoints"), "checkpoints"):
        run = load_run(folder, path.name)
        if again or run.checkpoint.step in missing:
            on_message(f"Measuring {path.name}.")
            records += measure_checkpoint(run, measure)
    return records


def measure_checkpoint(run: Run, measure: MeasureConfig | None = None) -> list[Record]:
    """Measure a checkpoint on the training and on the test images, and add the records.

    Streams are those of the run's seed, so arms of one seed are measured alike, and seeds apart.

    Args:
        run: what `load_run` returned.
        measure: what to measure; None for the run's own settings.
    """
    measure = measure or run.config.measure
    at_the_end = (
        run.checkpoint.step == run.config.training.num_epochs * run.checkpoint.state["steps_per_epoch"]
    )
    num_samples = measure.num_samples
    if at_the_end and measure.num_samples_at_the_end is not None:
        num_samples = measure.num_samples_at_the_end
    records = []
    for split in steps(SPLITS, "splits"):
        records.append(measure_gradient(run, split, measure))
        settings = EvaluationSettings(
            split=split,
            num_images=measure.num_images,
            num_samples=num_samples,
            num_evidence=measure.num_evidence if at_the_end and split == "test" else 0,
            extractor=measure.extractor,
            weights=measure.weights,
            variant=measure.variant if at_the_end else "quick",
            prior=measure.prior and at_the_end and split == "test",
            seed=run.config.seed,
            source="clock",
        )
        records.append(evaluate_run(run, settings))
    return records


def measure_gradient(run: Run, split: Split, measure: MeasureConfig) -> Record:
    """Measure the variance of the run's learning gradient on one split, by one definition for both, and add the record.

    One fixed batch has a chain variance alone: it moves with the weights and with nothing else. Fresh batches are drawn
    anew at each step. Chains start as in training; where those persist, which test images have not, all start at the
    base distribution and take `START_STEPS` at least. What training itself sees from its stored chains is measured on
    the same fresh batches, under `as_trained`.

    Returns:
        The record: by estimator `estimators` on fresh batches and `fixed`; `as_trained` or None; `chain_bias`, that of
        the run's own chains on fixed training images with its `reference`, or None; the file of the
        `gradient`, or None; on training images `prior`, whether its chains settle.
    """
    begun = time.perf_counter()
    config, own, data = run.config, run.trainer(), run.data(split)
    name, step, repeats = config.gradient.estimator, run.checkpoint.step, measure.num_repeats
    size = min(measure.batch_size or config.training.batch_size, len(data))
    changes, chains = Changes(batch_size=size), config.posterior_chains
    if chains.persists:
        steps = max(chains.num_steps, START_STEPS)
        changes = Changes(batch_size=size, start="base", num_steps=steps)
    configs = {
        each: estimator_config(config, each, changes) for each in dict.fromkeys((name, *measure.estimators))
    }
    index = {
        "fixed": random_batches(len(data), size, 1, config.seed, f"measure-fixed-{split}"),
        "fresh": random_batches(len(data), size, measure.num_batches, config.seed, f"measure-{split}-{step}"),
    }
    images = {kind: [_batch(run, data, row) for row in rows] for kind, rows in index.items()}
    samplers = make_samplers(own.chains, own.model, configs, images["fixed"][0], stored=False)
    rule = own_rule(config, f"measure-noise-{split}-{step}", repeats)
    for sampler in samplers:
        if name in sampler.rules:
            sampler.rules[name] = rule

    def measured(kind: str, read: list[Sampler], stream: str) -> dict[str, Any]:
        found = measure_batches(
            own.model, read, images[kind], index[kind], repeats, stream, by_rung=measure.by_rung
        )
        return {each: describe(measurement) for each, measurement in found.items()}

    fixed = measured("fixed", samplers, f"measure-fixed-{split}-{step}")
    fresh = measured("fresh", samplers, f"measure-fresh-{split}-{step}")
    as_trained = None
    if chains.persists and split == "train" and size == config.training.batch_size:
        as_trained = measured("fresh", [Sampler(own.chains, {name: rule})], f"measure-as-trained-{step}")
    gradient = None
    if measure.keep_gradient:
        sampler = next(each for each in samplers if name in each.rules)
        x = images["fixed"][0]
        draws = sampler.chains.draw(
            own.model, x, torch.from_numpy(index["fixed"][0]), 0, name=f"measure-gradient-{split}-{step}-"
        )
        vector = learning_gradient(
            own.model, x, draws.ladder, rule(draws.ladder, 0, 0), config.compute.chunk_size
        )
        gradient = _keep(run, split, vector)
    record = record_of(
        run,
        "variance",
        data,
        split,
        source="clock",
        seed=config.seed,
        settings={
            "num_batches": measure.num_batches,
            "num_repeats": repeats,
            "batch_size": size,
            "noise_multiplier": config.gradient.noise_multiplier,
            "by_rung": measure.by_rung,
            "estimators": {each: sampling(configs[each]) for each in configs},
        },
        values={
            "estimators": fresh,
            "fixed": fixed,
            "as_trained": as_trained,
            "chain_bias": _chain_bias(run, own, data, repeats)
            if measure.chain_bias and split == "train"
            else None,
            "gradient": gradient,
            "prior": _look_at_prior(run, own) if split == "train" else None,
            "seconds": time.perf_counter() - begun,
        },
    )
    add_record(run.folder, record)
    return record


def _chain_bias(run: Run, own: Trainer, data: ImageDataset, num_repeats: int) -> dict[str, Any]:
    """Return what the run's chains, as training visits them, differ by from converged ones, on fixed images."""
    config, step, name = run.config, run.checkpoint.step, run.config.gradient.estimator
    size = min(BIAS_IMAGES, len(data))
    index = random_batches(len(data), size, BIAS_BATCHES, config.seed, "measure-chain-bias")
    images, settings = [_batch(run, data, row) for row in index], ReferenceSettings()
    mine = estimator_config(config, name, Changes(batch_size=size))
    references = [
        reference_gradient(
            own.model,
            x,
            stream(config.seed, f"measure-chain-bias-reference-{step}", b, own.device),
            settings,
            config.compute.chunk_size,
        )
        for b, x in enumerate(images)
    ]
    found = measure_batches(
        own.model,
        make_samplers(own.chains, own.model, {name: mine}, images[0]),
        images,
        index,
        num_repeats,
        f"measure-chain-bias-{step}",
        references=references,
    )
    return {**describe(found[name]), "reference": reference_record(references, settings)}


def _look_at_prior(run: Run, own: Trainer) -> dict[str, Any]:
    """Return whether the prior's chains settle, by a short look; the contrast where posterior chains are stored."""
    chains = own.chains
    stored = None if chains.stored is None else chains.stored[:, -1, 0]
    seed = stream_seed(run.config.seed, "measure-prior", run.checkpoint.step)
    return follow_prior(
        own.model, chains.prior.source, stored, seed, num_chains=PRIOR_CHAINS, num_steps=PRIOR_STEPS
    ).record()


def _batch(run: Run, data: ImageDataset, index: Any) -> Tensor:
    return batch_images(run.config, data, index, 0, next(run.model.parameters()).device)


def _keep(run: Run, split: str, gradient: dict[str, Tensor]) -> str:
    """Store a gradient as safetensors in the run folder; return its place there."""
    place = f"gradients/{run.checkpoint.path.name}_{split}.safetensors"
    with written_whole(run.folder / place) as aside:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in gradient.items()}, aside)
    return place
