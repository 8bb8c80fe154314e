"""Two models on the same images: the log Bayes factor holds the truth, paired differences are those of the images."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import thermograd as tg
from thermograd.cli import run as command_line
from thermograd.config.schema import RunConfig
from thermograd.errors import InputError
from thermograd.evaluation.compare import compare_runs
from thermograd.evaluation.evaluate import posterior_scores
from thermograd.evaluation.settings import CompareSettings
from thermograd.evidence import Evidence, EvidenceSettings, bayes_factor, estimate_evidence
from thermograd.runs.run import load_run
from thermograd.runs.train import train_run

REPEATS, IMAGES = 1000, 2


def part(evidence: Evidence, index: slice) -> Evidence:
    """Return the evidence of some of the images."""
    tensors = ("log_evidence", "low", "high", "quadrature_error")
    return replace(
        evidence,
        **{name: getattr(evidence, name)[index] for name in tensors},
        status=evidence.status[index],
        reasons=evidence.reasons[index],
        replicates=evidence.replicates[:, index],
    )


@pytest.fixture(scope="module")
def twins() -> tuple[Evidence, Evidence, torch.Tensor]:
    """Return 1,000 repeats of the evidence of two images under two models, and their true log Bayes factors (B,).

    Repeats stand side by side as images of one batch: by this method no two images share a random number.
    """
    models = [
        tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=scale, seed=seed)
        for seed, scale in ((0, 0.5), (1, 0.7))
    ]
    x = models[0].sample_images(IMAGES, torch.Generator().manual_seed(1))
    settings = EvidenceSettings(num_evaluations=200, num_bank=400)
    first, second = (
        estimate_evidence(
            model, x.repeat(REPEATS, 1), settings, generator=torch.Generator().manual_seed(2 + i)
        )
        for i, model in enumerate(models)
    )
    with torch.no_grad():
        truth = (models[0].log_evidence(x) - models[1].log_evidence(x)).double()
    return first, second, truth


def test_intervals_of_a_log_bayes_factor_hold_the_truth_in_95_percent(twins):
    """Of each image, and of both together, in 93 to 97 % of 1,000 repeats."""
    first, second, truth = twins
    found = bayes_factor(first, second)
    inside = (found.low <= truth.repeat(REPEATS)) & (truth.repeat(REPEATS) <= found.high)
    for image in range(IMAGES):
        assert 0.93 <= inside[image::IMAGES].double().mean() <= 0.97
    totals = [
        bayes_factor(*(part(each, slice(IMAGES * i, IMAGES * (i + 1))) for each in (first, second)))
        for i in range(REPEATS)
    ]
    held = [abs(each.total - float(truth.sum())) <= each.error for each in totals]
    assert 0.93 <= sum(held) / REPEATS <= 0.97
    half_as_wide = [abs(each.total - float(truth.sum())) <= each.error / 2 for each in totals]
    assert sum(half_as_wide) / REPEATS < 0.9, "an interval that is too narrow is seen"


def test_a_bayes_factor_turns_round_with_its_models(twins):
    first, second, _ = twins
    there, back = bayes_factor(first, second), bayes_factor(second, first)
    assert there.total == pytest.approx(-back.total)
    assert there.error == pytest.approx(back.error)
    torch.testing.assert_close(there.low, -back.high)


def test_where_the_evidence_is_in_doubt_the_factor_is_too(twins):
    first, second, _ = (part(each, slice(0, 3)) if isinstance(each, Evidence) else each for each in twins)
    plain = replace(first, status=("interval",) * 3, reasons=((),) * 3)
    other = replace(second, status=("interval",) * 3, reasons=((),) * 3)
    assert bayes_factor(plain, other).caution() is None
    doubtful = replace(
        plain,
        status=("lower-bound", "range", "interval"),
        reasons=(("few-ancestors",), ("disagreement",), ()),
        high=torch.tensor([math.inf, 5.0, 1.0]),
        low=torch.tensor([-2.0, -5.0, 0.0]),
    )
    found = bayes_factor(doubtful, other)
    assert found.status == ("lower-bound", "range", "interval")
    assert found.high[0] == math.inf
    assert found.low[1] == pytest.approx(-5.0 - float(other.high[1]))
    assert "2 of 3 images have no interval" in (found.caution() or "")
    assert "disagreement: 1, few-ancestors: 1" in (found.caution() or "")
    axes = tg.plots.bayes_factor(found, "one", "two")
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"95 % interval", "in doubt"}
    biased = replace(plain, quadrature_error=torch.full((3,), 100.0))
    assert "stated biases" in (bayes_factor(biased, other).caution() or "")


def test_evidence_of_other_images_is_refused(twins):
    first, second, _ = twins
    with pytest.raises(
        InputError, match="`b` must hold 4 repeats of 2 images as `a` does, got 4 repeats of 3"
    ):
        bayes_factor(part(first, slice(0, 2)), part(second, slice(0, 3)))


# --- runs ---


@pytest.fixture(scope="module")
def runs(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of other seeds on the same images."""
    folders = [tmp_path_factory.mktemp("compare") / name for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        train_run(tiny_config({"seed": seed}), folder)
    return folders


def test_both_models_are_compared_on_the_same_images(runs: list[Path]):
    """The paired difference is the mean of differences image by image, on the split that is asked for."""
    settings = CompareSettings(split="train", num_images=12, num_evidence=0)
    found = compare_runs(runs, settings)
    (pair,) = found.pairs
    scores = [posterior_scores(load_run(run), load_run(run).data("train"), 12, 0)["error"] for run in runs]
    each = (scores[0] - scores[1]).double()
    row = pair.differences["reconstruction_mean_square_error"]
    assert row["value"] == pytest.approx(float(each.mean()))
    assert row["high"] - row["value"] == pytest.approx(1.96 * float(each.std()) / math.sqrt(12))
    assert pair.num_images == 12
    assert found.quantities == {}, "nothing was measured of either run"
    same = compare_runs([runs[0], runs[0]], settings).pairs[0]
    assert {row["value"] for row in same.differences.values()} == {0.0}


def test_compare_writes_a_table_and_a_picture(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["compare", *map(str, runs), "--num", "8", "--evidence", "3", "--evaluations", "200"]
    assert command_line([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    table, picture = (Path(file) for file in record["files"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    factor = record["pairs"][0]["bayes_factor"]
    assert len(rows) == factor["num_images"] == 3
    assert sum(float(row["log_factor"]) for row in rows) == pytest.approx(factor["total"])
    assert command_line([*words, "--out", str(tmp_path / "out")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "log Bayes factor of" in shown
    assert f"{factor['total']:.5g} ±" in shown, "the same seed gives the same factor"


def test_runs_of_other_images_or_likelihoods_are_refused(
    runs: list[Path], tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    train_run(tiny_config({"data.num_images": 24}), tmp_path / "fewer")
    with pytest.raises(InputError, match="`runs` must be of the same train images"):
        compare_runs([runs[0], tmp_path / "fewer"], CompareSettings(split="train"))
    with pytest.raises(InputError, match="at least 2 run folders, got 1"):
        compare_runs(runs[:1])
