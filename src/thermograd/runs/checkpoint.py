"""Checkpoints that are whole or absent: written aside, synced, renamed, and verified when loaded.

A checkpoint is a folder `step_00001000` with one safetensors file for each part (`model`, `training_state`, and `ema`
where weights are averaged), `state.json` with the sha256 of each, and `metrics.json` with how far metrics.jsonl of the
run reached. `last` is a link that always points at a whole one.
"""

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from thermograd.errors import InputError
from thermograd.files import hash_of, make_folder, make_readable, read_json, remove_leftovers, sha256, sync
from thermograd.runs.metrics import Extent

Parts = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        path: its folder.
        step: training steps done.
        parts: tensors by name, for each part.
        state: what else was saved.
        metrics: how far metrics.jsonl reached; None where that was not kept or is damaged.
    """

    path: Path
    step: int
    parts: Parts
    state: dict[str, Any]
    metrics: Extent | None = None


def save_checkpoint(
    folder: Path,
    step: int,
    parts: Parts,
    state: Mapping[str, Any],
    num_kept: int,
    metrics: Extent | None = None,
    kept: Collection[int] = (),
) -> Path:
    """Write a checkpoint, point `last` at it, remove the oldest beyond `num_kept`, but no step of `kept`."""
    make_folder(folder)
    final = folder / f"step_{step:08d}"
    aside = folder / f".writing_{final.name}"
    remove_checkpoint_leftovers(folder)
    aside.mkdir()
    hashes = {}
    for part, tensors in parts.items():
        file = aside / f"{part}.safetensors"
        copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            save_file(copies, file)
        except SafetensorError:
            file.write_bytes(save(copies))  # tells why by the error of the system, as the library does not
        make_readable(file)
        sync(file)
        hashes[file.name] = sha256(file)
    whole = {"step": step, **state, "sha256": hashes}
    texts = {"state.json": {**whole, "sha256_of_state": _state_hash(whole)}, "metrics.json": metrics}
    for name, content in texts.items():
        (aside / name).write_text(json.dumps(content, indent=1))
        sync(aside / name)
    sync(aside)
    if final.exists():
        _remove(final)
    aside.rename(final)
    sync(folder)  # before `last` points there, and before older ones go
    point_last(folder, final.name)
    for newer in list_checkpoints(folder):
        if newer > final:
            # It was damaged, or training had gone on from it; it must not push out the whole ones.
            _remove(newer)
    remove_oldest(final, num_kept, kept)
    return final


def remove_oldest(newest: Path, num_kept: int, kept: Collection[int] = ()) -> None:
    """Remove the oldest checkpoints up to `newest`, so that no more than `num_kept` stay beside the steps of `kept`."""
    names = {f"step_{step:08d}" for step in kept}
    older = [path for path in list_checkpoints(newest.parent) if path <= newest and path.name not in names]
    for old in older[: max(0, len(older) - num_kept)]:
        _remove(old)


def _remove(path: Path) -> None:
    """Remove a checkpoint, renamed first, so that a half-removed folder never looks like a checkpoint."""
    shutil.rmtree(path.rename(path.with_name(f".removing_{path.name}")))


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint and verify each of its files.

    Raises:
        InputError: a file is missing, truncated or was changed; the message names it.
    """
    if not path.is_dir():
        raise InputError(f"`checkpoint` {path} does not exist.")
    file = path / "state.json"
    try:
        state = read_json(file, "checkpoint")
        if state.pop("sha256_of_state") != _state_hash(state):
            raise ValueError("its content was changed")
        step, hashes = int(state.pop("step")), dict(state.pop("sha256"))
        if path.name.startswith("step_") and path.name != f"step_{step:08d}":
            raise ValueError(f"it is of step {step}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"`checkpoint` file {file} is damaged: {error}.") from None
    parts = {}
    for name, expected in hashes.items():
        file = path / name
        if not file.is_file():
            raise InputError(f"`checkpoint` file {file} is missing.")
        found = sha256(file)
        if found != expected:
            raise InputError(
                f"`checkpoint` file {file} is damaged: sha256 {found[:12]}..., not {expected[:12]}...."
            )
        try:
            parts[file.stem] = load_file(file)
        except SafetensorError as error:
            raise InputError(f"`checkpoint` file {file} is damaged: {error}.") from None
    return Checkpoint(path.resolve(), step, parts, state, _read_extent(path / "metrics.json"))


def _read_extent(file: Path) -> Extent | None:
    try:
        found = read_json(file, "checkpoint")
        return {"length": int(found["length"]), "sha256": str(found["sha256"])}
    except (InputError, KeyError, TypeError, ValueError):
        return None  # as good as metrics that do not fit: the checkpoint before it is tried


def load_last(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Load the newest whole checkpoint of a folder.

    Returns:
        The checkpoint, or None where none was ever written; and a sentence for each newer one that is damaged.

    Raises:
        InputError: there are checkpoints and all are damaged.
    """
    messages: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return load_checkpoint(path), messages
        except InputError as error:
            messages.append(str(error))
    if messages:
        raise InputError(f"`checkpoints` in {folder} are all damaged: {' '.join(messages)}")
    return None, []


def _state_hash(state: Mapping[str, Any]) -> str:
    return hash_of(json.dumps(state, sort_keys=True).encode())


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    return sorted(folder.glob("step_*"))


def step_of(path: Path) -> int:
    """Return the step of a checkpoint from its place, unread; 0 where a name that we did not make tells none."""
    digits = path.name.removeprefix("step_")
    return int(digits) if digits.isdecimal() else 0


def remove_checkpoint_leftovers(folder: Path) -> int:
    """Remove checkpoints that were being written or removed when their process died; return how many."""
    removing = list(folder.glob(".removing_*"))
    for path in removing:
        shutil.rmtree(path)
    link = folder / ".last"
    found = link.is_symlink()
    link.unlink(missing_ok=True)
    return len(removing) + remove_leftovers(folder) + found


def point_last(folder: Path, target: str) -> bool:
    """Point the link `last` at a checkpoint; return whether it did not."""
    link, aside = folder / "last", folder / ".last"
    if link.is_symlink() and link.readlink() == Path(target):
        return False
    aside.unlink(missing_ok=True)
    aside.symlink_to(target, target_is_directory=True)
    aside.replace(link)
    sync(folder)
    return True
