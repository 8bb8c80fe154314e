"""What the runs of a study cost in time, before any is started: training, and what is measured on the way."""

import time
from dataclasses import dataclass
from typing import Any

from thermograd.config.schema import RunConfig, evaluations_per_image
from thermograd.study.run import StudyRun

START_STEPS = 20
"""Least steps of chains that a measurement begins anew where those of training persist."""
EVIDENCE_EVALUATIONS = 4000
"""Generator evaluations per image for log p(x)."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a training step, and of drawing one sample."""

    step: float
    sample: float


def time_arms(runs: list[StudyRun]) -> dict[str, Pace]:
    """Return the pace of each arm: the quickest training step of a second's, 3 to 20, the first not counted.

    Chains are stored for a batch only, so that timing needs little memory.
    """
    import torch

    before = torch.get_num_threads()
    paces: dict[str, Pace] = {}
    try:
        for run in runs:
            if run.arm not in paces:
                torch.set_num_threads(run.resolved.compute.num_threads or before)
                paces[run.arm] = _time(run.resolved)
    finally:
        torch.set_num_threads(before)
    return paces


def _time(config: RunConfig, num_samples: int = 100) -> Pace:
    import torch

    from thermograd.training.builder import batch_images, build_model, load_data
    from thermograd.training.samples import sample_images
    from thermograd.training.trainer import Trainer

    size = config.training.batch_size
    model = build_model(config)
    trainer = Trainer(config, model, size)
    x = batch_images(config, load_data(config), range(size), 0, trainer.device)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 1 and len(times) < 20):
        begun = time.perf_counter()
        trainer.step(x, torch.arange(size), len(times), 0)
        times.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    sample_images(model, trainer.chains.prior.source, num_samples, 0)
    return Pace(min(times[1:]), (time.perf_counter() - begun) / num_samples)


def measuring_seconds(run: StudyRun, pace: Pace) -> float:
    """Return about how long all that is measured of a run takes: gradients, samples, and log p(x) at the end.

    The networks of distances and the prior's chains at the end are not in it.
    """
    config, measure = run.resolved, run.resolved.measure
    num_epochs, chains = config.training.num_epochs, config.posterior_chains
    num_breaks = len(measure.steps(num_epochs, run.num_steps // num_epochs))
    longer = max(1.0, START_STEPS / chains.num_steps) if chains.persists else 1.0
    size = (measure.batch_size or config.training.batch_size) / config.training.batch_size
    gradients = (
        2 * (measure.num_batches + 1) * measure.num_repeats * (1 + len(measure.estimators)) * size * longer
    )
    samples = 2 * num_breaks * measure.num_samples
    if measure.num_samples_at_the_end is not None:
        samples += 2 * (measure.num_samples_at_the_end - measure.num_samples)
    evaluation = pace.step / (config.training.batch_size * evaluations_per_image(config))
    evidence = measure.num_evidence * EVIDENCE_EVALUATIONS * evaluation
    return num_breaks * gradients * pace.step + samples * pace.sample + evidence


def hours(run: StudyRun, pace: Pace) -> dict[str, Any]:
    """Return the hours of a run: of training, of measuring, and of both."""
    training, measuring = run.num_steps * pace.step / 3600, measuring_seconds(run, pace) / 3600
    return {"hours": training + measuring, "hours_training": training, "hours_measuring": measuring}
