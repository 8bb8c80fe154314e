"""Going on: more epochs on a finished run, and settings that may change on the way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_run import KINDS, tree

from thermograd.cli import run as command
from thermograd.config.schema import RunConfig, TrainingConfig
from thermograd.errors import InputError
from thermograd.evaluation.clock import train_measured
from thermograd.evaluation.records import read_records
from thermograd.runs.folder import read_config, read_status
from thermograd.runs.metrics import read_metrics
from thermograd.runs.train import train_run
from thermograd.training.trainer import Trainer

MakeConfig = Callable[..., RunConfig]
ALLOWED = {
    "log_every": 1,
    "checkpoint_every": 2,
    "num_checkpoints": 5,
    "pictures_every": 2,
    "zero_gradient_steps": 9,
    "largest_latent": 500.0,
}


def last_checkpoint(folder: Path) -> dict[str, bytes]:
    last = (folder / "checkpoints" / "last").resolve()
    return {
        f"{last.name}/{file.name}": file.read_bytes()
        for file in last.iterdir()
        if file.name != "metrics.json"
    }


def records(folder: Path) -> list[dict[str, Any]]:
    return [{**record, "seconds": 0} for record in read_metrics(folder)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_for_longer_equals_the_longer_run(
    kind: str, tiny_config: MakeConfig, tmp_path: Path
):
    """Weights, averages, optimiser, chains, schedules, state.json and metrics: every byte but the seconds."""
    for folder, lengths in (("parts", (1, 3)), ("whole", (3,))):
        for num_epochs in lengths:
            config = tiny_config({**KINDS[kind], "training.num_epochs": num_epochs})
            assert train_run(config, tmp_path / folder) == "done"
    assert last_checkpoint(tmp_path / "parts") == last_checkpoint(tmp_path / "whole")
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    assert read_config(tmp_path / "parts").training.num_epochs == 3
    assert read_status(tmp_path / "parts")["num_steps"] == 12


def test_four_epochs_continued_to_eight_equal_eight_and_so_does_what_is_measured(
    tiny_config: MakeConfig, tmp_path: Path
):
    measure = {"every": "2 epochs", "num_images": 4, "num_samples": 30, "extractor": "none"}

    def config(num_epochs: int) -> RunConfig:
        return tiny_config({**KINDS["ladder"], "training.num_epochs": num_epochs, "measure": measure})

    def measured(folder: str) -> list[Any]:
        return [
            (each.step, each.kind, each.split, {**each.values, "seconds": 0})
            for each in read_records(tmp_path / folder)
        ]

    for folder, num_epochs in (("parts", 4), ("parts", 8), ("whole", 8)):
        assert train_measured(config(num_epochs), tmp_path / folder) == "done"
    assert last_checkpoint(tmp_path / "parts") == last_checkpoint(tmp_path / "whole")
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    assert measured("parts") == measured("whole")
    assert {each[0] for each in measured("parts")} == {8, 16, 24, 32}


def test_a_rate_that_depended_on_the_total_would_be_seen(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The comparisons above can fail: a rate that reaches 0 at the end gives other bytes."""
    update = Trainer._update

    def annealed(self: Trainer, gradient: Any, clean: Any, step: int, epoch: int) -> Any:
        share = 1 - epoch / self.config.training.num_epochs
        for group in self.optimiser.param_groups:
            group["initial_lr"] = 1e-3 * share
        return update(self, gradient, clean, step, epoch)

    monkeypatch.setattr(Trainer, "_update", annealed)
    for folder, num_epochs in (("parts", 2), ("parts", 3), ("whole", 3)):
        train_run(tiny_config({"training.num_epochs": num_epochs}), tmp_path / folder)
    assert last_checkpoint(tmp_path / "parts") != last_checkpoint(tmp_path / "whole")


def test_settings_that_change_no_trained_number_are_never_refused(tiny_config: MakeConfig, tmp_path: Path):
    assert set(ALLOWED) == set(TrainingConfig.CHANGES_NO_NUMBER)
    before, folder = tiny_config(), tmp_path / "run"
    train_run(tiny_config({"training.num_epochs": 1}), folder)
    for name, value in ALLOWED.items():
        changed = tiny_config({f"training.{name}": value})
        assert (changed.identity, changed.trajectory) == (before.identity, before.trajectory)
        assert train_run(changed, folder) == "done"
        assert read_config(folder) == changed
    train_run(before, tmp_path / "whole")
    assert last_checkpoint(folder) == last_checkpoint(tmp_path / "whole")


def test_fewer_epochs_than_a_run_has_are_refused_and_nothing_is_written(
    tiny_config: MakeConfig, tmp_path: Path
):
    train_run(tiny_config(), tmp_path / "run")
    before = tree(tmp_path / "run")
    with pytest.raises(
        InputError, match=r"`training.num_epochs` 2 is less than the 3 epochs that the run in "
    ):
        train_run(tiny_config({"training.num_epochs": 2}), tmp_path / "run")
    assert tree(tmp_path / "run") == before
    assert train_run(tiny_config({"training.num_epochs": 2}), tmp_path / "run", overwrite=True) == "done"


def test_resume_takes_more_epochs_and_refuses_what_trains_otherwise(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "run"
    train_run(tiny_config({"training.num_epochs": 1}), folder)
    before = tree(folder)
    assert command(["resume", str(folder), "--optimiser.prior_lr", "1"]) == 2
    assert "optimiser.prior_lr 0.0002 there, 1.0 now" in capsys.readouterr().err
    assert tree(folder) == before
    words = ["resume", str(folder), "--epochs", "2", "--training.log_every", "1", "--no-measure"]
    assert command(words) == 0
    assert read_status(folder)["step"] == 8
