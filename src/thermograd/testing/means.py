"""What the mean of an estimator or a prior rule is, from thousands of ladders of exact draws."""

import math
from functools import cache

import torch
from torch import Tensor

from thermograd.gradients.rules import (
    ESTIMATORS,
    PRIOR_RULES,
    Estimator,
    PriorRule,
    Weights,
    compute_weights,
)
from thermograd.ladders.ladder import Ladder
from thermograd.testing.exact_ladders import (
    SCHEDULE,
    Case,
    draw_gradients,
    estimates,
    exact_ladder,
    flat_target,
    make_case,
    weights_of,
    worst_deviation,
)
from thermograd.testing.expecting import expect

NUM_REPEATS = 10_000


def weights_for(ladder: Ladder, group: str, rule: Estimator | PriorRule) -> Weights:
    """Return the weights of a rule beside the simplest rule of the other group."""
    if isinstance(rule, Estimator):
        return compute_weights(ladder, rule, PRIOR_RULES["contrast"])
    return compute_weights(ladder, ESTIMATORS["maximum-likelihood"], rule)


@cache
def many_draws(name: str, num_chains: int = 4) -> tuple[Case, Ladder, dict[str, Tensor]]:
    """Return 10,000 exact ladders, and the gradient of every draw."""
    case = make_case(name)
    ladder = exact_ladder(case, SCHEDULE, num_chains, 10, NUM_REPEATS)
    return case, ladder, {group: draw_gradients(case, ladder, group) for group in ("generator", "prior")}


def mean_is_the_limit(name: str, group: str, rule: Estimator | PriorRule, num_chains: int) -> None:
    """The mean over 10,000 ladders, in every parameter and on 20 projections, with Bonferroni's limit."""
    case, ladder, gradients = many_draws(name, max(4, num_chains))
    weights = weights_for(ladder.chains(slice(num_chains)), group, rule)
    draws = estimates(weights_of(weights, group), gradients[group][:, :num_chains], NUM_REPEATS)
    target = case.twin.gradient_target(case.x, SCHEDULE, *rule.limit(SCHEDULE))
    away = worst_deviation(draws, flat_target(case, target, group))
    expect(
        away < 1,
        f"{rule.name}: its mean over {NUM_REPEATS:,} exact ladders of {num_chains} chains must be its limit on the "
        f"{name} twin; it is {away:.1f} times as far from it as chance allows",
    )


def slope_of_bias(name: str, group: str, rule: Estimator | PriorRule) -> tuple[float, float]:
    """Return the slope of log bias against log M and its error, from M, 2M, 4M and 8M of the same chains.

    The bias is read along the direction that it has at the fewest chains, found on the other half of the repeats, so
    that its noise does not add to its length.
    """
    case, num_repeats, least = make_case(name), 8000, max(2, rule.min_chains)
    counts = [least, 2 * least, 4 * least, 8 * least]
    ladder = exact_ladder(case, SCHEDULE, counts[-1], 20, num_repeats)
    gradients = draw_gradients(case, ladder, group)
    target = flat_target(case, case.twin.gradient_target(case.x, SCHEDULE, *rule.limit(SCHEDULE)), group)
    biases = []
    for count in counts:
        parts = [slice(first, first + count) for first in range(0, counts[-1], count)]
        draws = [
            estimates(
                weights_of(weights_for(ladder.chains(part), group, rule), group),
                gradients[:, part],
                num_repeats,
            )
            for part in parts
        ]
        biases.append(torch.stack(draws).mean(0) - target)
    direction = biases[0][: num_repeats // 2].mean(0)
    lengths = torch.stack([bias[num_repeats // 2 :] @ direction / direction.norm() for bias in biases])
    mean, covariance = lengths.mean(1), lengths.cov() / (num_repeats // 2)
    place = torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=torch.float64) * math.log(2)
    fit = place / place.square().sum()
    return float(fit @ mean.log()), float(((fit / mean) @ covariance @ (fit / mean)).sqrt())


def bias_falls(name: str, group: str, rule: Estimator | PriorRule, few: int = 10, many: int = 40) -> None:
    """From few chains to many the mean comes at least half the way to its limit, of rules that need many draws."""
    case, num_repeats = make_case(name), 500
    ladder = exact_ladder(case, SCHEDULE, many, 21, num_repeats)
    gradients = draw_gradients(case, ladder, group)
    target = flat_target(case, case.twin.gradient_target(case.x, SCHEDULE, *rule.limit(SCHEDULE)), group)
    away, chance = [], []
    for count in (few, many):
        weights = weights_of(weights_for(ladder.chains(slice(count)), group, rule), group)
        draws = estimates(weights, gradients[:, :count], num_repeats) - target
        away.append(float(draws.mean(0).norm()))
        chance.append(float((draws.var(0).sum() / num_repeats).sqrt()))
    expect(
        away[1] < away[0] / 2 + 4 * max(chance),
        f"{rule.name}: its bias must fall with the number of chains on the {name} twin; with {few} it is {away[0]:.3g} "
        f"and with {many} {away[1]:.3g}, where chance makes {max(chance):.2g}",
    )
