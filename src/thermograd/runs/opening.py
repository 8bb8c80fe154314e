"""Opening a run for training: what a crash, a power cut or a damaged disk left is repaired here, and nowhere else."""

from collections.abc import Collection
from pathlib import Path

from thermograd.errors import InputError
from thermograd.files import remove_leftovers
from thermograd.runs.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    point_last,
    remove_checkpoint_leftovers,
    remove_oldest,
)
from thermograd.runs.folder import read_status
from thermograd.runs.metrics import cut_after, mark_gap, reaches


def open_run(
    folder: Path, num_checkpoints: int, kept: Collection[int] = ()
) -> tuple[Checkpoint | None, list[str]]:
    """Repair a run folder and return what the run goes on from; only for a process that holds the folder.

    Leftovers of interrupted writing are removed. The run goes on from the newest checkpoint that is whole and whose
    metrics are; `last` points there, and later lines of metrics.jsonl are cut off, since their steps are done again.
    Where no whole checkpoint has its metrics, the newest is taken and the gap is marked in metrics.jsonl. Checkpoints
    older than the last `num_checkpoints` are removed, but no step of `kept`, as saving would have done.

    Returns:
        The checkpoint, None where the run begins anew; and a sentence for everything that was found and done.

    Raises:
        InputError: there are checkpoints and all are damaged.
    """
    checkpoints, metrics = folder / "checkpoints", folder / "metrics.jsonl"
    messages = _told_end(folder)
    num_leftovers = remove_leftovers(folder) + remove_leftovers(folder / "samples")
    num_leftovers += remove_checkpoint_leftovers(checkpoints)
    if num_leftovers:
        messages.append(f"{num_leftovers} files that were being written when the run died are removed.")
    newest: Checkpoint | None = None
    checkpoint: Checkpoint | None = None
    damage: list[str] = []
    for path in reversed(list_checkpoints(checkpoints)):
        try:
            found = load_checkpoint(path)
        except InputError as error:
            damage.append(str(error))
            messages.append(f"{error} The run goes on from the checkpoint before it.")
            continue
        if reaches(metrics, found.metrics):
            checkpoint = found
            break
        newest = newest or found
        messages.append(f"{metrics} is damaged or shorter than at {path.name}.")
    else:
        if newest is None and damage:
            raise InputError(f"`checkpoints` in {folder} are all damaged: {' '.join(damage)}")
        checkpoint = newest
    if checkpoint is None:
        if metrics.exists() and (num_lines := cut_after(metrics, {"length": 0, "sha256": ""})):
            messages.append(
                f"{num_lines} lines of {metrics} are removed: the run has no checkpoint and begins anew."
            )
        return None, messages
    if not reaches(metrics, checkpoint.metrics):
        num_kept = mark_gap(metrics, checkpoint.step)
        messages.append(
            f"No whole checkpoint has its metrics: {num_kept} records are kept, and the gap is marked in {metrics}."
        )
    elif checkpoint.metrics is not None and (num_lines := cut_after(metrics, checkpoint.metrics)):
        messages.append(
            f"{num_lines} lines of {metrics} after {checkpoint.path.name} are removed: done again."
        )
    if point_last(checkpoints, checkpoint.path.name):
        messages.append(f"{checkpoints / 'last'} now points at {checkpoint.path.name}.")
    remove_oldest(checkpoint.path, num_checkpoints, kept)
    return checkpoint, messages


def _told_end(folder: Path) -> list[str]:
    """Say where the process that trained the run before died without a word."""
    status = read_status(folder)
    if status.get("state") not in ("running", "interrupted"):
        return []
    return [
        f"Process {status.get('pid')} on {status.get('host')} trained this run and died without a word "
        f"at step {status.get('step')} or later."
    ]
