"""Checkpoints that are whole or absent: written aside, synced, renamed, and verified when loaded.

A checkpoint is a folder `step_00001000` with one safetensors file a part (`model`, `training_state`, and `ema` where
weights are averaged) and `state.json` with the sha256 of each. `last` is a link that always points at a whole one.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from thermograd.errors import InputError
from thermograd.files import sha256, sync

Parts = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        path: its folder.
        step: training steps done.
        parts: tensors by name, for each part.
        state: what else was saved.
    """

    path: Path
    step: int
    parts: Parts
    state: dict[str, Any]


def save_checkpoint(folder: Path, step: int, parts: Parts, state: Mapping[str, Any], num_kept: int) -> Path:
    """Write a checkpoint, point `last` at it and remove the oldest beyond `num_kept`."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step_{step:08d}"
    aside = folder / f".writing_{final.name}"
    for leftover in (*folder.glob(".writing_*"), *folder.glob(".removing_*")):
        shutil.rmtree(leftover)
    aside.mkdir()
    hashes = {}
    for part, tensors in parts.items():
        file = aside / f"{part}.safetensors"
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)
        sync(file)
        hashes[file.name] = sha256(file)
    whole = {"step": step, **state, "sha256": hashes}
    (aside / "state.json").write_text(json.dumps({**whole, "sha256_of_state": _state_hash(whole)}, indent=1))
    sync(aside / "state.json")
    sync(aside)
    if final.exists():
        shutil.rmtree(final)
    aside.rename(final)
    _point(folder / "last", final.name)
    sync(folder)
    # What is newer was damaged, or training had gone on from it; it must not push out the whole ones.
    present = list_checkpoints(folder)
    newest = present.index(final)
    for old in (*present[: max(0, newest + 1 - num_kept)], *present[newest + 1 :]):
        # A rename first, so that a half-removed folder never looks like a checkpoint.
        shutil.rmtree(old.rename(folder / f".removing_{old.name}"))
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint and verify each of its files.

    Raises:
        InputError: a file is missing, truncated or was changed; the message names it.
    """
    if not path.is_dir():
        raise InputError(f"`checkpoint` {path} does not exist.")
    file = path / "state.json"
    try:
        state = json.loads(file.read_text())
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
    return Checkpoint(path.resolve(), step, parts, state)


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
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    return sorted(folder.glob("step_*"))


def _point(link: Path, target: str) -> None:
    aside = link.with_name(f".{link.name}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target, target_is_directory=True)
    aside.replace(link)
