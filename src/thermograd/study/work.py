"""The procedure of one run, in a process of its own.

It is trained and measured by its own clock, which is the study's `measure`. All that was done is read off the run
folder, so a run that died goes on from its last checkpoint, and what was measured is not measured again.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from thermograd.config.names import choose_extractor
from thermograd.config.plugins import PLUGINS
from thermograd.config.resolve import validate_config
from thermograd.errors import failure, one_line
from thermograd.files import hold
from thermograd.study.attempts import claim
from thermograd.study.folder import StudyFolder, is_done, open_study

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
    """Bring a run to its end, or until asked to stop; return "done" or "stopped".

    Raises:
        InputError, RunError: what stopped it; a measurement on the way that fails is only told, the last one must not.
    """
    from thermograd.evaluation.clock import measure_run, train_measured

    planned, run_folder = folder.run(identity), folder.run_folder(identity)
    wanted = planned.config | {"measure": folder.study.measure.model_dump(mode="json")}
    config = validate_config(wanted, folder.path / PLUGINS)
    state = train_measured(
        config, run_folder, requested=planned.requested, on_message=print, should_stop=should_stop
    )
    if state == "done" and not is_done(run_folder):
        with hold(run_folder, "measure"):
            measure_run(run_folder, on_message=print)
    return state


def prepare_features(folder: StudyFolder) -> None:
    """Train the classifiers of the distances once, so that workers find them in the cache."""
    import torch

    from thermograd.evaluation.distances import make_extractor, whole_data

    if not choose_extractor(folder.study.measure.extractor, has_labels=True).needs_labels:
        return
    before = torch.get_num_threads()
    configs = {json.dumps(run.config["data"]): run.resolved for run in folder.runs}
    for config in configs.values():
        splits = whole_data(config)
        has_labels = all(data.labels is not None for data in splits.values())
        network = choose_extractor(folder.study.measure.extractor, has_labels)
        if network.needs_labels and has_labels:
            torch.set_num_threads(config.compute.num_threads or before)
            make_extractor(network.name, splits["test"].name, splits)
    torch.set_num_threads(before)
