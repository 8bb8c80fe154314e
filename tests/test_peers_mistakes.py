"""An index of mistakes found in other implementations, and of the tests here that catch each.

The second half puts mistakes in, one at a time, and shows that the named test fails.
"""

import ast
from pathlib import Path

import pytest
import test_gradients
import test_optimiser
import test_quadrature
import test_samplers
import torch

from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.rules import (
    ESTIMATORS,
    PRIOR_RULES,
    Estimator,
    PriorRule,
    compute_weights,
    contrast,
    covariance,
    stepping_stone_detached,
    thermodynamic_complete,
    thermodynamic_detached,
)
from thermograd.ladders import walk as ladder_walk
from thermograd.samplers import langevin as langevin_module
from thermograd.samplers import prior as prior_module
from thermograd.samplers.mala import MALA
from thermograd.samplers.replica_exchange import exchange
from thermograd.testing import means, weights
from thermograd.testing.exact_ladders import SCHEDULE, exact_ladder, make_case
from thermograd.training.optimiser import CleanAdam

INDEX: dict[str, tuple[str, ...]] = {
    'a flag read as bool("0"), which detaches draws and makes the prior\'s gradient 0': (
        "test_gradients.py::test_every_pair_keeps_the_contract",
        "test_peers_mistakes.py::test_a_prior_without_gradient_is_seen",
    ),
    "a Fréchet distance that is 15.6 between a set and itself and improves when fakes shrink": (
        "test_metrics_distance.py::test_frechet_of_a_set_with_itself_is_zero",
        "test_metrics_distance.py::test_frechet_does_not_change_when_features_are_permuted_or_rotated",
        "test_metrics_distance.py::test_frechet_of_shrunk_fakes_is_the_closed_form_and_rises",
        "test_metrics_scoring.py::test_distances_rise_as_fakes_get_worse",
    ),
    "the thermodynamic gradient with draws held fixed taken for the gradient of log p(x)": (
        "test_gradients.py::test_the_mean_is_the_stated_limit",
        "test_gradients.py::test_distances_of_the_limits_to_the_evidence_gradient",
        "test_twins.py::test_the_detached_target_is_the_gradient_of_j_and_not_of_the_evidence",
        "test_peers_mistakes.py::test_a_wrong_rule_misses_its_limit",
    ),
    "a correction that has zero gradient and is studied as if it had an effect": (
        "test_study.py::test_seeds_are_paired_across_arms",
        "test_report.py::test_the_noise_floor_is_the_placebo_minus_vanilla",
    ),
    "repetitions that share their batches": (
        "test_data.py::TestBatchOrder::test_function_of_seed_and_epoch_only",
        "test_run.py::test_another_seed_gives_another_model",
    ),
    "step sizes twice the paper's": (
        "test_samplers.py::test_ula_has_its_known_bias_on_a_normal",
        "test_peers_mistakes.py::test_langevin_with_another_drift_is_seen",
    ),
    "a likelihood score summed over images and temperatures": (
        "test_samplers.py::test_every_kernel_keeps_the_contract",
        "test_gradients.py::test_every_pair_keeps_the_contract",
        "test_peers_mistakes.py::test_rules_that_mix_images_are_seen",
    ),
    "odd swaps that never fire": (
        "test_samplers.py::test_even_and_odd_pairs_swap_in_turn",
        "test_samplers.py::test_states_cross_the_whole_ladder",
        "test_samplers.py::test_the_ladder_lets_both_parities_fire_and_reports_rates",
        "test_peers_mistakes.py::test_odd_swaps_that_never_fire_are_seen",
    ),
    "the prior's loss with its sign flipped": (
        "test_gradients.py::test_the_mean_is_the_stated_limit",
        "test_peers_mistakes.py::test_a_step_of_the_prior_lowers_the_contrast_of_energies",
    ),
    "the two decays of Adam swapped": (
        "test_optimiser.py::test_adam_equals_torchs_that_maximises",
        "test_peers_mistakes.py::test_swapped_decays_of_adam_are_seen",
    ),
    "each image at one temperature only": (
        "test_samplers.py::test_power_posteriors_of_each_image_on_each_rung",
    ),
    "weights that sum to more than 1": (
        "test_quadrature.py::test_weights_of_every_rule_sum_to_one",
        "test_gradients.py::test_every_pair_keeps_the_contract",
        "test_peers_mistakes.py::test_stones_whose_weights_sum_to_more_than_1_are_seen",
    ),
    "Langevin that descends the log density": (
        "test_samplers.py::test_ula_has_its_known_bias_on_a_normal",
        "test_peers_mistakes.py::test_langevin_with_another_drift_is_seen",
    ),
    "a trapezoid that adds the running total": (
        "test_quadrature.py::test_sums_by_hand",
        "test_peers_mistakes.py::test_a_trapezoid_of_running_totals_is_seen",
    ),
    "BatchNorm, which couples chains": (
        "test_models.py::test_one_images_values_do_not_depend_on_the_others",
    ),
    "an inverted Metropolis ratio": (
        "test_samplers.py::test_mala_is_exact_on_a_normal",
        "test_peers_mistakes.py::test_an_inverted_ratio_is_seen",
    ),
    "a distance to the training set, the best epoch reported, without a word": (
        "test_metrics_scoring.py::test_a_record_says_everything_that_a_value_depends_on",
        "test_metrics_scoring.py::test_only_the_true_inception_is_called_fid",
        "test_run.py::test_evaluation_records_what_was_measured_on_what",
    ),
    "a resume that reads keys never written": (
        "test_run.py::test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit",
        "test_run.py::test_the_state_of_a_resumed_run_matters",
    ),
    'a "gradient variance" that is the spread over coordinates of one gradient': (
        "test_gradient_variance.py::test_a_constant_estimator_has_no_variance",
        "test_gradient_variance.py::test_each_source_of_a_known_variance_is_recovered",
        "test_gradient_variance.py::test_the_spread_over_coordinates_taken_for_the_variance_is_seen",
    ),
}
"""Each mistake and the tests that catch it."""

TESTS = Path(__file__).parent


def names_of_tests(file: Path) -> set[str]:
    """Return the names by which pytest would collect the tests of a file, without their parameters."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return {name for name in names if name.split("::")[-1].startswith("test_")}


@pytest.mark.parametrize("mistake", INDEX)
def test_the_index_names_tests_that_exist(mistake):
    assert INDEX[mistake]
    for node in INDEX[mistake]:
        file, _, name = node.partition("::")
        (found,) = TESTS.rglob(file)
        assert name in names_of_tests(found), f"{node} is not there"


# Mistakes put in: estimators


def broken_prior(weights) -> PriorRule:
    return PriorRule("broken", weights, PRIOR_RULES["contrast"].limit)


def test_a_prior_without_gradient_is_seen():
    def detached(ladder):
        energy, shared = contrast(ladder)
        return energy * 0, shared

    with pytest.raises(AssertionError):
        weights.every_parameter_has_a_gradient(ESTIMATORS["maximum-likelihood"], broken_prior(detached))


def no_bessel(ladder):
    """Divide the covariance by M where the sample's own mean was taken out."""
    plain = thermodynamic_detached(ladder)
    m = ladder.num_chains
    return plain + (thermodynamic_complete(ladder) - plain) * (m - 1) / m


def negated_contrast(ladder):
    return -contrast(ladder)[0], None


def negated_covariance(ladder):
    return -covariance(ladder)[0], None


COMPLETE, LIKELIHOOD = ESTIMATORS["thermodynamic-complete"], ESTIMATORS["maximum-likelihood"]
WRONG_RULES = {
    "detached taken for the evidence gradient": Estimator("x", thermodynamic_detached, LIKELIHOOD.limit),
    "detached taken for complete": Estimator("x", thermodynamic_detached, COMPLETE.limit),
    "covariance without Bessel's correction": Estimator("x", no_bessel, COMPLETE.limit, min_chains=2),
    "sign of the contrast": PriorRule("x", negated_contrast, PRIOR_RULES["contrast"].limit),
    "sign of the covariance": PriorRule(
        "x", negated_covariance, PRIOR_RULES["covariance"].limit, min_chains=2
    ),
}


@pytest.mark.parametrize("mistake", WRONG_RULES)
@pytest.mark.parametrize("name", test_gradients.TWINS)
def test_a_wrong_rule_misses_its_limit(name, mistake):
    rule = WRONG_RULES[mistake]
    group = "prior" if isinstance(rule, PriorRule) else "generator"
    with pytest.raises(AssertionError):
        means.mean_is_the_limit(name, group, rule, 2)


def test_a_bias_that_stays_is_seen():
    """Stepping stones, detached, do not tend to the evidence gradient: the slope is not -1."""
    rule = Estimator("x", stepping_stone_detached, LIKELIHOOD.limit, unbiased=False)
    with pytest.raises(AssertionError):
        test_gradients.test_the_bias_of_the_others_falls_like_one_over_chains("linear", rule)


def test_rules_that_mix_images_are_seen():
    def over_images(ladder):
        step = ladder.inverse_temperatures.diff().view(-1, 1, 1)
        stones = step * (step * ladder.log_likelihood[:-1]).flatten(1).softmax(1).view(
            ladder.log_likelihood[:-1].shape
        )
        return torch.cat([stones, torch.zeros_like(stones[:1])])

    rule = Estimator("x", over_images, ESTIMATORS["stepping-stone-detached"].limit, unbiased=False)
    with pytest.raises(AssertionError):
        weights.images_do_not_mix(rule, PRIOR_RULES["contrast"])


def test_stones_whose_weights_sum_to_more_than_1_are_seen():
    def with_extra_step(ladder):
        weights = stepping_stone_detached(ladder).clone()
        weights[1] += ladder.inverse_temperatures[1] / (ladder.num_chains * ladder.num_images)
        return weights

    rule = Estimator("x", with_extra_step, ESTIMATORS["stepping-stone-detached"].limit, unbiased=False)
    with pytest.raises(AssertionError):
        weights.weights_sum_to_the_limit(rule, PRIOR_RULES["contrast"])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_step_of_the_prior_lowers_the_contrast_of_energies(sign):
    """On the same draws mean posterior energy minus mean prior energy falls; with the sign flipped it rises."""
    case = make_case("grid")
    ladder = exact_ladder(case, SCHEDULE, 50, 0)

    @torch.no_grad()
    def energy_contrast() -> float:
        energy = case.model.energy(ladder.latents)
        return float(energy[-1].mean() - energy[0].mean())

    weights = compute_weights(ladder, ESTIMATORS["maximum-likelihood"], PRIOR_RULES["contrast"])
    gradient = learning_gradient(case.model, case.x, ladder, weights)
    before = energy_contrast()
    with torch.no_grad():
        for name in case.model.parameter_groups()["prior"]:
            case.model.get_parameter(name).add_(gradient[name], alpha=0.01 * sign)
    assert (energy_contrast() < before) == (sign > 0)


# Mistakes put in: samplers, quadrature, networks, optimiser


@pytest.mark.parametrize("factor", [-1.0, 2.0])
def test_langevin_with_another_drift_is_seen(monkeypatch, factor):
    right = langevin_module.langevin_move

    def wrong(position, score, step_size, generator):
        return right(position, factor * score, step_size, generator)

    monkeypatch.setattr(langevin_module, "langevin_move", wrong)
    monkeypatch.setattr(prior_module, "langevin_move", wrong)
    with pytest.raises(AssertionError):
        test_samplers.test_ula_has_its_known_bias_on_a_normal(0.4)


def test_an_inverted_ratio_is_seen(monkeypatch):
    right = MALA.accept

    def inverted(state, proposal, log_ratio, generator):
        return right(state, proposal, -log_ratio, generator)

    monkeypatch.setattr(MALA, "accept", staticmethod(inverted))
    with pytest.raises(AssertionError):
        test_samplers.test_mala_is_exact_on_a_normal(0.8)


def test_odd_swaps_that_never_fire_are_seen(monkeypatch):
    def even_only(state, inverse_temperatures, parity, generator):
        return exchange(state, inverse_temperatures, 0, generator)

    monkeypatch.setattr(ladder_walk, "exchange", even_only)
    with pytest.raises(AssertionError):
        test_samplers.test_the_ladder_lets_both_parities_fire_and_reports_rates()


def test_a_trapezoid_of_running_totals_is_seen(monkeypatch):
    def running(t, values):
        parts = (values[1:] + values[:-1]) / 2 * t.diff()
        return parts.cumsum(0).sum()

    monkeypatch.setattr(test_quadrature, "trapezoid", running)
    with pytest.raises(AssertionError):
        test_quadrature.test_sums_by_hand()


def test_swapped_decays_of_adam_are_seen(monkeypatch):
    class Swapped(CleanAdam):
        def __init__(self, parameters, lr, betas):
            super().__init__(parameters, lr, betas[::-1])

    monkeypatch.setattr(test_optimiser, "CleanAdam", Swapped)
    with pytest.raises(AssertionError):
        test_optimiser.test_adam_equals_torchs_that_maximises((0.5, 0.999))
