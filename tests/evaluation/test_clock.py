"""The clock: it strikes when it should, measures both splits at one step, changes no training, and costs no run."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import LADDER
from thermograd import cli
from thermograd.config.measure import MeasureConfig
from thermograd.config.resolve import validate
from thermograd.config.schema import RunConfig
from thermograd.data import to_tensor
from thermograd.errors import InputError
from thermograd.evaluation import clock, evaluate
from thermograd.evaluation.clock import measure_checkpoint, measure_run, train_measured
from thermograd.evaluation.records import FILE, Record, measured_steps, read_records
from thermograd.gradients.reference import ReferenceSettings
from thermograd.runs.checkpoint import list_checkpoints
from thermograd.runs.run import Run, load_run
from thermograd.runs.train import train_run
from thermograd.training.builder import load_data

MakeConfig = Callable[..., RunConfig]
QUICK: dict[str, Any] = {
    "measure.every": "2 epochs",
    "measure.keep": "measured",
    "measure.num_batches": 3,
    "measure.num_repeats": 2,
    "measure.num_samples": 10,
    "measure.extractor": "none",
}
KINDS: dict[str, dict[str, Any]] = {
    "persistent": {"posterior_chains.start": "persistent", "measure.keep_gradient": True},
    "ladder": LADDER,
    "noisy": {
        "gradient.num_chains": 2,
        "gradient.noise_multiplier": 2.0,
        "gradient.clean_second_moments": True,
        "data.binarise": "dynamic",
        "model.likelihood": "bernoulli",
    },
}


def last_files(folder: Path) -> dict[str, str]:
    last = (folder / "checkpoints" / "last").resolve()
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(last.glob("*.safetensors"))
    }


def found(folder: Path, step: int, split: str, kind: str = "variance") -> Record:
    (record,) = [r for r in read_records(folder) if (r.step, r.split, r.kind) == (step, split, kind)]
    return record


def without_times(folder: Path) -> list[Record]:
    records = read_records(folder)
    for record in records:
        record.values.pop("seconds", None)
    return records


# --- when ---


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ("2 epochs", [8, 16, 24]),
        ("1 epoch", [4, 8, 12, 16, 20, 24]),
        ("5 epochs", [20, 24]),
        ("9 steps", [9, 18, 24]),
        ("auto", [4, 8, 12, 16, 20, 24]),
        (None, [24]),
        ("none", [24]),
    ],
)
def test_the_steps_of_a_clock_end_with_the_run(every: str | None, steps: list[int]):
    measure = validate(MeasureConfig, {"every": every})
    assert measure.steps(6, 4) == steps
    assert measure.steps(60, 4)[-1] == 240


def test_auto_measures_five_times():
    assert MeasureConfig().steps(201, 10) == [400, 800, 1200, 1600, 2000, 2010]
    assert MeasureConfig().steps(35, 39) == [273, 546, 819, 1092, 1365]
    assert MeasureConfig().steps(1, 39) == [39]


@pytest.mark.parametrize(
    "every", ["0 epochs", "10", 10, "ten epochs", "1.5 epochs", "3 weeks", "-1 steps", True, ""]
)
def test_a_clock_of_another_form_is_one_line(every: Any):
    with pytest.raises(
        InputError, match="`every` must be like '10 epochs' or '500 steps', auto or none, got"
    ):
        validate(MeasureConfig, {"every": every})


@pytest.mark.parametrize("every", ["3 epochs", "12 steps", "500 steps"])
def test_a_clock_that_never_strikes_is_refused_before_anything_is_written(
    every: str, tiny_config: MakeConfig, tmp_path: Path
):
    with pytest.raises(
        InputError, match=f"`measure.every` {every} never comes in a run of 3 epochs of 4 steps"
    ):
        train_measured(tiny_config({**QUICK, "measure.every": every}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- nothing changes, nothing is lost ---


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_to_the_byte_measured_or_not(kind: str, tiny_config: MakeConfig, tmp_path: Path):
    config = tiny_config({**QUICK, **KINDS[kind]})
    train_run(config, tmp_path / "plain")
    assert train_measured(config, tmp_path / "measured") == "done"
    assert last_files(tmp_path / "plain") == last_files(tmp_path / "measured")
    assert measured_steps(tmp_path / "measured") == {8, 12}
    assert not (tmp_path / "plain" / FILE).exists()
    # What is measured later is what would have been measured on the way.
    measure_run(tmp_path / "plain")
    assert without_times(tmp_path / "plain") == without_times(tmp_path / "measured")


def test_a_run_stopped_at_a_break_has_the_measurements_of_an_undisturbed_one(
    tiny_config: MakeConfig, tmp_path: Path
):
    config = tiny_config(QUICK)
    train_measured(config, tmp_path / "whole")
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps == 8

    assert train_measured(config, tmp_path / "parts", should_stop=stop) == "stopped"
    assert measured_steps(tmp_path / "parts") == set()
    assert train_measured(config, tmp_path / "parts") == "done"
    assert last_files(tmp_path / "whole") == last_files(tmp_path / "parts")
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "parts")


def test_a_measurement_or_picture_that_fails_costs_nothing_and_is_tried_again(
    tiny_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    config = tiny_config(QUICK)
    train_measured(config, tmp_path / "whole")

    def fail(*arguments: Any) -> Any:
        raise OSError(28, "No space left on device")

    messages: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "measure_checkpoint", fail)
        patch.setattr("thermograd.runs.train.save_png", fail)
        assert train_measured(config, tmp_path / "run", on_message=messages.append) == "done"
    warnings = [line for line in messages if line.startswith("warning: ")]
    assert [line.split(" failed: ")[0] for line in warnings] == [
        "warning: measurement of step_00000008",
        "warning: pictures of epoch 3",
        "warning: measurement of step_00000012",
    ]
    assert all("the disk is full" in line for line in warnings)
    assert f"thermograd measure {tmp_path / 'run'}` tries again" in warnings[0]
    assert last_files(tmp_path / "run") == last_files(tmp_path / "whole")
    assert measured_steps(tmp_path / "run") == set()
    assert cli.run(["measure", str(tmp_path / "run")]) == 0
    assert "Measuring step_00000008." in capsys.readouterr().err
    assert without_times(tmp_path / "run") == without_times(tmp_path / "whole")


def test_measured_checkpoints_are_kept_unless_the_last_alone_are_wanted(
    tiny_config: MakeConfig, tmp_path: Path
):
    few = {**QUICK, "measure.every": "1 epoch", "training.checkpoint_every": 1, "training.num_checkpoints": 2}
    kept = {}
    for keep in ("measured", "last"):
        train_run(tiny_config({**few, "measure.keep": keep}), tmp_path / keep)
        kept[keep] = [int(path.name[5:]) for path in list_checkpoints(tmp_path / keep / "checkpoints")]
    assert kept == {"measured": [4, 8, 10, 11, 12], "last": [11, 12]}


# --- what ---


@pytest.fixture(scope="module")
def persistent(tiny_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clock") / "persistent"
    more = {"measure.estimators": ["thermodynamic-complete"], "measure.by_rung": True}
    train_measured(tiny_config({**QUICK, **KINDS["persistent"], **more}), folder)
    return folder


def test_both_splits_are_measured_by_one_definition_and_the_record_says_which(persistent: Path):
    train, test = (found(persistent, 8, split) for split in ("train", "test"))
    # 36 training images in batches of 8 as in training; the test split has 4, which is all of a batch.
    assert (train.settings["batch_size"], test.settings["batch_size"]) == (8, 4)
    for record in (train, test):
        assert (record.source, record.epoch, record.seed, record.dataset) == ("clock", 2, 0, "smooth.npy")
        for sampled in record.settings["estimators"].values():
            assert sampled["posterior_chains"]["start"] == "base"
            assert sampled["posterior_chains"]["num_steps"] == 20
        for place, has_batches in (("fixed", False), ("estimators", True)):
            assert list(record.values[place]) == ["maximum-likelihood", "thermodynamic-complete"]
            for each in record.values[place].values():
                for part in ("generator", "prior", "total"):
                    chains = each["blocks"][part]["chain_variance"]
                    assert chains["value"] > 0
                    assert (chains["low"] is not None) == has_batches  # intervals are over batches
                    assert ("batch_variance" in each["blocks"][part]) == has_batches
                assert each["rungs"]
    own = train.values["as_trained"]["maximum-likelihood"]["blocks"]["total"]["chain_variance"]["value"]
    assert (
        0
        < own
        != train.values["estimators"]["maximum-likelihood"]["blocks"]["total"]["chain_variance"]["value"]
    )
    assert test.values["as_trained"] is None
    gradient = load_file(persistent / train.values["gradient"])
    shapes = {name: tensor.shape for name, tensor in load_run(persistent).model.named_parameters()}
    assert {name: tensor.shape for name, tensor in gradient.items()} == shapes
    assert sum(float(tensor.norm()) for tensor in gradient.values()) > 0


@pytest.mark.parametrize("kind", ["persistent", "ladder"])
def test_the_bias_of_the_runs_own_chains_is_measured_where_asked(
    kind: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    short = ReferenceSettings(num_rungs=3, num_burn_in=10, num_steps=20, every=5)
    monkeypatch.setattr("thermograd.evaluation.clock.ReferenceSettings", lambda: short)
    asked = {"measure.chain_bias": True, "measure.every": "none", "training.num_epochs": 2}
    train_measured(tiny_config({**QUICK, **KINDS[kind], **asked}), tmp_path)
    bias = found(tmp_path, 8, "train").values["chain_bias"]
    told = bias["log_likelihood_bias"]
    assert told["low"] < told["value"] < told["high"]
    assert bias["blocks"]["total"]["relative_draw_variance"]["value"] > 0
    assert bias["reference"]["num_rungs"] == 3
    assert found(tmp_path, 8, "test").values["chain_bias"] is None


def test_the_fixed_batch_is_one_for_all_steps_and_fresh_ones_are_new(
    persistent: Path, monkeypatch: pytest.MonkeyPatch
):
    drawn: dict[str, np.ndarray] = {}
    plain = clock.random_batches

    def note(num: int, size: int, count: int, seed: int, name: str) -> np.ndarray:
        drawn[f"{name}, {count}"] = plain(num, size, count, seed, name)
        return drawn[f"{name}, {count}"]

    monkeypatch.setattr(clock, "random_batches", note)
    run = load_run(persistent)
    measure_checkpoint(run)
    measure_checkpoint(load_run(persistent, "step_00000008"))
    assert sorted(drawn) == sorted(
        [f"measure-fixed-{split}, 1" for split in ("train", "test")]
        + [f"measure-{split}-{step}, 3" for split in ("train", "test") for step in (8, 12)]
    )
    assert not np.array_equal(drawn["measure-train-8, 3"], drawn["measure-train-12, 3"])


def images_are_those_of_their_split(run: Run, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Measure a run and return whether every image that was looked at belongs to the split of the record."""
    seen: list[torch.Tensor] = []
    plain = clock.batch_images

    def note(*arguments: Any) -> torch.Tensor:
        seen.append(plain(*arguments))
        return seen[-1]

    right = True
    for split in ("train", "test"):
        with monkeypatch.context() as patch:
            seen.clear()
            patch.setattr(clock, "batch_images", note)
            patch.setattr(evaluate, "batch_images", note)
            clock.measure_gradient(run, split, run.config.measure)
            evaluate.evaluate_run(
                run, evaluate.EvaluationSettings(split=split, num_evidence=0, extractor="none")
            )
        own = {image.numpy().tobytes() for image in to_tensor(load_data(run.config, split).images)}
        assert seen
        right &= all(image.numpy().tobytes() in own for x in seen for image in x)
    return right


def test_a_swapped_split_is_seen(persistent: Path, monkeypatch: pytest.MonkeyPatch):
    run = load_run(persistent)
    assert images_are_those_of_their_split(run, monkeypatch)
    data = Run.data
    swapped = {"train": "test", "test": "train"}
    monkeypatch.setattr(Run, "data", lambda self, split="train": data(self, swapped[split]))
    monkeypatch.setattr(
        Run, "trainer", lambda self, trainer=run.trainer(): trainer
    )  # whose chains need the right count
    assert not images_are_those_of_their_split(run, monkeypatch)


def test_the_added_noise_of_a_run_is_part_of_its_gradient(tiny_config: MakeConfig, tmp_path: Path):
    """c adds c^2 times the chain variance: 5 times as much at c = 2, here from 3 x 40 repeats."""
    chains = []
    for multiplier in (0.0, 2.0):
        noise = {"gradient.num_chains": 2, "gradient.noise_multiplier": multiplier, "measure.num_repeats": 40}
        # Learning rates of nothing: both runs are measured at the same weights.
        still = {"optimiser.prior_lr": 1e-30, "optimiser.generator_lr": 1e-30, "training.num_epochs": 1}
        folder = tmp_path / str(multiplier)
        config = tiny_config({**QUICK, "measure.every": "none", **noise, **still})
        train_run(config, folder)
        record = clock.measure_gradient(load_run(folder), "train", config.measure)
        blocks = record.values["estimators"]["maximum-likelihood"]["blocks"]
        chains.append({name: blocks[name]["chain_variance"]["value"] for name in ("generator", "prior")})
    for name in ("generator", "prior"):
        assert chains[1][name] / chains[0][name] == pytest.approx(5, rel=0.3)


def test_measuring_is_no_part_of_a_runs_identity_and_may_change(tiny_config: MakeConfig, tmp_path: Path):
    one, other = tiny_config(QUICK), tiny_config({**QUICK, "measure.num_repeats": 5})
    assert one.identity == other.identity != tiny_config({"gradient.num_chains": 2}).identity
    train_run(one, tmp_path / "run")
    assert train_run(other, tmp_path / "run") == "done"
    assert load_run(tmp_path / "run").config == other


def test_measure_all_measures_kept_checkpoints_by_other_settings(
    persistent: Path, capsys: pytest.CaptureFixture[str]
):
    before = read_records(persistent)
    assert cli.run(["measure", str(persistent)]) == 0
    assert "All breaks are measured" in capsys.readouterr().out
    words = ["--all", "--estimator", "stepping-stone-complete", "--repeats", "3", "--json"]
    assert cli.run(["measure", str(persistent), *words]) == 0
    records = json.loads(capsys.readouterr().out)["records"]
    assert [(r["step"], r["split"], r["kind"]) for r in records] == [
        (step, split, kind)
        for step in (4, 8, 12)
        for split in ("train", "test")
        for kind in ("variance", "evaluation")
    ]
    new = [r for r in read_records(persistent, "variance") if r.settings["num_repeats"] == 3]
    assert all(list(r.values["estimators"]) == ["maximum-likelihood", "stepping-stone-complete"] for r in new)
    assert len(read_records(persistent)) == len(before) + 6 + 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"measure.num_batches": 2}, "`measure.num_batches` must be greater than or equal to 3, got 2."),
        ({"measure.num_repeats": 1}, "`measure.num_repeats` must be greater than or equal to 2, got 1."),
        ({"measure.repeat": 3}, "`measure.repeat` is not a setting"),
        ({"measure.estimators": ["detached"]}, "`measure.estimators.0` 'detached' is not a known estimator"),
    ],
)
def test_bad_settings_are_one_line_before_anything_is_trained(
    more: dict[str, Any], said: str, tiny_config: MakeConfig, tmp_path: Path
):
    with pytest.raises(InputError) as caught:
        train_measured(tiny_config(more), tmp_path / "run")
    assert str(caught.value).startswith(said)
    assert not (tmp_path / "run").exists()
