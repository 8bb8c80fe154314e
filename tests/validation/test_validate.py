"""`thermograd validate`: it passes on what is right, fails on what is wrong, and reports exact numbers."""

import json
import math
from dataclasses import replace

import pytest
import torch

from thermograd.cli import run
from thermograd.errors import Caution, InputError, RunError
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES
from thermograd.ladders.sampler import LadderSampler
from thermograd.samplers.langevin import ULA
from thermograd.samplers.mala import MALA
from thermograd.validation import Settings, Validation, validate
from thermograd.validation import evidence as evidence_module
from thermograd.validation import gradients as gradients_module
from thermograd.validation import kernels as kernels_module
from thermograd.validation.common import Row, as_one_step, exact_ladder, make_twin, stream, within_chance
from thermograd.validation.evidence import evidence_rows
from thermograd.validation.gradients import generator_rows, prior_rows
from thermograd.validation.kernels import kernel_rows, ula_law

SMALL = Settings(latent_dim=3, num_pixels=8, noise_std=0.5, weight_scale=0.5, num_images=16, num_repeats=20)
OPTIONS = {"latent": 3, "pixels": 8, "noise": 0.5, "weight-scale": 0.5, "images": 8, "repeats": 10}
SMALL_OPTIONS = [f"--{name}={value}" for name, value in OPTIONS.items()]


@pytest.fixture(scope="module")
def small() -> Validation:
    return validate(SMALL)


def small_twin():
    twin = make_twin(SMALL)
    return twin, twin.sample_images(SMALL.num_images, stream(SMALL, 1))


def failures(rows) -> list[str]:
    return [row.name for row in rows if not row.ok]


def test_every_kernel_method_and_estimator_is_checked_and_passes(small):
    assert small.failures == []
    names = [row.name for rows in small.tables.values() for row in rows]
    for known in (*ESTIMATORS, *PRIOR_RULES, *evidence_module.METHODS, "ULA", "MALA", "MALA with exchange"):
        assert any(name.startswith(known) for name in names), known
    for rows in small.tables.values():
        for row in rows:
            numbers = (row.bias, row.bias_error, row.standard_deviation, row.error)
            assert all(math.isfinite(value) for value in numbers)
            assert row.num_evaluations >= 1
            assert row.verdict.startswith("ok")


def test_bias_and_deviation_make_up_the_error(small):
    """Over R repeats the mean square error is bias^2 + (1 - 1/R) sd^2."""
    for title, rows in small.tables.items():
        if "gradient" in title:
            for row in rows:
                parts = row.bias**2 + (1 - 1 / SMALL.num_repeats) * row.standard_deviation**2
                assert row.error**2 == pytest.approx(parts, rel=1e-9)


def test_the_spread_of_maximum_likelihood_is_the_closed_form(small):
    twin, x = small_twin()
    exact = twin.evidence_gradient(x)["weight"].norm()
    wanted = float(twin.posterior_gradient_variance(x)["weight"].sum().sqrt() / exact)
    row = small.tables["generator gradient, at the true weights"][0]
    # 24 coordinates of 20 repeats: the relative error of the sd is at most that of one coordinate, 1/sqrt(2 * 19).
    assert row.standard_deviation == pytest.approx(wanted, rel=4 / math.sqrt(38))


def test_the_law_of_ula_is_that_of_its_chains():
    twin, x = small_twin()
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    generator = stream(SMALL, 50)
    sampler = LadderSampler(t, ULA(0.3), 4000)
    ladder, _ = sampler.run(twin, x, sampler.start(twin, x, generator), 7, generator)
    mean, covariance = ula_law(twin, x, 0.3, 7)
    draws = ladder.latents[-1]
    scores = (draws.mean(0) - mean) / (draws.std(0) / math.sqrt(len(draws)))
    assert within_chance(scores, len(draws))
    centred = draws - mean
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    scores = (products.mean(0) - covariance) / (products.std(0) / math.sqrt(len(draws)))
    assert within_chance(scores, len(draws))


def test_the_same_seed_gives_the_same_numbers(small):
    twin, x = small_twin()
    assert list(generator_rows(twin, x, SMALL)) == small.tables["generator gradient, at the true weights"]


# Mistakes put in


@pytest.mark.parametrize("name", [name for name, rule in ESTIMATORS.items() if rule.unbiased])
def test_a_wrong_estimator_fails(monkeypatch, name):
    right = ESTIMATORS[name]
    wrong = replace(right, weights=lambda ladder: 1.3 * right.weights(ladder))
    monkeypatch.setitem(gradients_module.ESTIMATORS._own, name, wrong)
    twin, x = small_twin()
    settings = replace(SMALL, num_repeats=50)
    failed = failures(generator_rows(twin, x, settings))
    assert failed
    assert all(row.startswith(name) for row in failed)


@pytest.mark.parametrize("name", [name for name, rule in PRIOR_RULES.items() if rule.unbiased])
def test_a_wrong_prior_rule_fails(monkeypatch, name):
    right = PRIOR_RULES[name]
    wrong = replace(right, weights=lambda ladder: (-right.weights(ladder)[0], None))
    monkeypatch.setitem(gradients_module.PRIOR_RULES._own, name, wrong)
    twin, x = small_twin()
    settings = replace(SMALL, num_repeats=200, num_images=4)
    failed = failures(prior_rows(twin, x[:4], settings))
    assert [row.split(",")[0] for row in failed] == [name]


def test_a_wrong_kernel_fails(monkeypatch):
    """The proposal's density left out of the ratio."""
    monkeypatch.setattr(MALA, "_log_proposal_ratio", lambda self, noise, move, score: 0.0)
    twin, x = small_twin()
    assert len(failures(kernel_rows(twin, x[:8], SMALL, []))) == 2


def test_a_kernel_that_diverges_is_an_error_of_the_run(monkeypatch):
    """Accepting everything, the adaptation raises the step without end."""
    monkeypatch.setattr(MALA, "step", ULA.step)
    twin, x = small_twin()
    with pytest.raises(RunError, match=r"^Chains of MALA diverged on the twin"):
        failures(kernel_rows(twin, x[:8], SMALL, []))


def test_a_wrong_step_of_ula_fails(monkeypatch):
    monkeypatch.setattr(kernels_module, "ULA", lambda h: ULA(1.4 * h))
    twin, x = small_twin()
    assert failures(kernel_rows(twin, x[:8], SMALL, []))[0].startswith("ULA")


@pytest.mark.parametrize("shift", [-3.0, 3.0])
def test_a_wrong_evidence_fails(monkeypatch, shift):
    right = evidence_module.estimate_evidence

    def shifted(*arguments, **options):
        result = right(*arguments, **options)
        return replace(result, low=result.low + shift, high=result.high + shift)

    monkeypatch.setattr(evidence_module, "estimate_evidence", shifted)
    twin, x = small_twin()
    assert failures(evidence_rows(twin, x, SMALL, [])) == list(evidence_module.METHODS)


# The command


def test_the_command_prints_tables_or_one_json_object(capsys):
    assert run(["validate", *SMALL_OPTIONS]) == 0
    text = capsys.readouterr().out
    assert "generator gradient, away from the true weights" in text
    assert "0 failed" in text
    assert "FAILED" not in text
    assert run(["validate", *SMALL_OPTIONS, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["failures"] == []
    assert record["settings"]["num_pixels"] == 8
    assert record["tables"]["evidence"][0].keys() >= {
        "bias",
        "standard_deviation",
        "error",
        "num_evaluations",
    }


def test_a_failed_check_is_exit_1_and_named(monkeypatch, capsys):
    right = ESTIMATORS["maximum-likelihood"]
    wrong = replace(right, weights=lambda ladder: 5 * right.weights(ladder))
    monkeypatch.setitem(gradients_module.ESTIMATORS._own, "maximum-likelihood", wrong)
    assert run(["validate", *SMALL_OPTIONS]) == 1
    captured = capsys.readouterr()
    assert "FAILED" in captured.out
    *progress, said = captured.err.splitlines()
    assert said.startswith("thermograd: ")
    assert "maximum-likelihood, 22 chains" in said
    assert all(line.startswith("tables ") for line in progress)  # on a slow machine


def test_no_verdict_hangs_on_the_wording_of_a_caution(monkeypatch: pytest.MonkeyPatch):
    """Every text is reworded, and every verdict, interval and reason stays."""
    settings = Settings(latent_dim=8, num_pixels=64, noise_std=0.05, weight_scale=0.5, num_images=6)
    twin = make_twin(settings)
    x = twin.sample_images(settings.num_images, stream(settings, 0))

    def rows() -> tuple[list[Row], set[str]]:
        cautions: list[Caution] = []
        return list(evidence_rows(twin, x, settings, cautions)), {each.kind for each in cautions}

    plain = rows()
    assert "no-interval" in plain[1]
    assert any("without" in row.verdict for row in plain[0])
    monkeypatch.setattr(
        Caution, "__init__", lambda self, kind, text: self.__dict__.update(kind=kind, text="?")
    )
    assert rows() == plain


def test_warnings_are_printed(capsys):
    """Chains of evidence that are short for the problem have no interval, and the command says so."""
    hard = ["--latent", "16", "--pixels", "64", "--noise", "0.05", "--images", "4", "--repeats", "10"]
    run(["validate", *hard, "--weight-scale", "0.5"])
    text = capsys.readouterr().out
    assert "warning: " in text
    assert "have no interval" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--latent", "0"], "`latent_dim` must be at least 1, got 0."),
        (["--pixels", "-3"], "`num_pixels` must be at least 1, got -3."),
        (["--noise", "0"], "`noise_std` must be positive, got 0.0."),
        (["--noise", "nan"], "`noise_std` must be positive, got nan."),
        (["--weight-scale", "inf"], "`weight_scale` must be positive, got inf."),
        (["--images", "1"], "`num_images` must be at least 2, got 1."),
        (["--repeats", "9"], "`num_repeats` must be at least 10, got 9."),
        (["--seed", "-1"], "`seed` must be at least 0, got -1."),
    ],
)
def test_bad_settings_are_one_line(options, message, capsys):
    assert run(["validate", *options]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"thermograd: {message}\n"
    assert captured.out == ""


def test_settings_are_checked():
    with pytest.raises(InputError, match="`perturbation` must be positive"):
        Settings(perturbation=-1.0)


def test_exact_ladders_are_their_own_trace():
    twin, x = small_twin()
    ladder = exact_ladder(twin, x, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), 5, stream(SMALL, 60))
    trace = as_one_step(ladder)
    assert torch.equal(trace.log_likelihood[0], ladder.log_likelihood)
    assert torch.equal(trace.energy[0], ladder.energy)
