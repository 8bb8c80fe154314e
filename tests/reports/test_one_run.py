"""The report of one run, the three plots as functions, and that each split stands under its own name."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import thermograd as tg
from conftest import STUDY_TINY
from reports.test_report import KD, NUM_STEPS, make_study, undrawn
from thermograd.cli import run as run_cli
from thermograd.config.schema import RunConfig
from thermograd.errors import InputError
from thermograd.evaluation.clock import train_measured
from thermograd.evaluation.records import Record, read_records
from thermograd.reports import write_report
from thermograd.reports.collect import collect
from thermograd.reports.style import fit_axis, log_axis
from thermograd.reports.tables import gradients
from thermograd.study.file import parse_study
from thermograd.study.folder import make_study as begin_study
from thermograd.study.folder import open_study
from thermograd.study.results import load_study
from thermograd.study.work import work


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("study") / "made-up", num_seeds=3)


@pytest.fixture(scope="module")
def run(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder that stands alone: one of the study's, with its config."""
    planned = open_study(study).runs[0]
    folder = tmp_path_factory.mktemp("run") / "first"
    shutil.copytree(study / "runs" / planned.identity, folder)
    (folder / "config.yaml").write_text(planned.resolved.to_yaml())
    return folder


def test_a_report_of_one_run_has_the_three_plots_all_of_one_step(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("thermograd.reports.page._draw", undrawn)
    page = write_report(run).read_text()
    figures = re.findall(r'<figure id="(\w+)"', page)
    assert figures[:3] == [
        "variance_against_iteration",
        "distance_against_iteration",
        "distance_against_variance",
    ]
    assert "contrasts" not in figures
    assert (
        f"After {NUM_STEPS} steps (epoch 4) the kernel distance (classifier-digits) of samples to the test"
        in page
    )
    assert page.count('<section class="exhibit">') == 1
    assert 'href="../"' in page
    assert "thermograd train digits --config config.yaml --out AGAIN" in page
    results = pd.read_csv(run / "report" / "results.csv")
    ends = results[results["is_final"]]
    assert set(ends["step"]) == {NUM_STEPS}
    assert set(ends["split"]) == {"train", "test"}
    assert ends[[KD, "total_variance", "reconstruction_mean_square_error"]].notna().all().all()


def test_a_run_that_stopped_early_ends_at_its_last_measured_step(run: Path, tmp_path: Path):
    folder = shutil.copytree(run, tmp_path / "stopped")
    lines = (folder / "measurements.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= 60]
    (folder / "measurements.jsonl").write_text("".join(kept))
    (folder / "status.json").write_text(
        json.dumps({"state": "stopped", "step": 70, "num_steps": NUM_STEPS, "updated": 0})
    )
    data = collect(folder)
    assert set(data.table[data.table["is_final"]]["step"]) == {60}
    assert data.failed == (f"stopped, seed 0: stopped at step 60 of {NUM_STEPS}",)


def test_a_run_that_was_not_measured_says_what_to_do(run: Path, tmp_path: Path):
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(run / "config.yaml", folder)
    with pytest.raises(InputError, match=rf"no measured checkpoint yet: thermograd measure {folder}$"):
        write_report(folder)
    assert not (folder / "report").exists()


def test_a_run_is_trained_and_reported(
    tiny_config: Callable[..., RunConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("thermograd.reports.page._draw", undrawn)
    config = tiny_config({"measure.every": "1 epochs", "measure.extractor": "none"})
    train_measured(config, tmp_path / "run")
    assert run_cli(["report", str(tmp_path / "run"), "--json"]) == 0
    page = Path(json.loads(capsys.readouterr().out)["page"]).read_text()
    assert '<figure id="variance_against_iteration"' in page
    assert "Distance of samples against iteration: no distance was measured" in page


# --- each split under its own name ---


def check_splits(table: pd.DataFrame, records: list[Record]) -> None:
    """Hold each row's variance to the record of its own split and step."""
    measured = {(each.step, each.split): each for each in records if each.kind == "variance"}
    assert len(measured) == len(table)
    for row in table.to_dict("records"):
        values = measured[row["step"], row["split"]].values
        blocks = values["estimators"][row["estimator"]]["blocks"]["total"]
        assert row["total_variance"] == blocks["total_variance"]["value"]


def test_the_table_holds_the_variance_of_each_split(images_file: Path, tmp_path: Path):
    """The test variance of the table is the record of the test split at that step; a swapped split is seen."""
    described = {
        "name": "splits",
        "preset": "digits",
        "overrides": {**STUDY_TINY, "data.path": str(images_file), "data.name": "smooth",
                      "posterior_chains.kernel": "mala", "posterior_chains.start": "persistent"},
        "seeds": 1,
        "arms": {"vanilla": {"ready": "vanilla"}},
        "measure": {"every": "2 epochs", "extractor": "none", "num_samples": 20, "num_batches": 3},
    }  # fmt: skip
    folder = begin_study(parse_study(described), tmp_path / "study")
    work(folder, folder.runs[0].identity)
    records = read_records(folder.run_folder(folder.runs[0].identity), source="clock")
    table = load_study(tmp_path / "study")
    assert set(table["split"]) == {"train", "test"}
    check_splits(table, records)
    swapped = table.assign(split=table["split"].map({"train": "test", "test": "train"}))
    with pytest.raises(AssertionError):
        check_splits(swapped, records)
    # What training itself sees from its stored chains stands under its own name.
    found = gradients(collect(tmp_path / "study").variances, {"vanilla": None}).set_index(
        ["network", "split", "batches"]
    )
    last = max(record.step for record in records)
    for split in ("train", "test"):
        (row,) = table[(table["step"] == last) & (table["split"] == split)].to_dict("records")
        assert found.loc[("total", split, "fresh"), "total_variance"] == pytest.approx(row["total_variance"])
    (record,) = [
        each for each in records if (each.kind, each.split, each.step) == ("variance", "train", last)
    ]
    seen = record.values["as_trained"]["maximum-likelihood"]["blocks"]["total"]["total_variance"]["value"]
    assert found.loc[("total", "train", "as trained"), "total_variance"] == pytest.approx(seen)
    assert ("total", "test", "as trained") not in found.index


# --- the plots as functions ---


def curve(axes: "object", index: int) -> tuple[np.ndarray, np.ndarray]:
    line = axes.get_lines()[index]  # type: ignore[attr-defined]
    return np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)


def test_variance_of_a_run_shows_its_parts_and_the_fixed_batch(run: Path):
    axes = tg.plots.variance_against_iteration(run)
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["total", "of the chains", "of the batch", "of the chains, one fixed batch",
                      "training images", "test images"]  # fmt: skip
    rows = collect(run).variances
    fresh = [("fresh", f"{name}_variance") for name in ("total", "chain", "batch")]
    for i, (batches, name) in enumerate([*fresh, ("fixed", "chain_variance")]):
        for j, split in enumerate(("train", "test")):
            mine = rows[
                (rows["batches"] == batches) & (rows["split"] == split) & (rows["network"] == "total")
            ]
            mine = mine[mine["source"] == "clock"]
            steps, values = curve(axes, 2 * i + j)
            np.testing.assert_allclose(steps, mine["step"])
            np.testing.assert_allclose(values, mine[name])


def test_a_study_is_drawn_by_arm_with_both_splits(study: Path):
    data = collect(study)
    axes = tg.plots.variance_against_iteration(study, "chain_variance")
    assert len(axes.get_lines()) == 2 * len(data.arms)
    axes = tg.plots.distance_against_iteration(study)
    rows = data.table[(data.table["arm"] == "vanilla") & (data.table["split"] == "test")]
    _, values = curve(axes, 1)
    np.testing.assert_allclose(values, rows.groupby("step")[KD].mean())


def test_a_trajectory_goes_through_the_measured_steps_of_its_arm_alone(study: Path):
    axes = tg.plots.distance_against_variance(study)
    data = collect(study)
    rows = data.table[(data.table["arm"] == "placebo") & (data.table["split"] == "test")]
    lines = [(x, y) for x, y in (curve(axes, i) for i in range(len(axes.get_lines()))) if len(x) == 4]
    assert len(lines) == len(data.arms), "a line for each arm, and none across arms"
    x, y = lines[list(data.arms).index("placebo")]
    np.testing.assert_allclose(y, rows.groupby("step")[KD].mean())
    np.testing.assert_allclose(np.log(x), np.log(rows["total_variance"]).groupby(rows["step"]).mean())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: tg.plots.variance_against_iteration(run, "nonsense"), "`quantity` must be one of"),
        (lambda run: tg.plots.distance_against_iteration(run, "distance:x"), "`metric` must be one of"),
        (lambda run: tg.plots.distance_against_variance(run, variance="x"), "`variance` 'x' was not"),
        (lambda run: tg.plots.distance_against_variance(run / "samples"), "neither a run nor a study"),
    ],
)
def test_what_was_not_measured_is_refused(call: Callable[[Path], object], message: str, run: Path):
    with pytest.raises(InputError, match=message):
        call(run)


def test_one_dot_does_not_set_the_axis():
    ax = Figure().subplots()
    values = [50.0, 48.0, 55.0, 1e9]
    ax.plot(range(4), values)
    log_axis(ax, "y")
    fit_axis(ax, "y", values)
    assert ax.get_ylim()[1] < 100
    assert [text.get_text() for text in ax.texts] == ["1 beyond ↑"]
    three = Figure().subplots()
    three.plot(range(3), [4.0, 0.3, 0.2])
    log_axis(three, "y")
    fit_axis(three, "y", [4.0, 0.3, 0.2])
    assert not three.texts, "three steps are shown whole"
    plain = Figure().subplots()
    falling = [900.0, 300.0, 100.0, 60.0, 52.0, 50.0]
    plain.plot(range(6), falling)
    log_axis(plain, "y")
    before = plain.get_ylim()
    fit_axis(plain, "y", falling)
    assert plain.get_ylim() == before, "a curve that falls is whole"
    assert math.isclose(before[0], 50, rel_tol=0.3)
