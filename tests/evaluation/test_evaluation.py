"""Evaluation of a trained run, comparison of runs, scores of a folder, the evidence table; through the command line."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from thermograd.cli import run as command_line
from thermograd.config.resolve import resolve
from thermograd.data import load_dataset
from thermograd.evaluation.compare import compare_runs
from thermograd.evaluation.distances import score_folder
from thermograd.evaluation.evaluate import evaluate_run
from thermograd.evaluation.records import read_records
from thermograd.evaluation.settings import CompareSettings, EvaluationSettings
from thermograd.runs.run import load_run
from thermograd.runs.train import train_run

SMALL = {
    "training.num_epochs": 2,
    "training.num_checkpoints": 5,
    "training.pictures_every": 2,
    "compute.num_threads": 1,
}
QUICK = EvaluationSettings(num_images=40, num_samples=200, num_evidence=3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    config, requested = resolve("digits", overrides=SMALL)
    train_run(config, folder, requested=requested)
    return folder


@pytest.fixture(scope="module")
def record(trained):
    return evaluate_run(load_run(trained), QUICK)


def test_every_number_says_what_it_was_measured_on(record):
    assert (record.dataset, record.split, record.checkpoint) == ("digits", "test", "step_00000022")
    assert (record.seed, record.epoch) == (0, 2)
    assert (record.settings["num_images"], record.settings["num_samples"]) == (40, 200)
    for value in record.values["quantities"].values():
        assert np.isfinite([value["value"], value["standard_error"]]).all()
        assert value["unit"]
    for distance in record.values["distances"]:
        assert len(distance["weights_hash"]) == 64
        assert distance["resize_rule"]
        assert distance["num_fake"] > 0
        assert distance["seed"] == 0
    named = {(d["name"], d["reference"], d["is_floor"]) for d in record.values["distances"]}
    assert {reference for _, reference, _ in named} == {"digits:test"}
    for is_floor in (False, True):
        assert ("fd-classifier-digits", "digits:test", is_floor) in named


def test_two_epochs_of_training_are_far_from_the_floor_of_real_images(record):
    by = {(d["name"], d["is_floor"]): d["value"] for d in record.values["distances"]}
    assert by["fd-classifier-digits", False] > 3 * by["fd-classifier-digits", True]


def test_training_lowers_the_reconstruction_error_and_the_distance(tmp_path, record):
    config, _ = resolve("digits", overrides=SMALL | {"training.num_epochs": 12})
    train_run(config, tmp_path / "longer")
    longer = evaluate_run(load_run(tmp_path / "longer"), QUICK)

    def fd(found):
        return next(d["value"] for d in found.values["distances"] if d["name"] == "fd-classifier-digits")

    def mean(found):
        return found.values["quantities"]["reconstruction_mean_square_error"]["value"]

    assert mean(longer) < 0.8 * mean(record)
    assert fd(longer) < fd(record)


def test_evaluation_is_reproducible_and_a_repeat_replaces_its_record(trained, record):
    again = evaluate_run(load_run(trained), QUICK)
    assert replace(again, values={**again.values, "seconds": 0}) == replace(
        record, values={**record.values, "seconds": 0}
    )
    assert read_records(trained).count(again) == 1
    assert [r.key for r in read_records(trained)].count(record.key) == 1


def test_another_seed_is_another_draw(trained, record):
    other = evaluate_run(
        load_run(trained), EvaluationSettings(num_images=40, num_samples=200, num_evidence=0, seed=1)
    )
    ours, theirs = (each.values["quantities"] for each in (record, other))
    assert theirs["energy_prior"]["value"] != ours["energy_prior"]["value"]
    assert "log_evidence" not in theirs


def test_evaluation_moves_no_weight(trained):
    before = {name: tensor.clone() for name, tensor in load_run(trained).model.state_dict().items()}
    run = load_run(trained)
    evaluate_run(run, QUICK)
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_all_checkpoints_through_the_command_line(trained, capsys):
    words = ["evaluate", str(trained), "--checkpoint", "all", "--num", "20", "--num-samples", "150"]
    assert command_line([*words, "--evidence", "2", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)["records"]
    assert [(r["step"], r["kind"]) for r in records] == [(11, "evaluation"), (22, "evaluation")]


def test_compare_puts_intervals_side_by_side(trained, record, capsys):
    found = compare_runs([trained, trained], CompareSettings(num_images=20, num_evidence=0))
    row = found.quantities["reconstruction_mean_square_error"]["runs"]
    assert row[0] == row[1]
    assert row[0]["low"] < row[0]["value"] < row[0]["high"]
    assert command_line(["compare", str(trained), str(trained), "--num", "20", "--evidence", "0"]) == 0
    assert "reconstruction mean square error" in capsys.readouterr().out


def test_a_real_folder_scores_at_the_floor_and_noise_far_above(tmp_path):
    real = load_dataset("digits", "test").images[:200]
    np.save(tmp_path / "real.npy", real)
    noise = np.random.default_rng(0).integers(0, 256, real.shape, dtype=np.uint8)
    np.save(tmp_path / "noise.npy", noise)
    settings = EvaluationSettings()

    def fd(name):
        found = score_folder(tmp_path / name, "digits:train", settings)["distances"]
        return {d["is_floor"]: d["value"] for d in found if d["name"] == "fd-classifier-digits"}

    assert fd("noise.npy")[False] > 20 * fd("real.npy")[False]
    assert score_folder(tmp_path / "real.npy", "digits:train", settings)["num_images"] == 200


def test_the_evidence_table_and_its_picture(trained, capsys):
    assert (
        command_line(
            ["evidence", str(trained), "--num=4", "--method=thermodynamic", "--evaluations=1600", "--json"]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader(Path(found["files"][0]).read_text().splitlines()))
    assert len(rows) == 4
    mean = sum(float(row["log_evidence"]) for row in rows) / 4
    assert mean == pytest.approx(found["log_evidence"], abs=1e-4)
    for row in rows:
        assert float(row["low"]) <= float(row["log_evidence"]) <= float(row["high"])
        assert row["status"] in ("interval", "range", "lower-bound")
        assert (row["status"] == "interval") == (row["reasons"] == "")
    doubtful = [row for row in rows if row["status"] != "interval"]
    assert found["num_doubtful"] == len(doubtful)
    assert ("no-interval" in {each["kind"] for each in found["warnings"]}) == bool(doubtful)
    assert Path(found["files"][1]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evaluate"], "--images"),
        (["evaluate", "--images", "x.npy"], "--reference"),
        (["evaluate", "--images", "x.npy", "--reference", "digits"], "NAME:train or NAME:test"),
        (["compare"], "at least 2 run folders"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, told, capsys):
    assert command_line(words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_too_few_samples_for_a_frechet_distance_leave_the_kernel_distance(trained, capsys):
    words = ["evaluate", str(trained), "--num", "5", "--num-samples", "30", "--evidence", "0"]
    assert command_line(words) == 0
    printed = capsys.readouterr().out
    assert "kd-classifier-digits" in printed
    assert "reconstruction mean square error" in printed


def test_the_prior_is_measured_in_its_two_parts(trained, record):
    """Posterior draws and samples along the chains, on as many images as the distance needs, at the marks alone."""
    prior = record.values["prior"]
    assert [mark["num_steps"] for mark in prior["marks"]] == [40, 200, 1000]
    found = {(each["images"], each["num_steps"]): each for each in prior["distances"]}
    assert set(found) == {("posterior-train", None), *(("prior", n) for n in (40, 200, 1000))}
    assert all(
        each["num_images"] == 200 for each in found.values()
    )  # 40 test images are too few for a covariance
    run = load_run(trained)
    stored = run.checkpoint.parts["training_state"]["stored"][:, -1, 0]
    with torch.no_grad():
        energy = float(run.model.energy(stored).mean())
    assert prior["energy_posterior"] == pytest.approx(energy)
    assert prior["contrast"] == pytest.approx(energy - prior["marks"][-1]["energy"])
    assert prior["verdict"] in ("settled", "short-run", "not-settled")
    assert prior["is_short_run"] == run.config.prior_chains.is_short_run
    # Two epochs teach the decoder little, but more than the prior: its own draws are nearer to the data.
    assert found["posterior-train", None]["value"] < found["prior", 1000]["value"]
