"""Runs that begin with the weights of another run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_run import final_files, tree

from thermograd.cli import run as command
from thermograd.config.resolve import resolve
from thermograd.config.schema import RunConfig
from thermograd.config.start import START
from thermograd.errors import InputError
from thermograd.runs.folder import open_config
from thermograd.runs.run import load_run
from thermograd.runs.train import train_run
from thermograd.training.trainer import Trainer

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def first(tiny_config: MakeConfig, tmp_path: Path) -> Path:
    """Return the folder of a run with averaged weights and checkpoints at steps 4 and 8."""
    train_run(tiny_config({"training.num_epochs": 2, "optimiser.ema_decay": 0.9}), tmp_path / "first")
    return tmp_path / "first"


@pytest.mark.parametrize("name", [None, "step_00000004"])
def test_a_run_begins_with_the_weights_that_load_run_gives(
    name: str | None, first: Path, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = []
    step = Trainer.step

    def look(self: Trainer, *arguments: object) -> object:
        seen.append({key: value.clone() for key, value in self.model.state_dict().items()})
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "step", look)
    config = tiny_config({"start_from": str(first) + ("" if name is None else f"@{name}"), "seed": 1})
    train_run(config, tmp_path / "second")
    expected = load_run(first, name).model.state_dict()
    assert all(torch.equal(seen[0][key], expected[key]) for key in expected)
    assert config.start_from is not None
    assert config.start_from.checkpoint == (name or "step_00000008")
    assert f"began with the weights of {config.start_from}" in (tmp_path / "second" / "README.md").read_text()
    assert open_config(tmp_path / "second") == config


def test_the_weights_are_the_runs_own_wherever_the_other_lies_and_whatever_becomes_of_it(
    first: Path, tiny_config: MakeConfig, tmp_path: Path
):
    here = tiny_config({"start_from": str(first)})
    shutil.copytree(first, tmp_path / "moved", symlinks=True)
    moved = tiny_config({"start_from": f"{tmp_path / 'moved'}@step_00000008"})
    other = tiny_config({"start_from": f"{first}@step_00000004"})
    assert here.identity == moved.identity != other.identity != tiny_config().identity
    train_run(here, tmp_path / "whole")
    train_run(moved, tmp_path / "parts", should_stop=lambda: True)
    shutil.rmtree(tmp_path / "moved")
    shutil.rmtree(tmp_path / "parts" / "checkpoints")  # it begins anew, from its own copy
    assert train_run(open_config(tmp_path / "parts"), tmp_path / "parts") == "done"
    assert final_files(tmp_path / "parts") == final_files(tmp_path / "whole")
    (tmp_path / "parts" / START).write_bytes(b"x")  # needed no more
    assert train_run(open_config(tmp_path / "parts"), tmp_path / "parts") == "done"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere", r"`start_from` nowhere is not a run folder"),
        ("first@step_00000099", r"has no checkpoint 'step_00000099'; it has step_00000004, step_00000008\."),
    ],
)
def test_what_is_no_run_or_checkpoint_is_refused(
    text: str, message: str, first: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(first.parent)
    with pytest.raises(InputError, match=message):
        resolve("digits", overrides={"start_from": text})


def test_weights_of_another_network_or_that_changed_are_refused_and_nothing_is_written(
    first: Path, tiny_config: MakeConfig, tmp_path: Path
):
    wider = tiny_config({"start_from": str(first), "model.latent_dim": 5})
    config = tiny_config({"start_from": str(first)})
    before = tree(tmp_path)
    with pytest.raises(
        InputError, match=r"is of another network: energy_\S+ has shape \(8, 4\) there, \(8, 5\) here"
    ):
        train_run(wider, tmp_path / "second")
    file = config.start_from.file()  # type: ignore[union-attr]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="its weights are gone or were changed"):
        train_run(config, tmp_path / "second")
    assert [name for name in tree(tmp_path) if name not in before and not name.endswith(".lock")] == []


def test_train_takes_from(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        "digits",
        "--config",
        "first/config.yaml",
        "--from",
        "first@step_00000004",
        "--out",
        "second",
    ]
    assert command([*words, "--epochs", "1", "--no-measure"]) == 0
    assert "It begins with the weights of" in capsys.readouterr().err
    assert (tmp_path / "second" / START).read_bytes() == (
        first / "checkpoints" / "step_00000004" / "ema.safetensors"
    ).read_bytes()
