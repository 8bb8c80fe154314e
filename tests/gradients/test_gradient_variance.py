"""Variance of gradients: known variances are recovered, each source apart, and intervals cover them."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from thermograd.errors import InputError
from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.moments import (
    Estimate,
    Moments,
    ReferenceMoments,
    Spread,
    heavy_tailed,
    jackknife,
    join,
    summarise,
)
from thermograd.gradients.reference import Reference, ReferenceSettings, reference_gradient
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES, compute_weights
from thermograd.gradients.variance import Collector, Measurement, make_rule, measure_gradients, rung_weights
from thermograd.ladders.ladder import Ladder
from thermograd.models.linear_gaussian import LinearGaussian
from thermograd.testing.exact_ladders import SCHEDULE, Case, exact_ladder, make_case, seeded

MAXIMUM_LIKELIHOOD, CONTRAST = ESTIMATORS["maximum-likelihood"], PRIOR_RULES["contrast"]
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


# Gaussian noise added to a constant: B batches, R repeats, P coordinates; each source has a scale a coordinate.


def noisy_moments(
    num_studies: int,
    shape: tuple[int, int],
    mean: Tensor,
    chain_std: Tensor,
    batch_std: Tensor,
    seed: int,
    bias: Tensor | None = None,
    reference_std: float = 0.0,
) -> Moments:
    """Return moments of many studies at once, the sums of Gaussian gradients without a collector."""
    (num_batches, repeats), size, generator = shape, len(mean), seeded(seed)

    def noise(*lead: int) -> Tensor:
        return torch.randn(num_studies, num_batches, *lead, size, generator=generator, dtype=torch.float64)

    truth = mean + batch_std * noise()
    draws = truth.unsqueeze(2) + chain_std * noise(repeats)
    draws = draws if bias is None else draws + bias
    means = draws.mean(2)
    within = (draws - means.unsqueeze(2)).square().sum((2, 3))
    reference = None
    if bias is not None:
        found = truth + reference_std * noise()
        error = torch.full_like(within, size * reference_std**2)
        one = torch.full_like(within, float(chain_std.square().sum()))
        reference = ReferenceMoments(means @ found.mT, found @ found.mT, error, one)
    return Moments(size, repeats, means @ means.mT, within, reference)


def scales(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a mean, chain and batch standard deviations that differ between coordinates."""
    steps = torch.linspace(0, 1, size, dtype=torch.float64)
    return 1 + steps, 0.5 + steps, 1.5 - steps


def assert_mean(found: Tensor, truth: float) -> None:
    error = float(found.std() / math.sqrt(len(found)))
    assert abs(float(found.mean()) - truth) < 4 * error, (float(found.mean()), truth, error)


@pytest.mark.parametrize("shape", [(2, 2), (3, 8), (16, 4)])
@pytest.mark.parametrize("sources", [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.2, 1.0)])
def test_each_source_of_a_known_variance_is_recovered(shape, sources):
    mean, chain, batch = scales(5)
    chain, batch = chain * sources[0], batch * sources[1]
    found = summarise(noisy_moments(4000, shape, mean, chain, batch, seed=1))
    truth = {
        "chain_variance": float(chain.square().mean()),
        "batch_variance": float(batch.square().mean()),
        "total_variance": float(chain.square().mean() + batch.square().mean()),
        "mean_square": float(mean.square().mean()),
    }
    for name, value in truth.items():
        if name == "chain_variance" and sources[0] == 0:
            assert found[name].value.abs().max() < 1e-28
        else:
            assert_mean(found[name].value, value)


def test_without_noise_in_batches_half_of_the_estimates_are_negative():
    """Nothing is clipped: an unbiased estimate of 0 must fall on both sides."""
    mean, chain, batch = scales(5)
    found = summarise(noisy_moments(400, (8, 4), mean, chain, 0 * batch, seed=2))
    share = float((found["batch_variance"].value < 0).double().mean())
    assert 0.4 < share < 0.7
    assert bool((found["batch_variance"].low < found["batch_variance"].value).all())


def test_bias_error_and_cosine_are_recovered_and_the_noise_is_subtracted():
    mean, chain, batch = scales(5)
    bias = torch.tensor([0.5, 0.0, -0.3, 0.2, 0.0], dtype=torch.float64)
    moments = noisy_moments(4000, (6, 4), mean, chain, batch, 3, bias, reference_std=0.4)
    found = summarise(moments)
    square, chains = float(bias.square().mean()), float(chain.square().mean())
    both = float(batch.square().mean()) + chains
    truth = {
        "squared_bias": square,
        "mean_square_error": square + chains,
        "squared_bias_of_all_data": square,
        "mean_square_error_of_all_data": square + both,
        "reference_mean_square": float((mean.square() + batch.square()).mean()),
    }
    for name, value in truth.items():
        assert_mean(found[name].value, value)
    torch.testing.assert_close(found["draw_variance"].value[0], torch.tensor(chains, dtype=torch.float64))
    # Ratios are not unbiased; one study of many batches shows what they tend to.
    large = summarise(noisy_moments(1, (1500, 4), mean, chain, batch, 4, bias, reference_std=0.4))
    length = float((mean.square() + batch.square()).sum())
    product = length + float((mean * bias).sum())
    estimate = length + float((2 * mean * bias + bias.square()).sum())
    ratios = {
        "reference_relative_squared_error": 5 * 0.4**2 / length,
        "relative_squared_bias": float(bias.square().sum()) / length,
        "relative_squared_bias_of_all_data": square / float(mean.square().mean()),
        "relative_mean_square_error": float((bias.square() + chain.square()).sum()) / length,
        "cosine": product / math.sqrt(length * estimate),
        "cosine_of_one": product / math.sqrt(length * (estimate + float(chain.square().sum()))),
        "normalised_variance": both / float((mean + bias).square().mean()),
        "signal_to_noise": math.sqrt(float((mean + bias).square().mean()) / both),
    }
    for name, value in ratios.items():
        half = float(large[name].high - large[name].low) / 2
        assert abs(float(large[name].value) - value) < 2 * half, name
        assert 0 < half < 0.2 * abs(value) + 0.02, name


@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (16, 4)])
@pytest.mark.parametrize("sources", [(1.0, 1.0), (1.0, 0.3), (0.3, 1.0)])
@pytest.mark.parametrize("size", [3, 40])
def test_intervals_cover_the_truth_in_92_to_98_percent(shape, sources, size):
    mean, chain, batch = scales(size)
    mean, chain, batch = 3 * mean, chain * sources[0], batch * sources[1]
    found = summarise(noisy_moments(1000, shape, mean, chain, batch, seed=5))
    chains, batches = float(chain.square().mean()), float(batch.square().mean())
    truth = {
        "chain_variance": chains,
        "batch_variance": batches,
        "total_variance": chains + batches,
        "normalised_variance": (chains + batches) / float(mean.square().mean()),
    }
    for name, value in truth.items():
        estimate = found[name]
        covered = ((estimate.low <= value) & (value <= estimate.high)).double().mean()
        assert 0.92 <= float(covered) <= 0.98, (name, float(covered))


def test_intervals_of_bias_error_and_cosine_cover():
    mean, chain, batch = scales(40)
    bias = 0.3 * torch.linspace(-1, 1, 40, dtype=torch.float64)
    found = summarise(noisy_moments(1000, (16, 4), mean, chain, 0.5 * batch, 6, bias, reference_std=0.3))
    square, chains = float(bias.square().mean()), float(chain.square().mean())
    truth = {"squared_bias": square, "mean_square_error": square + chains}
    for name, value in truth.items():
        covered = ((found[name].low <= value) & (value <= found[name].high)).double().mean()
        assert 0.92 <= float(covered) <= 0.98, (name, float(covered))


def test_a_percentile_bootstrap_over_16_batches_would_not_cover():
    """Why intervals are not those of a bootstrap: one with 16 batches misses the batch part too often."""
    size = 1
    ones = torch.ones(size, dtype=torch.float64)
    moments = noisy_moments(300, (16, 4), ones, 0.3 * ones, ones, seed=7)
    pick = torch.randint(16, (400, 16), generator=seeded(8))
    counts = torch.stack([(pick == b).sum(1) for b in range(16)], 1).double()
    square = moments.gram.diagonal(dim1=-2, dim2=-1) @ counts.mT
    whole = ((moments.gram @ counts.mT) * counts.mT).sum(-2)
    draws = (square - whole / 16) / 15 - moments.within @ counts.mT / (16 * 3 * 4)
    low, high = draws.quantile(0.025, dim=-1), draws.quantile(0.975, dim=-1)
    assert float(((low <= 1) & (high >= 1)).double().mean()) < 0.9


# The collector


def gradients_of(num_batches: int, repeats: int, seed: int = 0) -> list[list[dict[str, Tensor]]]:
    generator = seeded(seed)
    return [
        [
            {
                "first": torch.randn(2, 3, generator=generator, dtype=torch.float64) + b,
                "second": torch.randn(4, generator=generator, dtype=torch.float64),
            }
            for _ in range(repeats)
        ]
        for b in range(num_batches)
    ]


def collect(gradients: Sequence[Sequence[dict[str, Tensor]]]) -> dict[str, Moments]:
    collector = Collector()
    for batch in gradients:
        for gradient in batch:
            collector.add(gradient)
        collector.end_batch()
    return collector.moments()


def test_the_collector_keeps_the_sums_of_all_gradients():
    gradients = gradients_of(4, 3)
    blocks = collect(gradients)
    blocks["both"] = join(list(blocks.values()))
    for name, moments in blocks.items():
        parts = ["first", "second"] if name == "both" else [name]
        stack = torch.stack(
            [torch.stack([torch.cat([g[p].flatten() for p in parts]) for g in batch]) for batch in gradients]
        )
        assert (moments.num_parameters, moments.num_repeats) == (stack.shape[-1], 3)
        torch.testing.assert_close(moments.gram, stack.mean(1) @ stack.mean(1).mT)
        torch.testing.assert_close(moments.within, (stack - stack.mean(1, keepdim=True)).square().sum((1, 2)))
        found = summarise(moments)
        torch.testing.assert_close(found["chain_variance"].value, stack.var(1).mean())
        between = stack.mean(1).var(0).mean()
        torch.testing.assert_close(found["batch_variance"].value, between - stack.var(1).mean() / 3)


def test_a_constant_estimator_has_no_variance():
    """Whatever the spread of its coordinates, which a peer took for the variance."""
    gradient = {"weight": torch.tensor([1000.0, -3.0, 0.1, 7.0])}
    found = summarise(collect([[gradient] * 5] * 4)["weight"])
    assert float(found["chain_variance"].value) == 0.0
    assert float(found["chain_variance"].high) == 0.0
    square = float(found["mean_square"].value)
    assert square == pytest.approx(float(gradient["weight"].square().mean()))
    for name in ("batch_variance", "total_variance", "normalised_variance"):
        assert abs(float(found[name].value)) < 1e-14 * square, name


def test_small_noise_on_a_large_mean_survives_float32():
    """Sums of squares in float32 would have lost it."""
    generator = seeded(9)
    noise = torch.randn(6, 8, 4000, generator=generator)
    gradients = [[{"weight": 100 + 0.01 * each} for each in batch] for batch in noise]
    found = summarise(collect(gradients)["weight"])
    assert float(found["chain_variance"].value) == pytest.approx(1e-4, rel=0.05)
    assert abs(float(found["batch_variance"].value)) < 4e-6


def test_gradients_given_are_not_changed():
    gradients = gradients_of(3, 3)
    before = [[{name: value.clone() for name, value in g.items()} for g in batch] for batch in gradients]
    collect(gradients)
    for old, new in zip(
        itertools.chain.from_iterable(before), itertools.chain.from_iterable(gradients), strict=True
    ):
        assert all(torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize("repeats", [[1], [3, 2]])
def test_repeats_must_be_enough_and_the_same(repeats):
    with pytest.raises(InputError, match=r"^`repeats` must be"):
        collect([gradients_of(1, count)[0] for count in repeats])


def test_a_single_batch_has_a_chain_part_alone():
    found = summarise(collect(gradients_of(1, 5))["first"])
    assert list(found) == ["chain_variance"]
    assert found["chain_variance"].record()["low"] is None


def test_two_batches_have_values_without_intervals():
    found = summarise(collect(gradients_of(2, 5))["first"])
    assert all(estimate.record()["low"] is None for estimate in found.values())
    assert math.isfinite(float(found["batch_variance"].value))


@pytest.mark.parametrize("num_batches", [2, 3, 4])
def test_three_batches_are_the_fewest_with_intervals(num_batches):
    moments = heavy_moments(0.0, (num_batches, 4))
    found = summarise(moments) | {"jackknife": jackknife(torch.arange(1.0, num_batches + 2))}
    for name, estimate in found.items():
        assert estimate.value.isfinite().any(), name
        assert bool(estimate.low.isfinite().any()) == (num_batches >= 3), name
    uneven = replace(moments, within=moments.within * torch.logspace(0, 6, num_batches).double())
    assert bool(heavy_tailed(uneven).all()) == bool(heavy_tailed(uneven).any()) == (num_batches >= 3)


def test_jackknife_of_a_mean_is_students():
    values = torch.tensor([1.0, 2.0, 4.0, 7.0], dtype=torch.float64)
    leave_out = (values.sum() - values) / 3
    found = jackknife(torch.cat([values.mean().view(1), leave_out]))
    half = 3.182446305284263 * float(values.std()) / 2
    assert float(found.high - found.value) == pytest.approx(half)
    assert float(found.value - found.low) == pytest.approx(half)


def test_a_spread_of_one_has_no_squares():
    spread = Spread()
    spread.add({"weight": torch.ones(3)})
    assert spread.squares == {"weight": 0.0}


# Exact draws on twins


def measure(
    case: Case,
    batches: Sequence[Tensor],
    num_chains: int,
    repeats: int,
    estimator: str,
    *,
    t: Tensor = SCHEDULE,
    prior_rule: str = "contrast",
    references: Sequence[Reference] | None = None,
    by_rung: bool = False,
    num_shared: int | None = None,
) -> Measurement:
    """Measure an estimator with independent exact draws."""

    def draw(b: int, r: int) -> tuple[Ladder, float]:
        whole = exact_ladder(replace(case, x=batches[b]), t, num_chains, 1000 * b + r, num_shared=num_shared)
        return whole, 7.0

    rules = {"it": make_rule(ESTIMATORS[estimator], PRIOR_RULES[prior_rule])}
    options = {"references": references, "by_rung": by_rung}
    return measure_gradients(case.model, batches, draw, rules, repeats, **options)["it"]  # type: ignore[arg-type]


def twin_batches(num_batches: int, num_images: int = 3) -> tuple[Case, list[Tensor]]:
    case = make_case("linear", num_batches * num_images)
    return case, list(case.x.split(num_images))


@pytest.mark.parametrize("num_chains", [1, 4])
def test_the_chain_part_on_the_twin_is_the_closed_form(num_chains):
    """Exact draws: `posterior_gradient_variance` in each parameter, within 4 of the estimate's own errors."""
    num_batches, repeats = 24, 24
    case, batches = twin_batches(num_batches)
    assert isinstance(case.twin, LinearGaussian)
    found = measure(case, batches, num_chains, repeats, "maximum-likelihood", t=ENDS)
    exact = [case.twin.posterior_gradient_variance(x) for x in batches]
    for name in ("weight", "bias"):
        moments = found.groups[name]
        truth = torch.stack([each[name].sum() for each in exact]) / num_chains
        ratio = moments.within / (repeats - 1) / truth  # the batches' truths differ
        assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(num_batches), name


def test_the_batch_part_on_the_twin_is_the_variance_of_exact_gradients():
    """Its truth is the variance of E[ĝ | batch] over batches, here over the very batches that are measured."""
    case, batches = twin_batches(12)
    found = measure(case, batches, 4, 40, "maximum-likelihood", t=ENDS)
    exact = [case.twin.evidence_gradient(x) for x in batches]
    for name in ("weight", "bias"):
        between = torch.stack([each[name].flatten() for each in exact]).var(0).mean()
        moments = found.groups[name]
        # Given the batches, ḡ_b misses its mean by a Gaussian of variance v = w_b / (R (R - 1)); the error of the
        # variance between is at most that of 2 cov(truth, miss) + var(miss).
        size = moments.num_parameters
        noise = float((moments.within / (40 * 39)).mean()) / size
        error = math.sqrt(4 * noise * float(between) + 2 * noise**2) / math.sqrt(11)
        assert abs(float(summarise(moments)["batch_variance"].value) - float(between)) < 4 * error, name


@pytest.mark.parametrize("estimator", ["maximum-likelihood", "thermodynamic-detached"])
def test_twice_the_chains_halve_the_chain_part_and_leave_the_rest(estimator):
    num_batches, repeats = 20, 20
    case, batches = twin_batches(num_batches)
    few, many = (measure(case, batches, count, repeats, estimator) for count in (2, 4))
    for block in ("generator", "prior", "total"):
        ratio = many.groups[block].within / few.groups[block].within
        # A ratio of means, whose error comes from its terms over batches.
        value = float(many.groups[block].within.sum() / few.groups[block].within.sum())
        residual = many.groups[block].within - value * few.groups[block].within
        error = float(residual.std() / few.groups[block].within.mean()) / math.sqrt(num_batches)
        assert len(ratio) == num_batches
        assert error < 0.08
        assert abs(value - 0.5) < 4 * error, block
        first, second = (summarise(each.groups[block])["batch_variance"] for each in (few, many))
        assert float(first.low) < float(second.value) < float(first.high)


def exact_references(case: Case, batches: Sequence[Tensor]) -> list[Reference]:
    return [
        Reference(
            gradient,
            dict.fromkeys(gradient, 0.0),
            dict.fromkeys(gradient, 0.0),
            case.twin.expected_log_likelihood(x, 1.0).detach(),
            torch.ones(len(x)),
            0.0,
            (),
        )
        for x in batches
        for gradient in [case.twin.evidence_gradient(x)]
    ]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bias_on_the_twin_is_the_distance_of_the_limit(estimator):
    """Against exact gradients; the stepping stones with few chains have a bias beyond their limit's."""
    case, batches = twin_batches(24)
    found = measure(case, batches, 4, 12, estimator, references=exact_references(case, batches))
    summary = summarise(found.groups["generator"])
    exact = [case.twin.evidence_gradient(x) for x in batches]
    limit = ESTIMATORS[estimator].limit(SCHEDULE)
    aims = [case.twin.gradient_target(x, SCHEDULE, *limit) for x in batches]
    size = found.groups["generator"].num_parameters
    squares = [
        sum(float((aim[n] - truth[n]).square().sum()) for n in ("weight", "bias")) / size
        for aim, truth in zip(aims, exact, strict=True)
    ]
    truth = sum(squares) / len(squares)
    half = float(summary["squared_bias"].high - summary["squared_bias"].low) / 2
    length = float(summary["reference_mean_square"].value)
    if ESTIMATORS[estimator].unbiased:
        # Half a 95 % interval of 24 batches is 2.07 standard errors; truths of these batches vary less than it.
        assert abs(float(summary["squared_bias"].value) - truth) < 2 * half
    if estimator == "maximum-likelihood":
        assert abs(float(summary["squared_bias"].value)) < 2 * half < 0.1 * length
        assert float(summary["cosine"].value) > 0.99
    if estimator == "thermodynamic-detached":
        assert float(summary["squared_bias"].low) > 0
    chain = float(summary["chain_variance"].value)
    error = float(summary["mean_square_error"].value)
    assert error == pytest.approx(float(summary["squared_bias"].value) + chain)


@pytest.mark.parametrize("num_shared", [None, 6])
@pytest.mark.parametrize("estimator", ["thermodynamic-detached", "thermodynamic-complete"])
def test_parts_of_rungs_add_up_to_the_gradient_and_their_variances_to_its_own(estimator, num_shared):
    case, batches = twin_batches(6)
    ladder = exact_ladder(replace(case, x=batches[0]), SCHEDULE, 2, 0, num_shared=num_shared)
    weights = compute_weights(ladder, ESTIMATORS[estimator], CONTRAST)
    parts = rung_weights(ladder, weights)
    assert [t for t, _ in parts] == pytest.approx(SCHEDULE.tolist())
    whole = learning_gradient(case.model, batches[0], ladder, weights)
    for name, value in whole.items():
        pieces = [learning_gradient(case.model, batches[0], ladder, part)[name] for _, part in parts]
        torch.testing.assert_close(torch.stack(pieces).sum(0), value)
    found = measure(case, batches, 2, 30, estimator, by_rung=True, num_shared=num_shared)
    plain = measure(case, batches, 2, 30, estimator, num_shared=num_shared)
    assert plain.rungs == ()
    for block in ("generator", "prior", "total"):
        total = summarise(plain.groups[block])["chain_variance"]
        assert float(summarise(found.groups[block])["chain_variance"].value) == pytest.approx(
            float(total.value)
        )
        summed = sum(rung.chain_variance[block] for rung in found.rungs)
        # Independent rungs: their cross terms vanish on average; 180 repeats leave noise of this size.
        assert summed == pytest.approx(float(total.value), rel=0.25)
    assert found.rungs[2].chain_variance["prior"] == 0.0  # the contrast has no weight between the ends
    assert all(rung.chain_variance["generator"] > 0 for rung in found.rungs[1:])


def test_the_only_rung_with_weight_has_the_variance_of_the_whole():
    """Maximum likelihood weighs t = 1 alone for the generator: both sources there are those of the estimator."""
    case, batches = twin_batches(4)
    found = measure(case, batches, 2, 3, "maximum-likelihood", by_rung=True)
    whole = summarise(found.groups["generator"])
    top = found.rungs[-1]
    assert top.inverse_temperature == 1
    assert top.chain_variance["generator"] == pytest.approx(float(whole["chain_variance"].value))
    assert top.batch_variance["generator"] == pytest.approx(float(whole["batch_variance"].value))
    assert [rung.chain_variance["generator"] for rung in found.rungs[:-1]] == [0.0] * 4


def test_shared_draws_are_a_part_of_their_own_under_maximum_likelihood():
    case, batches = twin_batches(3)
    ladder = exact_ladder(replace(case, x=batches[0]), ENDS, 2, 0, num_shared=6)
    top = replace(
        ladder,
        inverse_temperatures=ENDS[1:],
        latents=ladder.latents[1:],
        log_likelihood=ladder.log_likelihood[1:],
        energy=ladder.energy[1:],
    )
    weights = compute_weights(top, MAXIMUM_LIKELIHOOD, CONTRAST)
    parts = rung_weights(top, weights)
    assert [t for t, _ in parts] == [0.0, 1.0]
    whole = learning_gradient(case.model, batches[0], top, weights)
    pieces = [learning_gradient(case.model, batches[0], top, part) for _, part in parts]
    for name, value in whole.items():
        torch.testing.assert_close(pieces[0][name] + pieces[1][name], value)
    assert pieces[0]["energy_curvature"].count_nonzero() > 0


def test_the_variance_of_log_likelihoods_is_the_twins():
    case, batches = twin_batches(12)
    found = measure(case, batches, 4, 50, "thermodynamic-detached")
    exact = torch.stack([case.twin.variance_log_likelihood(x, SCHEDULE).mean(-1) for x in batches], -1)
    # Of 12 x 3 images, each from 200 draws; sd of a variance of a near-Gaussian l is sqrt(2/200), of a skewed one more.
    torch.testing.assert_close(found.log_likelihood_variance.value, exact.mean(-1), rtol=0.15, atol=0)
    assert bool((found.log_likelihood_variance.low < exact.mean(-1)).all())


def test_evaluations_are_those_of_one_gradient_and_backward_passes_those_with_weight():
    case, batches = twin_batches(3)
    found = measure(case, batches, 2, 2, "maximum-likelihood")
    assert (found.num_evaluations, found.num_backward) == (pytest.approx(7.0), 2)
    assert measure(case, batches, 2, 2, "thermodynamic-detached").num_backward == 10
    assert measure(case, batches, 2, 2, "stepping-stone-detached").num_backward == 8


def test_measuring_changes_no_parameter_and_leaves_no_gradient():
    case, batches = twin_batches(3)
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    state = torch.random.get_rng_state()
    measure(case, batches, 2, 2, "thermodynamic-complete", by_rung=True)
    assert all(torch.equal(before[name], value) for name, value in case.model.state_dict().items())
    assert all(parameter.grad is None for parameter in case.model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(("batches", "repeats", "field"), [(3, 1, "repeats"), (0, 4, "batches")])
def test_too_few_are_refused(batches, repeats, field):
    case, images = twin_batches(3)
    with pytest.raises(InputError, match=f"^`{field}` must be at least"):
        measure(case, images[:batches], 2, repeats, "maximum-likelihood")


# The reference


def test_the_reference_is_the_exact_gradient_within_its_own_error():
    case = make_case("linear", 4)
    settings = ReferenceSettings(num_rungs=4, num_chains=8, num_burn_in=100, num_steps=400, every=5)
    found = reference_gradient(case.model, case.x, seeded(11), settings)
    exact = case.twin.evidence_gradient(case.x)
    assert float(found.r_hat.max()) < 1.05
    assert found.warnings == ()
    for name, value in exact.items():
        square = float((found.gradient[name] - value).square().sum())
        # The squared distance averages to the squared error; 16 times it is 4 sigma in every coordinate.
        assert square < 16 * found.squared_error[name], name
        if name != "energy_curvature":  # a difference of two near-equal means
            assert found.squared_error[name] < 0.01 * float(value.square().sum()), name
    assert found.num_evaluations == pytest.approx(settings.num_evaluations, rel=0.02)
    # 640 draws with little autocorrelation: a relative error of some 15 % of a variance, 4 % of a standard deviation.
    one = case.twin.posterior_gradient_variance(case.x)
    for name in ("weight", "bias"):
        variance = one[name]
        assert found.draw_variance[name] == pytest.approx(float(variance.sum()), rel=0.3), name
    expected = case.twin.expected_log_likelihood(case.x, 1.0)
    spread = math.sqrt(
        case.model.latent_dim / 2
    )  # of l over draws, at least: its quadratic form has d degrees
    assert (found.expected_log_likelihood - expected).abs().max() < 4 * spread / math.sqrt(640 / 4)


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_the_bias_of_chains_is_that_of_their_log_likelihood(shift):
    """Exact draws have none; draws that stand aside have one, which a second set of draws confirms."""
    case, batches = twin_batches(12)
    references = exact_references(case, batches)

    def aside(b: int, repeat: int) -> Ladder:
        ladder = exact_ladder(replace(case, x=batches[b]), ENDS, 4, 1000 * b + repeat)
        latents = ladder.latents + shift
        moved = case.model.log_likelihood(batches[b], latents).detach()
        return replace(ladder, latents=latents, log_likelihood=moved)

    rules = {"it": make_rule(MAXIMUM_LIKELIHOOD, CONTRAST)}
    found = measure_gradients(
        case.model, batches, lambda b, r: (aside(b, r), 1.0), rules, 12, references=references
    )["it"].log_likelihood_bias
    again = [
        (aside(b, 100 + r).log_likelihood[-1] - references[b].expected_log_likelihood).mean()
        for b in range(12)
        for r in range(12)
    ]
    assert found is not None
    half = float(found.high - found.low) / 2
    assert abs(float(found.value) - float(torch.stack(again).mean())) < 3 * half
    assert (float(found.high) < 0) == (shift > 0)


def test_the_references_error_is_that_of_independent_references():
    """Mean squared error over 24 references against the mean of what they claim."""
    case = make_case("linear", 2)
    settings = ReferenceSettings(num_rungs=4, num_chains=4, num_burn_in=30, num_steps=30, every=5)
    found = [reference_gradient(case.model, case.x, seeded(seed), settings) for seed in range(24)]
    exact = case.twin.evidence_gradient(case.x)
    true = torch.tensor(
        [sum(float((each.gradient[n] - exact[n]).square().sum()) for n in exact) for each in found]
    )
    claimed = torch.tensor([sum(each.squared_error.values()) for each in found])
    difference = true - claimed
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(24)


def test_chains_that_have_not_mixed_are_told():
    case = make_case("linear", 2)
    settings = ReferenceSettings(num_rungs=3, num_burn_in=0, num_steps=20, step_size=0.01)
    found = reference_gradient(case.model, case.x, seeded(12), settings)
    assert float(found.r_hat.max()) > 1.1
    assert {"r-hat", "reference-not-converged"} <= {caution.kind for caution in found.warnings}


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"num_rungs": 1}, "num_rungs"),
        ({"num_chains": 1}, "num_chains"),
        ({"num_burn_in": -1}, "num_burn_in"),
        ({"every": 0}, "every"),
        ({"num_steps": 19}, "num_steps"),
    ],
)
def test_settings_of_the_reference_are_checked(settings, field):
    with pytest.raises(InputError, match=f"^`{field}` must be at least"):
        ReferenceSettings(**settings)


def test_the_reference_takes_the_least_of_each_setting():
    """A batch of one image among them, whose step sizes are (K, 1)."""
    least = ReferenceSettings(num_rungs=2, num_chains=2, num_burn_in=0, every=1, num_steps=4)
    case = make_case("linear", 1)
    assert reference_gradient(case.model, case.x, seeded(2), least).r_hat.shape == (1,)


# The peers' mistake, put in


def test_the_spread_over_coordinates_taken_for_the_variance_is_seen(monkeypatch):
    """One gradient's variance over its coordinates, which is its squared length over P, fails both tests."""

    right = summarise

    def spread_of_one_gradient(moments: Moments) -> dict:
        found = right(moments)
        square = moments.gram.diagonal(dim1=-2, dim2=-1)[..., 0] / moments.num_parameters
        return found | {"chain_variance": found["chain_variance"]._replace(value=square)}

    monkeypatch.setattr("test_gradient_variance.summarise", spread_of_one_gradient)
    with pytest.raises(AssertionError):
        test_a_constant_estimator_has_no_variance()
    with pytest.raises(AssertionError):
        test_each_source_of_a_known_variance_is_recovered((3, 8), (1.0, 1.0))


# Heavy tails


def heavy_moments(spread: float, shape: tuple[int, int], by_batch: bool = False) -> Moments:
    """Moments of 1,000 studies of 20 coordinates, whose draws (or batches) have log-normal scales."""
    num_batches, num_repeats = shape
    generator = seeded(11)
    scale_shape = (1000, num_batches, 1 if by_batch else num_repeats, 1)
    scale = (spread * torch.randn(scale_shape, generator=generator, dtype=torch.float64)).exp()
    draws = scale * torch.randn(1000, num_batches, num_repeats, 20, generator=generator, dtype=torch.float64)
    mean = draws.mean(2)
    return Moments(20, num_repeats, mean @ mean.mT, (draws - mean.unsqueeze(2)).square().sum((2, 3)))


@pytest.mark.parametrize("by_batch", [False, True])
@pytest.mark.parametrize(
    ("spread", "least", "before"), [(1.0, 0.87, 0.86), (1.5, 0.77, 0.69), (2.0, 0.67, 0.5)]
)
def test_heavy_tails_are_seen_and_intervals_admit_them(spread, least, before, by_batch):
    """Log-normal scales of sd 1, 1.5 and 2: coverage of the chain variance, and of the plain jackknife's interval."""
    moments = heavy_moments(spread, (8, 8), by_batch)
    truth = math.exp(2 * spread**2)
    found = summarise(moments)["chain_variance"]

    def coverage(estimate: Estimate) -> float:
        return float(((estimate.low <= truth) & (truth <= estimate.high)).double().mean())

    whole = moments.within.sum(1, keepdim=True)
    values = torch.cat([whole / 8, (whole - moments.within) / 7], 1) / (7 * 20)
    assert coverage(jackknife(values, log=True)) < before  # what a mean without a tail has
    assert coverage(found) > least
    assert float(heavy_tailed(moments).double().mean()) > 0.6


@pytest.mark.parametrize("shape", [(8, 2), (8, 8), (16, 4)])
def test_normal_draws_are_not_called_heavy_tailed(shape):
    moments = heavy_moments(0.0, shape)
    assert float(heavy_tailed(moments).double().mean()) < 0.01


@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_the_typical_variance_is_covered_at_any_tail(spread):
    """It estimates the geometric mean of a batch's variance, here from many more batches."""
    truth = heavy_moments(spread, (64, 8)).within.div(7 * 20).log().mean().exp()
    found = summarise(heavy_moments(spread, (8, 8)))["typical_chain_variance"]
    covered = ((found.low <= truth) & (truth <= found.high)).double().mean()
    assert 0.92 <= float(covered) <= 0.98
