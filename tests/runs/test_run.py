"""Runs: resumed equals uninterrupted byte for byte, measuring changes nothing, and damage is noticed."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import LADDER
from thermograd.config.schema import RunConfig
from thermograd.errors import InputError, RunError
from thermograd.evaluation.evaluate import evaluate_run
from thermograd.evaluation.records import read_records
from thermograd.evaluation.settings import EvaluationSettings
from thermograd.machine import resolve_device
from thermograd.runs.checkpoint import list_checkpoints, load_checkpoint
from thermograd.runs.metrics import read_metrics
from thermograd.runs.run import load_run
from thermograd.runs.train import train_run
from thermograd.samplers.prior import PriorSource
from thermograd.training.builder import build_model, load_data
from thermograd.training.samples import sample_images
from thermograd.training.trainer import Trainer

QUICK = EvaluationSettings(extractor="none", num_evidence=0)
MakeConfig = Callable[..., RunConfig]

VANILLA: dict[str, Any] = {"posterior_chains.kernel": "ula", "posterior_chains.start": "persistent"}
SWAPS: dict[str, Any] = {
    "gradient.estimator": "stepping-stone-complete",
    "gradient.num_rungs": 4,
    "gradient.num_chains": 2,
    "gradient.schedule.kind": "equal-swap",
    "gradient.schedule.adapt_every": 3,
    "posterior_chains.exchange": True,
    "posterior_chains.start": "persistent",
    "gradient.noise_multiplier": 0.0,
}
NOISY: dict[str, Any] = {
    "gradient.num_chains": 2,
    "gradient.noise_multiplier": 2.0,
    "gradient.clean_second_moments": True,
    "data.binarise": "dynamic",
    "model.likelihood": "bernoulli",
}
# Weights of convolutions are channels-last in memory and contiguous in a checkpoint.
CONVOLUTION: dict[str, Any] = {
    **VANILLA,
    "model.generator.kind": "conv",
    "model.generator.widths": [12],
    "optimiser.ema_decay": 0.99,
    "optimiser.kind": "sgd",
    "optimiser.generator_lr": 1e-5,
}
KINDS = {
    "vanilla": VANILLA,
    "ladder": LADDER | {"optimiser.clip_norm": 50.0},
    "swaps": SWAPS,
    "noisy": NOISY,
    "convolution": CONVOLUTION,
}


def final_files(folder: Path) -> dict[str, bytes]:
    last = (folder / "checkpoints" / "last").resolve()
    return {file.name: file.read_bytes() for file in last.glob("*.safetensors")}


def stop_after(num_steps: int) -> Callable[[], bool]:
    left = [num_steps]

    def stop() -> bool:
        left[0] -= 1
        return left[0] <= 0

    return stop


# --- resumed equals uninterrupted ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    kind: str, tiny_config: MakeConfig, tmp_path: Path
):
    """Weights, averages, optimiser, chains, step sizes, schedule: every byte, after stops at odd steps."""
    config = tiny_config(KINDS[kind])
    assert train_run(config, tmp_path / "whole") == "done"
    states = [train_run(config, tmp_path / "parts", should_stop=stop_after(n)) for n in (1, 4, 2, 99)]
    assert states == ["stopped", "stopped", "stopped", "done"]
    whole, parts = final_files(tmp_path / "whole"), final_files(tmp_path / "parts")
    expected = {"model.safetensors", "training_state.safetensors"}
    assert set(whole) == expected | ({"ema.safetensors"} if config.optimiser.ema_decay else set())
    assert whole == parts

    def measured(name: str) -> list[dict[str, Any]]:
        return [{**record, "seconds": 0} for record in read_metrics(tmp_path / name)]

    # Step 1 is always logged, here as well as in the run that stopped after it.
    assert measured("whole") == measured("parts")


@pytest.mark.parametrize("kind", ["vanilla", "ladder"])
def test_the_state_of_a_resumed_run_matters(kind: str, tiny_config: MakeConfig, tmp_path: Path):
    """The comparison above can fail: without the stored chains the last bytes differ."""
    config = tiny_config(KINDS[kind])
    train_run(config, tmp_path / "whole")
    train_run(config, tmp_path / "parts", should_stop=stop_after(5))
    restore = Trainer.load_tensors

    def forget(self: Trainer, tensors: Any, average: Any) -> None:
        restore(self, {**tensors, "stored": torch.zeros_like(tensors["stored"])}, average)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "load_tensors", forget)
        train_run(config, tmp_path / "parts")
    name = "model.safetensors"
    assert final_files(tmp_path / "whole")[name] != final_files(tmp_path / "parts")[name]


def test_measuring_more_often_does_not_change_training(tiny_config: MakeConfig, tmp_path: Path):
    often = {"training.log_every": 1, "training.checkpoint_every": 1, "training.pictures_every": 1}
    for name, extra in (("seldom", {}), ("often", often)):
        train_run(tiny_config({**LADDER, **extra}), tmp_path / name)
    assert final_files(tmp_path / "seldom") == final_files(tmp_path / "often")
    assert len(read_metrics(tmp_path / "often")) == 12
    assert len(list((tmp_path / "often" / "samples").glob("samples_epoch_*.png"))) == 3


def test_evaluating_and_sampling_in_between_does_not_change_training(tiny_config: MakeConfig, tmp_path: Path):
    config = tiny_config(VANILLA)
    train_run(config, tmp_path / "whole")
    train_run(config, tmp_path / "parts", should_stop=stop_after(5))
    run = load_run(tmp_path / "parts")
    evaluate_run(run, QUICK)
    sample_images(run.model, run.prior_chains, 8, 3)
    torch.rand(7)  # numbers drawn from torch's global stream belong to nobody
    train_run(config, tmp_path / "parts")
    assert final_files(tmp_path / "whole") == final_files(tmp_path / "parts")


def test_the_same_command_again_changes_nothing_in_a_finished_run(tiny_config: MakeConfig, tmp_path: Path):
    config = tiny_config()
    train_run(config, tmp_path / "run")
    before, metrics = final_files(tmp_path / "run"), (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert train_run(config, tmp_path / "run") == "done"
    assert final_files(tmp_path / "run") == before
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics


def test_another_seed_gives_another_model(tiny_config: MakeConfig, tmp_path: Path):
    """THESIS: all five repetitions shared their batches."""
    for seed in (0, 1):
        train_run(tiny_config({"seed": seed}), tmp_path / str(seed))
    assert (
        final_files(tmp_path / "0")["model.safetensors"] != final_files(tmp_path / "1")["model.safetensors"]
    )


@pytest.mark.slow
def test_kill_9_at_ten_random_moments(tmp_path: Path):
    """Ten processes are killed at random moments, before, in and between checkpoints; the eleventh finishes."""
    words = ["--epochs", "12", "--training.checkpoint_every", "2", "--training.pictures_every", "4"]
    words += ["--model.latent_dim", "8", "--model.generator.widths", "[16]", "--training.batch_size", "64"]
    words += ["--data.num_images", "640", "--compute.num_threads", "1", "--prior_chains.num_steps", "5"]
    words += ["--posterior_chains.num_steps", "4"]
    command = [sys.executable, "-c", "from thermograd.cli import main; main()"]

    def train(folder: str) -> list[str]:
        return [*command, "train", "digits", "--out", str(tmp_path / folder), *words]

    subprocess.run(train("whole"), check=True, capture_output=True, timeout=120)
    dice = random.Random(0)
    folder, num_kills = tmp_path / "killed", 0
    while num_kills < 10:
        begun = (folder / "config.yaml").exists()
        process = subprocess.Popen(
            [*command, "resume", str(folder)] if begun else train("killed"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        # Most time goes to starting Python, so moments count from the first sign of training.
        before = (folder / "status.json").stat().st_mtime_ns if (folder / "status.json").exists() else 0
        while process.poll() is None and not (
            (folder / "status.json").exists() and (folder / "status.json").stat().st_mtime_ns > before
        ):
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors.decode()
        num_kills += 1
        last = folder / "checkpoints" / "last"
        if last.is_symlink():
            load_checkpoint(last.resolve())  # `last` is whole after every kill
    progress = json.loads((folder / "status.json").read_text())
    assert progress["state"] == "running"
    assert progress["step"] < progress["num_steps"]
    subprocess.run([*command, "resume", str(folder)], check=True, capture_output=True, timeout=120)
    assert final_files(folder) == final_files(tmp_path / "whole")
    assert json.loads((folder / "status.json").read_text())["state"] == "done"


@pytest.mark.parametrize("survivors", [(), ("requested.yaml",), ("requested.yaml", "environment.json")])
def test_a_run_killed_before_its_config_was_written_can_begin_again(
    survivors: tuple[str, ...], tiny_config: MakeConfig, tmp_path: Path
):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in survivors:
        (folder / name).write_text("{}")
    (folder / ".writing_config.yaml").write_text("pres")
    assert train_run(tiny_config({"training.num_epochs": 1}), folder) == "done"


# --- damage ---


@pytest.fixture
def finished(tiny_config: MakeConfig, tmp_path: Path) -> tuple[RunConfig, Path]:
    """Return the config and the folder of a run with three checkpoints, at steps 4, 8 and 12."""
    config = tiny_config()
    train_run(config, tmp_path / "run")
    return config, tmp_path / "run"


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def change_step(file: Path) -> None:
    file.with_name("state.json").write_text(
        file.with_name("state.json").read_text().replace('"step": 12', '"step": 11')
    )


def drop_hashes(file: Path) -> None:
    state = json.loads(file.with_name("state.json").read_text())
    file.with_name("state.json").write_text(json.dumps({**state, "sha256": {}}))


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink, change_step, drop_hashes])
@pytest.mark.parametrize("part", ["model.safetensors", "training_state.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    damage: Callable[[Path], Any], part: str, finished: tuple[RunConfig, Path]
):
    config, folder = finished
    before = final_files(folder)
    damage(folder / "checkpoints" / "step_00000012" / part)
    messages: list[str] = []
    assert train_run(config, folder, on_message=messages.append) == "done"
    assert messages[0].endswith("images of smooth.npy; CPU, 1 thread, chains in float32.")
    assert str(folder / "checkpoints" / "step_00000012") in messages[1]
    assert "from the checkpoint before it" in messages[1]
    assert messages[2:] == [
        f"2 lines of {folder / 'metrics.jsonl'} after step_00000008 are removed: done again.",
        f"{folder / 'checkpoints' / 'last'} now points at step_00000008.",
        "Going on from step_00000008.",
    ]
    assert final_files(folder) == before


def test_all_checkpoints_damaged_is_bad_input(finished: tuple[RunConfig, Path]):
    config, folder = finished
    for path in list_checkpoints(folder / "checkpoints"):
        truncate(path / "model.safetensors")
    with pytest.raises(InputError, match=r"all damaged.*step_00000012.*step_00000004"):
        train_run(config, folder)
    with pytest.raises(InputError, match="all damaged"):
        load_run(folder)


def test_damaged_newer_checkpoints_do_not_push_out_whole_ones(finished: tuple[RunConfig, Path]):
    """Only `num_checkpoints` are kept, counted from the one just written."""
    config, folder = finished
    for step in (8, 12):
        truncate(folder / "checkpoints" / f"step_{step:08d}" / "model.safetensors")
    assert train_run(config, folder, should_stop=stop_after(1)) == "stopped"
    assert load_checkpoint((folder / "checkpoints" / "last").resolve()).step == 5
    assert [path.name for path in list_checkpoints(folder / "checkpoints")] == [
        "step_00000004",
        "step_00000005",
    ]


def test_checkpoints_are_bounded_and_last_is_whole(tiny_config: MakeConfig, tmp_path: Path):
    config = tiny_config({"training.checkpoint_every": 1, "training.num_checkpoints": 2})
    seen = []

    def look(step: int, num_steps: int, record: dict[str, Any]) -> None:
        folder = tmp_path / "run" / "checkpoints"
        if step > 1:  # the checkpoint of a step is written after it was reported
            seen.append((load_checkpoint((folder / "last").resolve()).step, len(list_checkpoints(folder))))

    train_run(config, tmp_path / "run", on_step=look)
    assert seen == [(step, min(step, 2)) for step in range(1, 12)]


def test_a_torn_last_line_of_metrics_costs_no_record(tiny_config: MakeConfig, tmp_path: Path):
    """A crash can cut a record short; the next one must not be written onto its end."""
    config = tiny_config({"training.log_every": 1})
    train_run(config, tmp_path / "run", should_stop=stop_after(4))
    with (tmp_path / "run" / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"kind": "train", "step": 5, "ep')
    assert [record["step"] for record in read_metrics(tmp_path / "run")] == [1, 2, 3, 4]
    train_run(config, tmp_path / "run")
    assert [record["step"] for record in read_metrics(tmp_path / "run")] == list(range(1, 13))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_another_config_is_refused_and_left_alone(
    finished: tuple[RunConfig, Path], tiny_config: MakeConfig
):
    _, folder = finished
    before = tree(folder)
    with pytest.raises(InputError, match=r"seed 0 there, 3 now; optimiser.prior_lr 0.0002 there, 0.01 now"):
        train_run(tiny_config({"seed": 3, "optimiser.prior_lr": 0.01}), folder)
    assert tree(folder) == before


def test_a_config_edited_by_hand_is_noticed(finished: tuple[RunConfig, Path], tiny_config: MakeConfig):
    """Going on under other settings would be a run that no config describes."""
    _, folder = finished
    other = tiny_config({"model.latent_dim": 5})
    (folder / "config.yaml").write_text(other.to_yaml())
    with pytest.raises(InputError, match=r"config.yaml.*is not the config of that checkpoint"):
        train_run(other, folder)
    with pytest.raises(InputError, match="is not the config of that checkpoint"):
        load_run(folder)


def test_images_that_changed_since_the_run_began_are_noticed(
    images_file: Path, tiny_config: MakeConfig, tmp_path: Path
):
    file = tmp_path / "images.npy"
    shutil.copy(images_file, file)
    config = tiny_config({"data.path": str(file)})
    train_run(config, tmp_path / "run", should_stop=stop_after(3))
    np.save(file, 255 - np.load(images_file))
    with pytest.raises(InputError, match=r"`data` images.npy has changed since"):
        train_run(config, tmp_path / "run")


def test_a_folder_with_other_things_is_not_taken(tiny_config: MakeConfig, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        train_run(tiny_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="is a file"):
        train_run(tiny_config(), tmp_path / "thesis.tex")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_has_one_writer_at_a_time(overwrite: bool, tiny_config: MakeConfig, tmp_path: Path):
    config, folder, refused = tiny_config(), tmp_path / "run", []

    def second(step: int, num_steps: int, record: Any) -> None:
        with pytest.raises(InputError, match="`train` of process"):
            train_run(config, folder, overwrite=overwrite)
        refused.append(step)

    assert train_run(config, folder, on_step=second) == "done"
    assert len(refused) == read_metrics(folder)[-1]["step"]
    assert train_run(config, folder, overwrite=overwrite) == "done"


def test_overwrite_removes_a_run_only_when_another_can_begin(
    finished: tuple[RunConfig, Path], tiny_config: MakeConfig, tmp_path: Path
):
    _, folder = finished
    (folder / "notes.txt").write_text("mine")
    before = tree(folder)
    for bad in ({"data.path": str(tmp_path / "nowhere")}, {"training.batch_size": 99}):
        with pytest.raises(InputError):
            train_run(tiny_config(bad), folder, overwrite=True)
        assert tree(folder) == before
    train_run(tiny_config({"seed": 7, "training.num_epochs": 1}), folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in list_checkpoints(folder / "checkpoints")] == ["step_00000004"]
    assert max(record["step"] for record in read_metrics(folder)) == 4


def test_a_guard_names_the_last_good_checkpoint(tiny_config: MakeConfig, tmp_path: Path):
    """Nothing that is not finite is saved: the weights of the last good checkpoint are those before the update."""
    sgd = {"optimiser.kind": "sgd", "optimiser.generator_lr": 1e38, "training.checkpoint_every": 1}
    with pytest.raises(RunError, match=r"not finite at step 0\. Last good checkpoint: none was written yet"):
        train_run(tiny_config(sgd), tmp_path / "run")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed"
    assert "not finite at step 0" in status["cause"]


def test_a_guard_after_some_steps_names_the_checkpoint_before_it(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def spoil(step: int, num_steps: int, record: dict[str, Any]) -> None:
        if step == 5:
            with torch.no_grad():
                next(trainers[0].model.parameters()).fill_(torch.nan)

    trainers: list[Trainer] = []
    initialise = Trainer.__init__

    def remember(self: Trainer, *arguments: Any) -> None:
        initialise(self, *arguments)
        trainers.append(self)

    monkeypatch.setattr(Trainer, "__init__", remember)
    with pytest.raises(RunError, match=r"is not finite at step 5\. Last good .*step_00000004\."):
        train_run(tiny_config(), tmp_path / "run", on_step=spoil)
    good = load_checkpoint((tmp_path / "run" / "checkpoints" / "last").resolve())
    assert all(tensor.isfinite().all() for tensor in good.parts["model"].values())


# --- what a folder holds, and what is made of it ---


def test_a_run_folder_holds_what_the_design_says(finished: tuple[RunConfig, Path]):
    config, folder = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("config.yaml", "requested.yaml", "environment.json", "metrics.jsonl", "checkpoints", "samples"),
        *("curves.png", "status.json", "README.md", ".lock"),
    }
    facts = json.loads((folder / "environment.json").read_text())
    assert facts["num_threads"] == 1
    assert facts["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert config.identity in (folder / "README.md").read_text()


def test_the_averaged_weights_are_those_sampled_and_evaluated(tiny_config: MakeConfig, tmp_path: Path):
    config = tiny_config(LADDER)
    train_run(config, tmp_path / "run")
    run = load_run(tmp_path / "run")
    average, raw = run.checkpoint.parts["ema"], run.checkpoint.parts["model"]
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, average[name])
    assert any(not torch.equal(average[name], raw[name]) for name in average)
    for name, tensor in run.trainer().model.state_dict().items():
        assert torch.equal(tensor, raw[name])


def test_evaluation_records_what_was_measured_on_what(finished: tuple[RunConfig, Path]):
    """PANG: the error of the last training batch was reported; every record says split, count, seed, epoch."""
    config, folder = finished
    run = load_run(folder)
    first = evaluate_run(run, QUICK)
    again = evaluate_run(run, QUICK)
    for record in (first, again):
        record.values.pop("seconds")  # of the measurement itself
    assert first == again
    evaluate_run(run, QUICK.model_copy(update={"split": "train", "num_images": 1, "num_samples": 1}))
    records = read_records(folder)
    assert [(r.split, r.settings["num_images"]) for r in records] == [("test", 4), ("train", 1)]
    assert first.epoch == 3
    assert first.checkpoint == "step_00000012"
    assert records[1].values["quantities"]["energy_prior"]["standard_error"] is None
    # The reconstruction's error agrees with the likelihood at the same draws: l = -D e / (2 s^2) - constant.
    values, s, size = first.values["quantities"], config.model.noise_std, 64
    error = values["reconstruction_mean_square_error"]["value"]
    expected = -size * error / (2 * s**2) - size / 2 * np.log(2 * np.pi * s**2)
    assert values["log_likelihood_at_posterior_draws"]["value"] == pytest.approx(expected, rel=1e-5)


def test_samples_are_a_function_of_the_seed(finished: tuple[RunConfig, Path]):
    run = load_run(finished[1])
    once, again = (sample_images(run.model, run.prior_chains, 5, 1).images for _ in range(2))
    assert torch.equal(once, again)
    assert not torch.equal(once, sample_images(run.model, run.prior_chains, 5, 2).images)


def test_initial_weights_are_a_function_of_the_seed(tiny_config: MakeConfig):
    state = build_model(tiny_config()).state_dict()
    assert all(
        torch.equal(a, b) for a, b in zip(state.values(), build_model(tiny_config()).state_dict().values())
    )
    other = build_model(tiny_config({"seed": 1})).state_dict()
    assert all(not torch.equal(state[n], other[n]) for n in state if n.endswith("weight"))


def test_images_must_fit_the_model(tiny_config: MakeConfig):
    with pytest.raises(InputError, match=r"`model.image_shape` must be \[1, 8, 8\] for smooth.npy, got"):
        load_data(tiny_config({"model.image_shape": [1, 16, 16]}))


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "meta", "cuda:-1", ""])
def test_unknown_devices_are_bad_input(name: str):
    with pytest.raises(InputError, match=r"`compute\.device`"):
        resolve_device(name)


def test_threads_of_the_first_start_are_used_again(tiny_config: MakeConfig, tmp_path: Path):
    """The number of threads changes the last bits, so a resumed run takes the recorded one."""
    config = tiny_config({"compute.num_threads": None})
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        train_run(config, tmp_path / "run", should_stop=stop_after(1))
        torch.set_num_threads(1)
        train_run(config, tmp_path / "run", should_stop=stop_after(1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_environment_survives_without_git(
    monkeypatch: pytest.MonkeyPatch, tiny_config: MakeConfig, tmp_path: Path
):
    """A fresh machine that installed a wheel may have no git."""
    monkeypatch.setenv("PATH", str(tmp_path))
    train_run(tiny_config({"training.num_epochs": 1}), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["commit"] is None


def test_swap_rates_too_low_are_told_at_the_end_of_an_epoch(tmp_path, tiny_config):
    """Three rungs are too few where the noise is small, and the log of the run says between which two."""
    overrides = {
        "gradient.estimator": "thermodynamic-detached",
        "gradient.num_rungs": 3,
        "gradient.schedule.power": 1,
        "posterior_chains.exchange": True,
        "posterior_chains.kernel": "mala",
        "model.noise_std": 0.05,
        "training.num_epochs": 4,
    }
    messages: list[str] = []
    train_run(tiny_config(overrides), tmp_path / "run", on_message=messages.append)
    ends = [record for record in read_metrics(tmp_path / "run") if record["step"] % 4 == 0]
    low = [record["step"] for record in ends if min(record["swap_rate"]) < 0.05]
    assert len(ends) == 4
    assert low
    told = [line for line in messages if "swap rate" in line]
    assert [line.split(": swap rate")[0] for line in told] == [f"warning: step {step}" for step in low]
    assert all("is below 0.05" in line for line in told)


def test_samples_take_the_chains_and_the_step_size_that_training_left(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    used: list[PriorSource] = []

    def record(model: Any, source: PriorSource, *args: Any) -> Any:
        used.append(source)
        return sample_images(model, source, *args)

    for module in ("runs.train", "evaluation.evaluate"):
        monkeypatch.setattr(f"thermograd.{module}.sample_images", record)
    prior = {
        "prior_chains.kernel": "mala",
        "prior_chains.step_size": 0.01,
        "prior_chains.start": "persistent",
    }
    train_run(tiny_config({**VANILLA, **prior}), tmp_path / "run")
    run = load_run(tmp_path / "run")
    evaluate_run(run, QUICK)
    state = run.checkpoint.parts["training_state"]
    assert float(state["prior_step_size"]) != pytest.approx(0.01)
    for source in used[-2:]:  # the last picture, and the evaluation
        assert torch.equal(source.step_size, state["prior_step_size"])
        assert torch.equal(source.stored, state["stored_prior"])


def test_a_run_that_goes_on_on_another_device_is_told(tiny_config: MakeConfig, tmp_path: Path):
    config, messages = tiny_config(VANILLA), []
    train_run(config, tmp_path / "run", should_stop=stop_after(2))
    train_run(config, tmp_path / "run", should_stop=stop_after(1), on_message=messages.append)
    assert not [line for line in messages if "begun on" in line]
    file = tmp_path / "run" / "environment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "device": "cuda:0"}))
    train_run(config, tmp_path / "run", on_message=messages.append)
    (line,) = [line for line in messages if "begun on" in line]
    assert line.startswith("warning: this run was begun on cuda and continues on cpu")
