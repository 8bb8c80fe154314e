"""Checkpoints are whole or absent."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from thermograd.errors import InputError
from thermograd.files import write_atomically
from thermograd.runs import checkpoint
from thermograd.runs.checkpoint import list_checkpoints, load_checkpoint, load_last, save_checkpoint


def save(folder: Path, step: int, num_kept: int = 3) -> Path:
    strided = torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1)
    parts = {"model": {"w": strided + step}, "training_state": {"n": torch.tensor(step, dtype=torch.int64)}}
    return save_checkpoint(folder, step, parts, {"epoch": 0}, num_kept)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path):
    loaded = load_checkpoint(save(tmp_path, 7))
    assert loaded.step == 7
    assert loaded.state == {"epoch": 0}
    expected = torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1) + 7
    assert torch.equal(loaded.parts["model"]["w"], expected)
    assert loaded.parts["training_state"]["n"].dtype == torch.int64


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path):
    one, two = save(tmp_path / "a", 3), save(tmp_path / "b", 3)
    for name in ("model.safetensors", "training_state.safetensors", "state.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_the_oldest_are_removed(tmp_path: Path):
    for step in (1, 2, 30, 100):
        save(tmp_path, step, num_kept=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000030", "step_00000100"]
    assert (tmp_path / "last").resolve().name == "step_00000100"
    assert not list(tmp_path.glob(".*"))


CALLS = {"save_file": 2, "sync": 7, "sha256": 2, "point_last": 1}
"""How often a save of two parts calls each function that writes or reads."""


@pytest.mark.parametrize("call", range(7))
@pytest.mark.parametrize("stage", CALLS)
def test_a_crash_at_any_stage_leaves_a_whole_last(
    stage: str, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The n-th call of each function that writes dies; what was there stays, and the next save succeeds."""
    save(tmp_path, 1)
    original: Callable = getattr(checkpoint, stage)
    left = [call]

    def dies(*arguments: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(checkpoint, stage, dies)
    if call < CALLS[stage]:
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2)
    else:
        save(tmp_path, 2)
    monkeypatch.undo()
    assert load_checkpoint((tmp_path / "last").resolve()).step in (1, 2)
    found, messages = load_last(tmp_path)
    assert found is not None
    assert messages == []
    save(tmp_path, 3)
    assert load_checkpoint((tmp_path / "last").resolve()).step == 3
    assert not list(tmp_path.glob(".*"))


def test_a_folder_without_checkpoints(tmp_path: Path):
    assert load_last(tmp_path / "none") == (None, [])
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(tmp_path / "none")


def test_a_checkpoint_of_another_step_is_damaged(tmp_path: Path):
    """A folder that was renamed would put training at the wrong place."""
    path = save(tmp_path, 4)
    with pytest.raises(InputError, match="it is of step 4"):
        load_checkpoint(path.rename(tmp_path / "step_00000005"))


def test_a_text_file_is_written_whole(tmp_path: Path):
    write_atomically(tmp_path / "a.json", "one")
    write_atomically(tmp_path / "a.json", "two")
    assert (tmp_path / "a.json").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
