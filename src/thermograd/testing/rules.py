"""The contract of estimators and prior rules, on exact draws of models whose gradients are known."""

from thermograd.gradients.rules import (
    ESTIMATORS,
    PRIOR_RULES,
    Estimator,
    PriorRule,
)
from thermograd.testing.exact_ladders import (
    TWINS,
)
from thermograd.testing.expecting import expect, hold, names_of
from thermograd.testing.means import bias_falls, mean_is_the_limit, slope_of_bias
from thermograd.testing.weights import CONTRACTS, limit_is_two_tensors


def check_estimator(estimator: Estimator) -> None:
    """Hold an estimator to the contract: its facts, its weights on any draws, and its mean.

    Over exact independent draws the mean gradient is the stated limit within 4 standard errors, or, where the rule says
    that it is not `unbiased`, its bias falls at least like 1/M with M chains.

    Raises:
        AssertionError: a part of the contract does not hold; the sentence says which, and by how much.

    Example:
        >>> from thermograd.gradients.rules import ESTIMATORS
        >>> tg.testing.check_estimator(ESTIMATORS["thermodynamic-complete"])
    """
    partner = PRIOR_RULES["contrast"]
    limit_is_two_tensors(estimator)
    for contract in CONTRACTS:
        hold(names_of(estimator, partner), contract, estimator, partner)
    _check_mean("generator", estimator)


def check_prior_rule(rule: PriorRule) -> None:
    """Hold a prior rule to the contract, as `check_estimator` does an estimator.

    Raises:
        AssertionError: a part of the contract does not hold; the sentence says which, and by how much.

    Example:
        >>> from thermograd.gradients.rules import PRIOR_RULES
        >>> tg.testing.check_prior_rule(PRIOR_RULES["covariance"])
    """
    partner = ESTIMATORS["maximum-likelihood"]
    limit_is_two_tensors(rule)
    for contract in CONTRACTS:
        hold(names_of(partner, rule), contract, partner, rule)
    _check_mean("prior", rule)


def _check_mean(group: str, rule: Estimator | PriorRule) -> None:
    for name in TWINS:
        if rule.unbiased:
            for factor in (1, 2):
                mean_is_the_limit(name, group, rule, factor * max(2, rule.min_chains))
        elif rule.uses_scores:
            bias_falls(name, group, rule)
        else:
            slope, error = slope_of_bias(name, group, rule)
            expect(
                slope < -1 + 4 * error,
                f"{rule.name}: its bias must fall at least like 1/M with M chains on the {name} twin; log bias falls "
                f"by {-slope:.2f} ± {error:.2f} per unit of log M",
            )
