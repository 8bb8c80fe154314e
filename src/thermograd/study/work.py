"""The procedure of one run, in a process of its own.

Train to the next epoch at which the study measures, measure there on the training set (quick distances), go on; at the
end measure on the test set as well. All that was done is read off the run folder, so a run that died goes on from its
last checkpoint, and what was measured is not measured again.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thermograd.config.names import choose_extractor
from thermograd.config.resolve import validate_config
from thermograd.config.schema import RunConfig
from thermograd.errors import RunError, failure, one_line
from thermograd.files import hold
from thermograd.study.attempts import claim
from thermograd.study.file import EvaluationConfig
from thermograd.study.folder import StudyFolder, has_record, is_done, open_study, read_status

DONE, FAILED, BUSY, STOPPED = 0, 1, 3, 4
"""Exit codes of a process that works on a run."""
GRACE = 30.0
"""Seconds that a process has for a last checkpoint, once its worker is gone."""


def work_in_this_process(path: Path, identity: str) -> int:
    """Claim a run of a study, work on it until it is done, and return an exit code.

    The process stops when its standard input is closed: the worker that started it holds the other end, so a worker
    that is killed takes its run down with it, after a last checkpoint.
    """
    held = claim(open_study(path).attempts_folder(identity))
    if held is None:
        return BUSY
    stopped = threading.Event()
    threading.Thread(target=_watch_lifeline, args=(stopped,), daemon=True).start()
    try:
        state = work(open_study(path), identity, stopped.is_set)
    except Exception as error:  # whatever it is, the study reports it and goes on with the other runs
        held.end("failed", one_line(failure(error)))
        raise
    held.end(state)
    return DONE if state == "done" else STOPPED


def _watch_lifeline(stopped: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    stopped.set()
    threading.Event().wait(GRACE)
    os._exit(STOPPED)


def work(folder: StudyFolder, identity: str, should_stop: Callable[[], bool] = lambda: False) -> str:
    """Bring a run to its end, or until asked to stop; return "done" or "stopped"."""
    from thermograd.runs.checkpoint import list_checkpoints
    from thermograd.runs.run import load_run
    from thermograd.runs.train import train_run

    planned = folder.run(identity)
    config = validate_config(planned.config)
    run_folder, evaluation = folder.run_folder(identity), folder.study.evaluation
    points = measuring_steps(config, evaluation, planned.num_steps)
    while not is_done(run_folder, evaluation):
        step = 0
        if list_checkpoints(run_folder / "checkpoints"):
            run = load_run(run_folder)
            step = run.checkpoint.step
            for split in _splits(step, points, planned.num_steps):
                if not has_record(run_folder, split, step):
                    with hold(run_folder, "measure"):
                        _measure(run, split, evaluation)
                if should_stop():
                    return "stopped"
            if is_done(run_folder, evaluation):
                break
            if step == planned.num_steps and read_status(run_folder).get("state") == "done":
                raise RunError(f"The measurement of step {step} is not in {run_folder}.")
        end = min((point for point in points if point > step), default=planned.num_steps)
        done = _Counter(step, end, should_stop)
        train_run(
            config,
            run_folder,
            requested=planned.requested,
            on_step=done,
            on_message=print,
            should_stop=done.stop,
        )
        if done.step < end:
            return "stopped"
    return "done"


class _Counter:
    """Counts the steps of training, and stops it at `end`, or where it is asked to."""

    def __init__(self, step: int, end: int, should_stop: Callable[[], bool]):
        self.step, self.end, self.should_stop = step, end, should_stop

    def __call__(self, step: int, num_steps: int, record: Mapping[str, Any]) -> None:
        self.step = step

    def stop(self) -> bool:
        return self.should_stop() or self.step >= self.end


def measuring_steps(config: RunConfig, evaluation: EvaluationConfig, num_steps: int) -> list[int]:
    """Return the steps after which a run is measured on the training set; the last is its end."""
    if evaluation.every is None:
        return [num_steps]
    steps_per_epoch = num_steps // config.training.num_epochs
    inner = range(evaluation.every, config.training.num_epochs, evaluation.every)
    return [*(epoch * steps_per_epoch for epoch in inner), num_steps]


def _splits(step: int, points: list[int], num_steps: int) -> list[str]:
    """Return what a checkpoint is measured on."""
    return (["train"] if step in points else []) + (["test"] if step == num_steps else [])


def _measure(run: Any, split: str, evaluation: EvaluationConfig) -> None:
    """Measure a checkpoint: the variance of the run's own gradient first, so that an evaluation ends a measurement.

    The streams of an evaluation are those of the run's seed, so arms of one seed are measured alike, and seeds apart.
    """
    from thermograd.evaluation.evaluate import evaluate_run
    from thermograd.evaluation.settings import EvaluationSettings
    from thermograd.evaluation.variance import own_settings, variance_of_run

    at_the_end = split == "test"
    settings = EvaluationSettings(
        split=split,
        num_images=evaluation.num_images,
        num_samples=evaluation.num_samples if at_the_end else evaluation.num_samples_on_the_way,
        num_evidence=evaluation.num_evidence if at_the_end else 0,
        extractor=evaluation.extractor,
        weights=evaluation.weights,
        variant=evaluation.variant if at_the_end else "quick",
        seed=run.config.seed,
        source="clock",
    )
    variance_of_run(run, own_settings(run, split, num_batches=4, seed=run.config.seed, source="clock"))
    evaluate_run(run, settings)


def prepare_features(folder: StudyFolder) -> None:
    """Train the classifiers of the distances once, so that workers find them in the cache."""
    import torch

    from thermograd.data import load_dataset
    from thermograd.evaluation.distances import make_extractor
    from thermograd.training.builder import load_data

    if not choose_extractor(folder.study.evaluation.extractor, has_labels=True).needs_labels:
        return
    before = torch.get_num_threads()
    configs = {json.dumps(run.config["data"]): validate_config(run.config) for run in folder.runs}
    for config in configs.values():
        own = config.data.path is not None
        splits = {
            split: load_data(config, split) if own else load_dataset(config.data.name, split)
            for split in ("train", "test")
        }
        has_labels = all(data.labels is not None for data in splits.values())
        network = choose_extractor(folder.study.evaluation.extractor, has_labels)
        if network.needs_labels and has_labels:
            torch.set_num_threads(config.compute.num_threads or before)
            make_extractor(network.name, splits["test"].name, splits)
    torch.set_num_threads(before)
