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
from thermograd.evaluation.records import Record, measured_steps
from thermograd.files import hold, write_atomically
from thermograd.study.attempts import claim
from thermograd.study.folder import StudyFolder, open_study
from thermograd.study.run import StudyRun
from thermograd.study.status import is_done, needs_work

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


def measured_otherwise(folder: StudyFolder) -> list[StudyRun]:
    """Return the runs that are done and were measured by other settings than the study has now."""
    from thermograd.runs.folder import read_config

    return [
        run
        for run in folder.runs
        if not needs_work(folder, run)
        and read_config(folder.run_folder(run.identity)).measure != folder.study.measure
    ]


def measure_study(folder: StudyFolder, again: bool, on_message: Callable[[str], None]) -> list[Record]:
    """Measure the runs of a study as it says now: what was not measured yet, and anew what other settings measured.

    Args:
        folder: the study.
        again: every kept checkpoint, measured or not.
        on_message: called with a sentence for the user.
    """
    from thermograd.evaluation.clock import measure_run
    from thermograd.runs.checkpoint import list_checkpoints
    from thermograd.runs.folder import open_config

    others, records = measured_otherwise(folder), list[Record]()
    for run in folder.runs:
        path = folder.run_folder(run.identity)
        if not list_checkpoints(path / "checkpoints"):
            continue
        with hold(path, "measure"):
            on_message(f"{run.arm}, seed {run.seed}")
            anew = measured_steps(path) if run in others else ()
            records += measure_run(path, folder.study.measure, again=again, anew=anew, on_message=on_message)
            config = open_config(path).model_copy(update={"measure": folder.study.measure})
            write_atomically(path / "config.yaml", config.to_yaml())
    return records
