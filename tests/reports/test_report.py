"""The report: planted effects are found, false claims are rare, and the page holds what it should."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from thermograd.cli import run as run_cli
from thermograd.config.resolve import resolve
from thermograd.errors import InputError
from thermograd.evaluation.records import Kind, Record, Source, add_record, read_records
from thermograd.reports import write_report
from thermograd.reports.collect import collect
from thermograd.reports.conclusions import baseline, conclude, final_values, noise_floor
from thermograd.reports.contrasts import Contrast
from thermograd.reports.rows import QUANTITIES, with_bias
from thermograd.reports.statistics import detectable_difference
from thermograd.reports.style import Plot
from thermograd.reports.tables import chains, differences, gradients
from thermograd.reports.words import label, number
from thermograd.runs.pictures import image_grid, pairs_grid, save_png
from thermograd.study.arms import ArmKind
from thermograd.study.file import parse_study

# --- synthetic tables: rows as `load_study` gives them ---

ARMS = {
    "vanilla": ArmKind("vanilla"),
    "placebo": ArmKind("placebo"),
    "complete-p3": ArmKind("complete"),
    "detached-p3": ArmKind("detached"),
    "noise-c4": ArmKind("noise-dial"),
}
KD = "distance:kd-classifier-digits"
CONTRASTS = (
    Contrast("thermodynamic", "complete-p3", "vanilla", KD),
    Contrast("detached", "detached-p3", "vanilla", KD),
    Contrast("likelihood", "complete-p3", "vanilla", "log_evidence"),
)


def synthetic_table(
    seed: int,
    num_seeds: int = 8,
    effects: dict[tuple[str, str], float] | None = None,
    slope: float = 0.0,
    heavy: bool = False,
) -> pd.DataFrame:
    """Return a table in which a seed's luck, an arm's variance and training go into every number, and effects if asked.

    Args:
        seed: of the table.
        num_seeds: paired seeds.
        effects: (arm, metric) -> what is added to that metric of that arm.
        slope: of the distance on the logarithm of the variance, row by row.
        heavy: draw noise from Student's t with 3 degrees of freedom instead of a normal.
    """
    generator = np.random.default_rng(seed)
    effects = effects or {}
    shape = (len(ARMS), num_seeds, 3)

    def noise(*size: int) -> np.ndarray:
        return generator.standard_t(3, size) / math.sqrt(3) if heavy else generator.standard_normal(size)

    run_luck = noise(len(ARMS), num_seeds, 1)  # rows of one run are alike: what naive tests fall for
    log_variance = (
        np.arange(len(ARMS))[:, None, None] + 0.5 * noise(1, num_seeds, 1) + 0.5 * noise(*shape)
        + 0.7 * noise(len(ARMS), num_seeds, 1) - np.arange(3)
    )  # fmt: skip
    distance = 5 - np.arange(3) + noise(1, num_seeds, 1) + 0.5 * run_luck + 0.2 * noise(*shape)
    distance = distance + slope * log_variance
    evidence = 100 + 5 * noise(1, num_seeds, 1) + noise(*shape)
    rows = []
    for a, arm in enumerate(ARMS):
        for s in range(num_seeds):
            for k in range(3):
                for split in ("train", "test") if k == 2 else ("train",):
                    values = {KD: distance[a, s, k], "log_evidence": evidence[a, s, k]}
                    values = {name: value + effects.get((arm, name), 0.0) for name, value in values.items()}
                    if split == "train":
                        values = {KD: values[KD] + 1}
                    rows.append(
                        {"run": f"{arm}-{s}", "arm": arm, "seed": s, "step": 10 * (k + 1), "split": split,
                         "is_final": k == 2, "normalised_variance": math.exp(log_variance[a, s, k]), **values}
                    )  # fmt: skip
    return pd.DataFrame(rows)


def test_planted_differences_are_found_and_nothing_else():
    table = synthetic_table(0, effects={("complete-p3", KD): -6.0, ("complete-p3", "log_evidence"): 6.0})
    found = conclude(table, CONTRASTS, ARMS)
    statuses = {result.contrast.name: result.status for result in found.contrasts}
    assert statuses == {
        "thermodynamic": "confirmed",
        "detached": "no difference found",
        "likelihood": "confirmed",
    }
    assert not found.association.found
    first, second, third = (result.sentence for result in found.contrasts)
    assert "kernel distance (classifier-digits) of complete-p3 is" in first
    assert "lower than that of vanilla" in first
    assert "which is better" in first
    assert "no difference found between detached-p3 and vanilla" in second
    assert "would have been found in four of five such studies" in second
    assert "higher than that of vanilla" in third
    # The noise floor stands beside every one of them.
    assert all(
        "The placebo, which differs from vanilla by chance alone, differs by" in s
        for s in (first, second, third)
    )


def test_planted_differences_have_the_right_size():
    """The mean difference is 6 within 4 standard errors: run luck 0.5 and rows 0.2 in each of two arms."""
    table = synthetic_table(1, effects={("complete-p3", KD): -6.0})
    interval = conclude(table, CONTRASTS, ARMS).contrasts[0].interval
    assert interval is not None
    assert abs(interval.value + 6) < 4 * math.sqrt(2 * (0.5**2 + 0.2**2) / 8)
    assert interval.low < -6 < interval.high


def test_planted_association_is_found():
    found = conclude(synthetic_table(2, slope=1.0), CONTRASTS, ARMS).association
    assert found.found
    assert found.association is not None
    assert found.association.correlation > 0.5
    assert (found.association.num_blocks, found.association.num_cells) == (8, 3 * len(ARMS))
    assert "runs whose gradient has more variance have a larger kernel distance" in found.sentence
    opposite = conclude(synthetic_table(2, slope=-1.0), CONTRASTS, ARMS).association
    assert opposite.found
    assert "a smaller kernel distance" in opposite.sentence


@pytest.mark.parametrize(("heavy", "num"), [(False, 1000), (True, 400)], ids=["normal", "heavy tails"])
def test_false_claims_are_rare(heavy: bool, num: int):
    """Of tables with nothing to find at most 7 % claim anything, contrasts and association together."""
    claims = [conclude(synthetic_table(s, heavy=heavy), CONTRASTS, ARMS).num_claims for s in range(num)]
    rate = np.mean(np.array(claims) > 0)
    assert rate <= 0.07
    assert rate > 0.005, "a report that never claims anything would pass as well"


def test_fewer_seeds_are_refused_as_confirmatory():
    table = synthetic_table(3, num_seeds=7, effects={("complete-p3", KD): -60.0})
    result = conclude(table, CONTRASTS, ARMS).contrasts[0]
    assert result.status == "exploratory"
    assert "Exploratory: 7 of the 8 seeds that confirmation takes." in result.sentence
    assert math.isnan(result.p_value)
    assert math.isnan(result.adjusted)
    alone = conclude(table, CONTRASTS[:1], ARMS).contrasts[0]
    assert alone.status == "confirmed", "a single contrast takes 7"


def test_a_look_before_the_end_and_runs_added_later_are_exploratory():
    table = synthetic_table(3, effects={("complete-p3", KD): -60.0})
    assert conclude(table, CONTRASTS, ARMS).contrasts[0].status == "confirmed"
    early = conclude(table, CONTRASTS, ARMS, unfinished={"complete-p3"}).contrasts[0]
    assert early.status == "exploratory"
    assert "Exploratory: runs of complete-p3 are still to come." in early.sentence
    later = conclude(table.assign(added=(table["seed"] == 7).astype(int)), CONTRASTS, ARMS).contrasts[0]
    assert later.status == "exploratory"
    assert "Exploratory: some of its runs were added after the first." in later.sentence
    assert math.isnan(later.p_value)


def test_what_could_have_been_found_is_at_the_strictest_level():
    result = conclude(synthetic_table(11), CONTRASTS, ARMS).contrasts[1]
    d = np.array(list(result.differences.values()))
    assert result.detectable == detectable_difference(d, 0.05 / 3)
    assert result.detectable > detectable_difference(d, 0.05)


def test_a_seed_that_failed_is_not_paired():
    table = synthetic_table(4)
    gone = (table["arm"] == "vanilla") & (table["seed"] == 5)
    result = conclude(table[~gone], CONTRASTS, ARMS).contrasts[0]
    assert sorted(result.differences) == [0, 1, 2, 3, 4, 6, 7]
    diverged = table.copy()
    diverged.loc[gone, KD] = math.nan
    assert conclude(diverged, CONTRASTS, ARMS).contrasts[0].differences == result.differences


def test_a_contrast_that_was_not_measured_says_so_and_still_counts():
    table = synthetic_table(5, effects={("complete-p3", KD): -60.0}).drop(columns="log_evidence")
    results = conclude(table, CONTRASTS, ARMS).contrasts
    assert results[2].status == "not measured"
    assert "was not measured at the end" in results[2].sentence
    assert results[0].adjusted == pytest.approx(3 * results[0].p_value), "Holm counts all three"


def test_variance_is_compared_within_arm_and_epoch():
    """Arms and epochs that differ in both, with nothing within them, are no association."""
    table = synthetic_table(6)
    arm_effect = table["arm"].map({arm: 10.0 * i for i, arm in enumerate(ARMS)})
    table[KD] += arm_effect
    table["normalised_variance"] *= np.exp(arm_effect)
    naive = np.corrcoef(np.log(table["normalised_variance"]), table[KD])[0, 1]
    assert naive > 0.9
    assert not conclude(table, CONTRASTS, ARMS).association.found


def test_bias_is_taken_out():
    """Distance follows bias, and variance follows bias: given bias nothing is left."""
    generator = np.random.default_rng(7)
    table = synthetic_table(7)
    bias = generator.standard_normal(len(table))
    table[KD] = 3 * bias + 0.3 * generator.standard_normal(len(table))
    table["normalised_variance"] = np.exp(bias + 0.3 * generator.standard_normal(len(table)))
    assert conclude(table, CONTRASTS, ARMS).association.found
    table["relative_squared_bias"] = bias
    given = conclude(table, CONTRASTS, ARMS).association
    assert given.given_bias
    assert not given.found
    assert "given arm, epoch and bias" in given.sentence


# --- the noise floor ---


def test_the_noise_floor_is_the_placebo_minus_vanilla():
    values = {"vanilla": {0: 1.0, 1: 2.0}, "placebo-s1": {0: 1.5, 1: 2.0}, "placebo-s2": {0: 2.0, 1: 3.0}}
    arms = {"vanilla": ArmKind("vanilla"), "placebo-s1": ArmKind("placebo"), "placebo-s2": ArmKind("placebo")}
    floor = noise_floor(values, arms)
    assert floor is not None
    assert floor.value == pytest.approx((0.75 + 0.5) / 2)  # placebos of a seed are averaged first
    assert noise_floor(values, {"vanilla": ArmKind("vanilla")}) is None


def test_arms_are_compared_in_their_own_cell():
    arms = {
        f"{name}[d={d}]": ArmKind(name, {"d": d})
        for d in (8, 16)
        for name in ("vanilla", "placebo", "complete")
    }
    assert baseline("complete[d=16]", arms) == "vanilla[d=16]"
    assert baseline("vanilla[d=16]", arms) is None
    assert baseline("complete", {"complete": ArmKind("complete")}) is None
    values = {
        f"{name}[d={d}]": {0: d + (name == "placebo") * d} for d in (8, 16) for name in ("vanilla", "placebo")
    }
    floor = noise_floor(
        {arm: {s: float(v) for s, v in each.items()} for arm, each in values.items()}, arms, "complete[d=16]"
    )
    assert floor is not None
    assert floor.value == 16


def test_every_difference_has_the_floor_beside_it():
    table = differences(synthetic_table(8), ARMS)
    assert set(table["arm"]) == set(ARMS) - {"vanilla"}
    assert table[["placebo", "placebo_low", "placebo_high"]].notna().all().all()
    placebo = table[table["arm"] == "placebo"]
    np.testing.assert_allclose(placebo["difference"], placebo["placebo"])


def test_only_the_end_and_the_test_set_count():
    table = synthetic_table(9).iloc[::-1]  # whatever the order of rows
    values = final_values(table, KD)
    chosen = table[(table["arm"] == "vanilla") & (table["seed"] == 3) & (table["split"] == "test")]
    assert values["vanilla"][3] == chosen[KD].item()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (1.234, "1.23"), (-12.34, "−12.3"), (1234.5, "1,234"), (0.000123, "0.000123"),
     (1.5e-7, "1.50 × 10⁻⁷"),
     (math.nan, "–")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str):
    assert number(value) == text


def test_metrics_have_names():
    assert label("distance:fd-infinity-efficientnet") == "Fréchet distance at infinity (efficientnet)"
    assert label("distance:FID") == "FID"


# --- a synthetic study folder, as `study run` leaves it ---

ARM_FILE: dict[str, dict[str, Any]] = {
    "vanilla": {"ready": "vanilla"},
    "placebo": {"ready": "placebo"},
    "detached": {"ready": "detached", "powers": [1, 3], "num_rungs": 6},
    "complete": {"ready": "complete", "powers": [1, 3], "num_rungs": 6},
    "noise": {"ready": "noise-dial", "multipliers": [4]},
}
NUM_STEPS = 80


def make_study(
    path: Path, num_seeds: int = 8, *, probes: bool = True, bias: bool = True, pictures: bool = True
) -> Path:
    """Write a study folder of made-up numbers: complete-p3 is better than vanilla by 1.5, and nothing else differs."""
    from thermograd.study.arms import expand_arms

    study = parse_study(
        {
            "name": "made-up",
            "preset": "digits",
            "seeds": num_seeds,
            "arms": ARM_FILE,
            "measure": {"every": "2 epochs", "num_evidence": 20},
            "contrasts": [
                {"name": "thermodynamic at equal epochs", "a": "complete-p3", "b": "vanilla", "metric": KD},
                {"name": "more variance", "a": "noise-c4", "b": "vanilla", "metric": KD},
                {"name": "likelihood", "a": "detached-p3", "b": "vanilla", "metric": "log_evidence"},
            ],
        }
    )
    runs = []
    for a, arm in enumerate(expand_arms(study)):
        for seed in study.seeds:
            config, requested = resolve("digits", overrides={**arm.overrides, "seed": seed})
            runs.append(
                {"identity": config.identity, "arm": arm.name, "ready": arm.ready, "cell": arm.cell,
                 "seed": seed, "added": 0,
                 "config": config.model_dump(mode="json"), "requested": requested, "num_steps": NUM_STEPS,
                 "num_images": 1437, "evaluations": NUM_STEPS * 128 * (9 + 20 * a)}
            )  # fmt: skip
            folder = path / "runs" / config.identity
            (folder / "samples").mkdir(parents=True)
            generator = np.random.default_rng([a, seed])
            _write_run(folder, runs[-1], np.random.default_rng(seed), generator, a, probes=probes, bias=bias)
            if not pictures:
                shutil.rmtree(folder / "samples")
    whole = {"study": study.model_dump(mode="json"), "versions": [{"time": 0, "version": 0}], "runs": runs}
    (path / "study.json").write_text(json.dumps(whole))
    return path


def undrawn(plot: Plot, out: Path) -> dict[str, str]:
    """Return what the page shows of a figure, in place of `_draw`, without the seconds that drawing takes."""
    return {
        **{name: getattr(plot, name) for name in ("name", "title", "caption")},
        "wide": "data:,",
        "narrow": "data:,",
    }


def _write_run(
    folder: Path,
    run: dict[str, Any],
    luck: np.random.Generator,
    chance: np.random.Generator,
    a: int,
    *,
    probes: bool,
    bias: bool,
) -> None:
    estimator, rungs = run["config"]["gradient"]["estimator"], run["config"]["gradient"]["num_rungs"]
    effect = -1.5 if run["arm"] == "complete-p3" else 0.0
    skill = luck.normal()
    t = ((np.arange(rungs) / (rungs - 1)) ** 3).tolist() if rungs > 2 else [1.0]
    metrics = []
    for step in range(10, NUM_STEPS + 1, 10):
        metrics.append(
            {"kind": "train", "step": step, "epoch": step // 20, "log_likelihood": -1000 / step,
             "energy_posterior": -1.0, "energy_prior": -1.1, "inverse_temperature": t, "seconds": 0.01 * (1 + a),
             "standing_chains": 0.001 * a, "restarted_chains": step // 20}
        )  # fmt: skip
    for step, split in [(step, split) for step in (20, 40, 60, 80) for split in ("train", "test")]:
        value = 12 * math.exp(-step / 40) + 3 + 0.5 * skill + effect + 0.3 * chance.normal()
        distance = {"name": KD.removeprefix("distance:"), "value": value, "standard_error": 0.1}
        values = {"reconstruction_mean_square_error": 0.05 + 0.5 / step + 0.001 * chance.normal()}
        if (split, step) == ("test", NUM_STEPS):
            values["log_evidence"] = 40 + 2 * skill + 0.5 * chance.normal()
        quantities = {name: {"value": mean, "standard_error": 0.1} for name, mean in values.items()}
        distances = [{**distance, "is_floor": False}, {**distance, "value": 0.4, "is_floor": True}]
        found = {"quantities": quantities, "distances": distances}
        if bias and (split, step) == ("test", NUM_STEPS):
            found["prior"] = {"verdict": "settled", "distances": _prior_distances(value)}
        _measure(folder, "evaluation", "clock", split, step, found)
        found = {
            kind: _blocks(chance, a, step, t, bias=False) for kind in ("estimators", "fixed", "as_trained")
        }
        measured = {kind: {estimator: each} if probes else {} for kind, each in found.items()}
        _measure(folder, "variance", "clock", split, step, measured)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in metrics))
    (folder / "environment.json").write_text(
        json.dumps({"thermograd": "0.1.0", "commit": "c0ffee" * 7, "packages": {"torch": "2.13.0"}})
    )
    (folder / "status.json").write_text(
        json.dumps({"state": "done", "step": NUM_STEPS, "num_steps": NUM_STEPS})
    )
    for step in (20, 40, 60, 80):
        images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(step + a)) * 2 - 1
        save_png(image_grid(images), folder / "samples" / f"samples_step_{step:08d}.png")
    for name in ("nearest_training_images", "reconstructions_test"):
        save_png(pairs_grid(images[:32], -images[:32]), folder / "samples" / f"{name}_step_{step:08d}.png")
    if bias:
        blocks = _blocks(chance, a, NUM_STEPS, t, bias=True)
        _measure(folder, "variance", "command", "train", NUM_STEPS, {"estimators": {estimator: blocks}})


def _measure(folder: Path, kind: Kind, source: Source, split: str, step: int, values: dict[str, Any]) -> None:
    checkpoint = f"step_{step:08d}"
    add_record(folder, Record(kind, source, "digits", split, checkpoint, step, step // 20, 0, {}, values))


def _prior_distances(value: float) -> list[dict[str, Any]]:
    places = [
        ("posterior-train", None, 0.5),
        ("posterior-test", None, 0.6),
        ("prior", 40, 1.0),
        ("prior", 200, 0.9),
    ]
    return [
        {"images": images, "num_steps": num, "name": "fd-classifier-digits", "value": part * value,
         "standard_error": 0.1, "num_images": 300}
        for images, num, part in places
    ]  # fmt: skip


def _blocks(chance: np.random.Generator, a: int, step: int, t: list[float], *, bias: bool) -> dict[str, Any]:
    blocks = {}
    for network, scale in (("total", 1.0), ("generator", 1.2), ("prior", 0.1)):
        variance = scale * math.exp(0.4 * a - step / 60 + 0.2 * chance.normal())
        values = {"normalised_variance": 3 * variance, "total_variance": variance, "chain_variance": 0.3 * variance,
                  "batch_variance": 0.7 * variance}  # fmt: skip
        if bias:
            values |= {
                "squared_bias": 0.02 * a,
                "relative_squared_bias": 0.1 * a,
                "mean_square_error": variance + 0.02 * a,
            }
        blocks[network] = {name: {"value": v, "low": 0.8 * v, "high": 1.2 * v} for name, v in values.items()}
    spread = [{"inverse_temperature": each, "value": 1000 * math.exp(-5 * each)} for each in t]
    behind = {"value": -2.0 * a, "low": -3.0 * a, "high": -a} if bias else None
    return {"blocks": blocks, "log_likelihood_variance": spread, "log_likelihood_bias": behind}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("study") / "made-up")


@pytest.fixture(scope="module")
def page(study: Path) -> str:
    return write_report(study).read_text()


FIGURES = [
    "variance_against_iteration",
    "distance_against_iteration",
    "distance_against_variance",
    "contrasts",
    "arm_differences",
    "distance_parts",
    "bias_beside_variance",
    "networks_against_iteration",
    "temperatures",
    "evidence_by_arm",
    "cost",
]


def test_the_page_holds_all_figures_and_needs_nothing_else(page: str):
    assert re.findall(r'<figure id="(\w+)"', page) == FIGURES
    assert page.count("data:image/svg+xml;base64,") == 2 * len(FIGURES)
    sources = re.findall(r'(?:src|srcset)="([^"]{0,30})', page)
    assert len(sources) == 2 * len(FIGURES) + 3 * 7, (
        "each figure wide and narrow; three grids of images per arm"
    )
    assert all(source.startswith("data:") for source in sources)
    assert "<script" not in page
    assert "url(" not in page
    assert "Left out" not in page


def test_the_page_leads_with_the_answer(page: str):
    answer = page.index(
        "Thermodynamic at equal epochs: kernel distance (classifier-digits) of complete-p3 is"
    )
    assert page.index('<p class="answer">The kernel distance (classifier-digits) of complete-p3 is') < answer
    assert page.index('<p class="answer">') < page.index("<figure")
    assert page.count('<li class="confirmed">') == 1
    assert page.count("no difference found between") == 2
    assert page.count("The placebo, which differs from vanilla by chance alone") == 3
    assert "noise floor (placebo)" in page


def test_every_figure_and_table_is_a_file(study: Path, page: str):
    out = study / "report"
    for name in FIGURES:
        assert (out / f"{name}.svg").read_text().startswith("<?xml")
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    tables = {file.stem for file in out.glob("*.csv")}
    assert {
        "contrasts",
        "differences",
        "finals",
        "gradients",
        "chains",
        "costs",
        "arms",
        "settings",
        "results",
        "variances",
    } <= tables
    assert all(f'<a href="{name}.csv"><code>{name}</code></a>' in page for name in tables)
    contrasts = pd.read_csv(out / "contrasts.csv")
    assert contrasts["status"].tolist() == ["confirmed", "no difference found", "no difference found"]


def test_the_tables_hold_the_numbers_of_the_folders(study: Path):
    data = collect(study)
    assert data.counts == (56, 56)
    evidence = final_values(data.table, "log_evidence")
    run = next(
        run for run in data.table.to_dict("records") if run["arm"] == "complete-p3" and run["seed"] == 2
    )
    record = read_records(study / "runs" / run["run"], "evaluation")[-1]
    assert evidence["complete-p3"][2] == record.values["quantities"]["log_evidence"]["value"]
    # Bias comes from the reference gradient at the end, variance from the measurement of each step and split.
    ends = data.table[data.table["is_final"]]
    assert ends["relative_squared_bias"].notna().all()
    assert data.table[~data.table["is_final"]]["relative_squared_bias"].isna().all()
    assert data.table["normalised_variance"].notna().all()
    table = gradients(data.variances, data.arms)
    places = table[["arm", "network", "split", "batches"]]
    row = table[(places == ["detached-p1", "total", "train", "fresh"]).all(axis=1)]
    assert row["squared_bias"].item() == pytest.approx(0.04)
    of_chains = chains(data).set_index("arm").loc["detached-p1"]
    assert of_chains["standing_chains"] == pytest.approx(0.002)
    assert of_chains["restarted_chains"] == NUM_STEPS // 20  # as the last record says
    assert of_chains["log_likelihood_bias"] == pytest.approx(-4.0)


@pytest.fixture(scope="module")
def poor_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two seeds without probes, bias and pictures, half of it not done, with a name that is markup."""
    folder = make_study(
        tmp_path_factory.mktemp("poor") / "study", num_seeds=2, probes=False, bias=False, pictures=False
    )
    for run in collect(folder).table["run"].unique()[::2]:
        file = folder / "runs" / run / "status.json"
        file.write_text(json.dumps({"state": "running", "step": 3, "num_steps": NUM_STEPS}))
    file = folder / "study.json"
    file.write_text(file.read_text().replace("more variance", "<b>more</b> variance"))
    return folder


@pytest.fixture(scope="module")
def poor_page(poor_study: Path) -> str:
    return write_report(poor_study).read_text()


def test_figures_without_data_are_left_out_and_say_why(poor_page: str):
    assert re.findall(r'<figure id="(\w+)"', poor_page) == [
        "distance_against_iteration", "contrasts", "arm_differences", "temperatures", "evidence_by_arm", "cost",
    ]  # fmt: skip
    assert "<li>Variance of the learning gradient against iteration: it was not measured" in poor_page
    unsaid = (
        "Does the variance of the gradient go with the quality of images? No gradient variance was measured"
    )
    assert unsaid in poor_page
    assert "7 of 14 runs done" in poor_page
    assert "Not done, and so not counted" in poor_page
    assert '<li class="exploratory">' in poor_page


def test_names_are_escaped(poor_page: str):
    assert "<b>more" not in poor_page
    assert "&lt;b&gt;more" in poor_page


def test_the_same_study_gives_the_same_bytes_by_the_command_line(
    poor_study: Path, poor_page: str, capsys: pytest.CaptureFixture[str]
):
    out = poor_study / "report"
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert run_cli(["report", str(poor_study), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(out / "report.html")}
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run_cli(["report", str(tmp_path)]) == 2
    assert "is neither a run nor a study" in capsys.readouterr().err
    folder = make_study(tmp_path / "study", num_seeds=2)
    shutil.rmtree(folder / "runs")
    with pytest.raises(InputError, match="has no measured checkpoint yet"):
        write_report(folder)


# --- a real browser, where there is one ---

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_everything(study: Path, page: str, tmp_path: Path, width: int):
    """In a frame of that width no error is logged, all pictures load, and nothing is wider than the page."""
    probe = tmp_path / "probe.html"
    probe.write_text(
        f'<iframe id="f" src="{(study / "report" / "report.html").as_uri()}" '
        f'style="width:{width}px;height:2000px;border:0">'
        """</iframe><pre id="out"></pre><script>
        onload = () => {
          const inner = f.contentDocument, root = inner.documentElement;
          const out = [...inner.querySelectorAll('body *')].filter(e =>
            e.getBoundingClientRect().right > root.clientWidth + 0.5).map(e => e.tagName);
          const images = [...inner.images];
          document.getElementById('out').textContent = JSON.stringify({
            width: root.clientWidth, scroll: root.scrollWidth, out: out,
            loaded: images.filter(i => i.complete && i.naturalWidth > 0).length,
            narrow: [...inner.querySelectorAll('img.drawing')].filter(i => i.currentSrc != i.src).length});
        };</script>"""
    )
    assert CHROMIUM is not None
    found = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--allow-file-access-from-files", "--enable-logging=stderr", "--virtual-time-budget=8000",
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width + 200},2000", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in found.stderr
    match = re.search(r'<pre id="out">(\{.*?\})</pre>', found.stdout)
    assert match, found.stdout[-300:]
    seen = json.loads(match[1])
    assert seen["scroll"] <= seen["width"]
    assert seen["out"] == []
    assert seen["loaded"] == len(FIGURES) + 3 * 7
    assert seen["narrow"] == (len(FIGURES) if width == 390 else 0)


def test_a_variance_that_could_not_be_told_is_not_replaced_by_an_older_one():
    variances = pd.DataFrame(
        {
            "run": "a",
            "arm": "noise",
            "network": "total",
            "step": [1, 2, 2],
            "split": "train",
            "source": ["clock", "clock", "command"],
            "batches": "fresh",
            **{name: [1.0, 2.0, 3.0] for name in QUANTITIES},
            "normalised_variance": [1.0, float("nan"), 3.0],
            "relative_squared_bias": [float("nan"), float("nan"), 0.5],
        }
    )
    table = with_bias(pd.DataFrame({"run": ["a", "a"], "step": [1, 2]}), variances)
    assert table["relative_squared_bias"][1] == 0.5
    row = gradients(variances, {"noise": None}).iloc[0]
    assert row["total_variance"] == 2.0
    assert math.isnan(row["normalised_variance"])
