"""Estimators of the learning gradient against the exact twins.

Every test below that takes `estimator` or `prior_rule` runs on all entries of `ESTIMATORS` and `PRIOR_RULES`: a new
one gets the whole contract of `thermograd.testing` by standing in the dict.
"""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from thermograd.errors import InputError
from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.noise import compute_noisy_weights
from thermograd.gradients.rules import (
    ESTIMATORS,
    PRIOR_RULES,
    Estimator,
    PriorRule,
    Weights,
    compute_weights,
)
from thermograd.ladders.ladder import Ladder
from thermograd.models.linear_gaussian import LinearGaussian
from thermograd.testing.exact_ladders import (
    SCHEDULE,
    TWINS,
    Case,
    estimates,
    exact_ladder,
    flat_target,
    make_case,
    seeded,
    weights_of,
    worst_deviation,
)
from thermograd.testing.expecting import images_of
from thermograd.testing.means import NUM_REPEATS, many_draws, mean_is_the_limit, slope_of_bias
from thermograd.testing.weights import CONTRACTS, limit_is_two_tensors

CONTRAST, MAXIMUM_LIKELIHOOD = PRIOR_RULES["contrast"], ESTIMATORS["maximum-likelihood"]
RULES = [("generator", rule) for rule in ESTIMATORS.values()] + [("prior", r) for r in PRIOR_RULES.values()]
UNBIASED = [(group, rule) for group, rule in RULES if getattr(rule, "unbiased", True)]
BIASED = [rule for rule in ESTIMATORS.values() if not rule.unbiased and not rule.uses_scores]
"""Those whose bias falls from two chains on; weights that read scores have a test of their own, with more draws."""

every_pair = pytest.mark.parametrize(
    ("estimator", "prior_rule"),
    [
        pytest.param(estimator, rule, id=f"{estimator.name}, {rule.name}")
        for estimator, rule in product(ESTIMATORS.values(), PRIOR_RULES.values())
    ],
)
every_twin = pytest.mark.parametrize("name", TWINS)


def named(rules):
    return [pytest.param(*rule, id=rule[-1].name) for rule in rules]


def gradient(
    case: Case, ladder: Ladder, estimator: Estimator, rule: PriorRule, **options
) -> dict[str, Tensor]:
    weights = compute_weights(ladder, estimator, rule)
    return learning_gradient(case.model, case.x, ladder, weights, **options)


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert float((actual[name] - value).norm()) <= tolerance * float(value.norm()), name


# The contract of every rule


@every_pair
@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_every_pair_keeps_the_contract(contract, estimator, prior_rule):
    contract(estimator, prior_rule)


@pytest.mark.parametrize("rule", [*ESTIMATORS.values(), *PRIOR_RULES.values()], ids=lambda rule: rule.name)
def test_limits_are_two_tensors(rule):
    limit_is_two_tensors(rule)


def test_too_few_chains_are_told():
    ladder = exact_ladder(make_case("linear"), SCHEDULE, 1, 6)
    with pytest.raises(InputError, match=r"^`num_chains` must be at least 2 for covariance, got 1\.$"):
        compute_weights(ladder, MAXIMUM_LIKELIHOOD, PRIOR_RULES["covariance"])


@every_pair
@pytest.mark.parametrize("num_shared", [None, 6])
@every_twin
def test_one_backward_pass_is_the_weighted_sum_over_draws(name, num_shared, estimator, prior_rule):
    case = make_case(name)
    ladder = exact_ladder(case, SCHEDULE, 2, 1, num_shared=num_shared)
    weights = compute_weights(ladder, estimator, prior_rule)
    expected = {key: torch.zeros_like(p) for key, p in case.model.named_parameters()}

    def add(value: Tensor, weight: Tensor) -> None:
        parts = torch.autograd.grad(value, list(case.model.parameters()), allow_unused=True)
        for key, part in zip(expected, parts, strict=True):
            if part is not None:
                expected[key] += weight * part

    for k, m, i in product(range(5), range(2), range(2)):
        z = ladder.latents[k, m, i : i + 1]
        add(case.model.log_likelihood(case.x[i : i + 1], z).sum(), weights.log_likelihood[k, m, i])
        add(case.model.energy(z).sum(), weights.energy[k, m, i])
    if weights.shared_energy is not None:
        assert ladder.prior_latents is not None
        for z, weight in zip(ladder.prior_latents, weights.shared_energy, strict=True):
            add(case.model.energy(z.unsqueeze(0)).sum(), weight)
    assert_same(learning_gradient(case.model, case.x, ladder, weights), expected)


def test_a_weight_of_0_for_one_image_drops_no_other():
    """Rows without any weight are skipped, and only those."""
    case = make_case("linear")
    ladder = exact_ladder(case, SCHEDULE, 1, 1)
    log_likelihood, energy = torch.zeros(5, 1, 2).double(), torch.zeros(5, 1, 2).double()
    log_likelihood[2, 0, 1] = 1.0
    energy[3, 0, 0] = 1.0
    found = learning_gradient(case.model, case.x, ladder, Weights(log_likelihood, energy, None))
    value = case.model.log_likelihood(case.x[1:], ladder.latents[2, 0, 1:]).sum()
    value = value + case.model.energy(ladder.latents[3, 0, 0])
    expected = torch.autograd.grad(value, list(case.model.parameters()))
    assert_same(found, dict(zip(found, expected, strict=True)))


@pytest.mark.parametrize("values", [(1.0, 0.0), (0.0, -2.0), (1.0, 1.0)])
def test_rungs_without_weight_cost_nothing(values, monkeypatch):
    case = make_case("linear")
    ladder = exact_ladder(case, SCHEDULE, 1, 1)
    weights = torch.zeros(5, 1, 2).double()
    weights[3, 0] = torch.tensor(values)
    seen = {"log_likelihood": 0, "energy": 0}
    for name in seen:
        right = getattr(case.model, name)

        def count(*inputs: Tensor, name: str = name, right=right) -> Tensor:
            seen[name] += inputs[-1][..., 0].numel()
            return right(*inputs)

        monkeypatch.setattr(case.model, name, count)
    learning_gradient(case.model, case.x, ladder, Weights(weights, weights, None))
    assert seen == {"log_likelihood": 2, "energy": sum(value != 0 for value in values)}


@every_pair
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 1000])
def test_chunks_add_up_to_the_whole(chunk_size, estimator, prior_rule):
    case = make_case("grid", num_images=3)
    ladder = exact_ladder(case, SCHEDULE, 2, 2, num_shared=6)
    whole = gradient(case, ladder, estimator, prior_rule)
    assert_same(gradient(case, ladder, estimator, prior_rule, chunk_size=chunk_size), whole)


@every_pair
@pytest.mark.parametrize("needed", ["its rungs", "any draws at t = 0"])
def test_a_ladder_without_its_lower_end_is_refused(needed, estimator, prior_rule):
    ladder = exact_ladder(make_case("linear"), SCHEDULE, 4, 6, num_shared=6)
    top = replace(
        ladder,
        inverse_temperatures=ladder.inverse_temperatures[-1:],
        latents=ladder.latents[-1:],
        log_likelihood=ladder.log_likelihood[-1:],
        energy=ladder.energy[-1:],
        score=None if ladder.score is None else ladder.score[-1:],
        prior_latents=ladder.prior_latents if needed == "its rungs" else None,
    )
    if needed == "its rungs" and not (estimator.needs_prior_rung or prior_rule.needs_prior_rung):
        case = make_case("linear")
        if "multistate" in (estimator.name, prior_rule.name.removeprefix("contrast-")):
            return  # read every rung there is
        assert_same(gradient(case, top, estimator, prior_rule), gradient(case, ladder, estimator, prior_rule))
        return
    with pytest.raises(InputError, match=r"^`ladder` must hold"):
        compute_weights(top, estimator, prior_rule)


@pytest.mark.parametrize("name", [name for name in PRIOR_RULES if name != "contrast-multistate"])
def test_shared_prior_draws_stand_for_the_lowest_rung(name):
    """The rung's own draws, passed as shared ones, give the same contrast; multistate reads other rungs for E_0."""
    case, rule = make_case("grid", num_images=1), PRIOR_RULES[name]
    ladder = exact_ladder(case, SCHEDULE, 4, 8)
    assert ladder.score is not None
    shared = replace(
        ladder, prior_latents=ladder.latents[0].flatten(0, 1), prior_score=ladder.score[0].flatten(0, 1)
    )
    assert_same(
        gradient(case, shared, MAXIMUM_LIKELIHOOD, rule), gradient(case, ladder, MAXIMUM_LIKELIHOOD, rule)
    )


def test_names_are_those_of_the_entries():
    assert all(name == rule.name for name, rule in [*ESTIMATORS.items(), *PRIOR_RULES.items()])


# Weights by hand


def test_weights_of_a_ladder_by_hand():
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    log_likelihood = torch.tensor([[1.0, 3.0], [2.0, 6.0], [5.0, 4.0]], dtype=torch.float64).unsqueeze(-1)
    ladder = Ladder(t, torch.zeros(3, 2, 1, 1), log_likelihood, torch.zeros_like(log_likelihood))

    def table(name: str) -> Tensor:
        return compute_weights(ladder, ESTIMATORS[name], CONTRAST).log_likelihood[..., 0]

    def close(found: Tensor, rows: list[list[float]]) -> None:
        torch.testing.assert_close(found, torch.tensor(rows, dtype=torch.float64))

    close(table("maximum-likelihood"), [[0, 0], [0, 0], [0.5, 0.5]])
    close(table("thermodynamic-detached"), [[0.125, 0.125], [0.25, 0.25], [0.125, 0.125]])
    close(table("thermodynamic-complete"), [[0.125, 0.125], [-0.25, 0.75], [0.25, 0.0]])
    low, high = 1 / (1 + math.exp(1.0)), 1 / (1 + math.exp(2.0))
    close(table("stepping-stone-detached"), [[low / 2, (1 - low) / 2], [high / 2, (1 - high) / 2], [0, 0]])
    close(table("stepping-stone-complete"), [[low / 2, (1 - low) / 2], [high - 0.25, 0.75 - high], [0, 0]])

    def prior_table(name: str) -> Tensor:
        return compute_weights(ladder, MAXIMUM_LIKELIHOOD, PRIOR_RULES[name]).energy[..., 0]

    close(prior_table("contrast"), [[0.5, 0.5], [0, 0], [-0.5, -0.5]])
    close(prior_table("covariance"), [[0.25, -0.25], [1.0, -1.0], [-0.125, 0.125]])
    mass = (0.5 / 0.5 + 0.25) / 2
    close(prior_table("detached-objective"), [[mass + 0.25, mass - 0.25], [-0.5, -0.5], [-0.125, -0.125]])


# What each rule estimates


@every_twin
def test_draws_are_what_the_backward_pass_makes_of_them(name):
    """Gradients of draws, on which the statistical tests rest, against `learning_gradient` on one repeat."""
    case, ladder, gradients = many_draws(name)
    rule = ESTIMATORS["thermodynamic-complete"], PRIOR_RULES["covariance"]
    whole = compute_weights(ladder, *rule)
    first = images_of(ladder, list(range(len(case.x))))
    found = gradient(case, first, *rule)
    for group in ("generator", "prior"):
        drawn = estimates(weights_of(whole, group), gradients[group], NUM_REPEATS)[0]
        torch.testing.assert_close(drawn, flat_target(case, found, group), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("group", "rule"), named(UNBIASED))
@pytest.mark.parametrize("num_chains", [2, 4])
@every_twin
def test_the_mean_is_the_stated_limit(name, num_chains, group, rule):
    mean_is_the_limit(name, group, rule, num_chains)


@pytest.mark.parametrize("rule", BIASED, ids=[rule.name for rule in BIASED])
@every_twin
def test_the_bias_of_the_others_falls_like_one_over_chains(name, rule):
    slope, error = slope_of_bias(name, "generator", rule)
    assert error < 0.15
    assert abs(slope + 1) < 4 * error, f"slope {slope:.3f} with error {error:.3f}"


@pytest.mark.parametrize("name", ["linear"])
def test_distances_of_the_limits_to_the_evidence_gradient(name):
    """Only maximum likelihood, stepping-stone-complete and the contrast aim at ∇ log p on any schedule.

    The others stay away from it, each by its own distance; complete and covariance come near as rungs grow.
    """
    case = make_case(name)
    exact = case.twin.evidence_gradient(case.x)

    def distance(group: str, rule: Estimator | PriorRule, t: Tensor) -> float:
        wanted = flat_target(case, exact, group)
        found = flat_target(case, case.twin.gradient_target(case.x, t, *rule.limit(t)), group)
        return float((found - wanted).norm() / wanted.norm())

    fine = torch.linspace(0, 1, 2001, dtype=torch.float64).square()
    coarse = {rule.name: distance(group, rule, SCHEDULE) for group, rule in RULES}
    limit = {rule.name: distance(group, rule, fine) for group, rule in RULES}
    for exact_name in ("maximum-likelihood", "stepping-stone-complete", "contrast"):
        assert coarse[exact_name] < 1e-12
    for nearing in ("thermodynamic-complete", "covariance"):
        assert 0.01 < coarse[nearing] < 0.1
        assert limit[nearing] < 1e-5
    for biased in ("thermodynamic-detached", "stepping-stone-detached", "detached-objective"):
        assert coarse[biased] > 0.2
        assert limit[biased] > 0.2


@every_twin
def test_detached_rules_together_climb_j(name):
    """On a fine ladder detached and detached-objective tend to the gradient of J, and to no other."""
    case = make_case(name)
    t = torch.linspace(0, 1, 1001, dtype=torch.float64).square()
    j = case.twin.detached_objective_gradient(case.x)
    for group, rule in (
        ("generator", ESTIMATORS["thermodynamic-detached"]),
        ("prior", PRIOR_RULES["detached-objective"]),
    ):
        target = flat_target(case, case.twin.gradient_target(case.x, t, *rule.limit(t)), group)
        wanted = flat_target(case, j, group)
        assert float((target - wanted).norm() / wanted.norm()) < 1e-3


@pytest.mark.parametrize("name", ["linear"])
def test_variance_of_maximum_likelihood_is_the_closed_form(name):
    case, ladder, gradients = many_draws(name)
    assert isinstance(case.twin, LinearGaussian)
    weights = compute_weights(ladder.chains(slice(1)), MAXIMUM_LIKELIHOOD, CONTRAST)
    draws = estimates(weights.log_likelihood, gradients["generator"][:, :1], NUM_REPEATS)
    wanted = flat_target(case, case.twin.posterior_gradient_variance(case.x), "generator")
    squares = (draws - draws.mean(0)).square()
    error = squares.std(0) / math.sqrt(NUM_REPEATS)
    assert float(((squares.mean(0) - wanted) / error).abs().max()) < 4


# The dial of variance


@pytest.mark.parametrize("estimator", ["maximum-likelihood", "thermodynamic-detached"])
@every_twin
def test_noise_multiplier_2_adds_four_times_the_chain_variance(name, estimator):
    case, ladder, gradients = many_draws(name)
    rule = ESTIMATORS[estimator]
    sign = (torch.rand(NUM_REPEATS, generator=seeded(30)) < 0.5).double() * 2 - 1
    plain, up, down = (
        estimates(weights.log_likelihood, gradients["generator"], NUM_REPEATS)
        for weights in (
            compute_weights(ladder, rule, CONTRAST),
            compute_noisy_weights(ladder, rule, CONTRAST, 2.0, 1.0),
            compute_noisy_weights(ladder, rule, CONTRAST, 2.0, -1.0),
        )
    )
    torch.testing.assert_close((up + down) / 2, plain, rtol=1e-9, atol=1e-12)
    noisy = torch.where(sign.unsqueeze(1) > 0, up, down)
    target = flat_target(
        case, case.twin.gradient_target(case.x, SCHEDULE, *rule.limit(SCHEDULE)), "generator"
    )
    assert worst_deviation(noisy, target) < 1
    # In expectation |noisy|^2 = 5 |plain|^2 around the target: the mean of this difference is 0.
    excess = (noisy - target).square().sum(1) - 5 * (plain - target).square().sum(1)
    assert abs(float(excess.mean())) < 4 * float(excess.std()) / math.sqrt(NUM_REPEATS)
    added = float(noisy.var(0).sum() - plain.var(0).sum()) / float(plain.var(0).sum())
    assert added == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize("num_shared", [None, 6])
def test_noise_of_the_prior_gradient_is_the_difference_of_halves(num_shared):
    case = make_case("grid")
    ladder = exact_ladder(case, SCHEDULE, 4, 31, num_shared=num_shared)
    rules = ESTIMATORS["thermodynamic-complete"], PRIOR_RULES["detached-objective"]
    halves = [
        gradient(case, ladder.chains(slice(2 * which, 2 * which + 2)).prior_half(which), *rules)
        for which in (0, 1)
    ]
    plain = gradient(case, ladder, *rules)
    for sign in (1.0, -1.0):
        weights = compute_noisy_weights(ladder, *rules, 3.0, sign)
        noisy = learning_gradient(case.model, case.x, ladder, weights)
        wanted = {key: plain[key] + 1.5 * sign * (halves[0][key] - halves[1][key]) for key in plain}
        assert_same(noisy, wanted, 1e-9)


@every_pair
def test_noise_multiplier_0_changes_nothing(estimator, prior_rule):
    ladder = exact_ladder(make_case("linear"), SCHEDULE, 4, 32)
    noisy = compute_noisy_weights(ladder, estimator, prior_rule, 0.0, 1.0)
    for left, right in zip(noisy[:2], compute_weights(ladder, estimator, prior_rule)[:2], strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(
    ("num_chains", "num_shared", "estimator", "message"),
    [
        (3, None, "maximum-likelihood", r"^`num_chains` must be even for `noise_multiplier`, got 3\.$"),
        (2, 5, "maximum-likelihood", r"^`prior_latents` must be even for `noise_multiplier`, got 5\.$"),
        (2, None, "thermodynamic-complete", r"^`num_chains` must be at least 2 for thermodynamic-complete"),
    ],
)
def test_halves_that_cannot_be_are_refused(num_chains, num_shared, estimator, message):
    ladder = exact_ladder(make_case("linear"), SCHEDULE, num_chains, 33, num_shared=num_shared)
    with pytest.raises(InputError, match=message):
        compute_noisy_weights(ladder, ESTIMATORS[estimator], CONTRAST, 2.0, 1.0)


# States of a visit


@every_pair
def test_rules_of_last_states_give_the_others_no_weight(estimator, prior_rule):
    """Three states of four chains, as a visit leaves them: who reads the last sees what a ladder of these says."""
    ladder = replace(exact_ladder(make_case("linear"), SCHEDULE, 12, 40), num_states=3)
    assert (ladder.num_draws, ladder.num_chains) == (12, 4)
    found = compute_weights(ladder, estimator, prior_rule)
    wanted = compute_weights(ladder.last_states(), estimator, prior_rule)
    for rule, values, alone in zip((estimator, prior_rule), found, wanted, strict=False):
        if rule.states == "all":
            assert int(values[-1, :8].ne(0).sum()) == 16
        else:
            assert torch.equal(values[:, 8:], alone)
            assert not values[:, :8].any()


def test_halves_of_chains_keep_their_states_together():
    """The noise dial on all states: chains 0 and 1 against chains 2 and 3, each with its three states."""
    ladder = replace(exact_ladder(make_case("linear"), SCHEDULE, 12, 41), num_states=3)
    rules = ESTIMATORS["maximum-likelihood-stein"], PRIOR_RULES["contrast-stein"]
    plain, noisy = compute_weights(ladder, *rules), compute_noisy_weights(ladder, *rules, 2.0, 1.0)
    first = torch.arange(12).view(3, 4)[:, :2].flatten()
    half = compute_weights(ladder.chains(slice(0, 2)), *rules)
    for whole, added, part in zip(plain[:2], noisy[:2], half[:2], strict=True):
        torch.testing.assert_close(added[:, first] - whole[:, first], part)


def test_scores_that_are_missing_are_asked_for():
    ladder = replace(exact_ladder(make_case("linear"), SCHEDULE, 2, 42), score=None)
    with pytest.raises(InputError, match=r"^`ladder` must hold the scores of its draws"):
        compute_weights(ladder, ESTIMATORS["maximum-likelihood-stein"], CONTRAST)
