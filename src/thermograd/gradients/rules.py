r"""Estimators of the learning gradient: each is a rule of weights over a ladder.

Given draws z[k, m, i] (rung k, chain m, image i) with log-likelihoods l[k, m, i] at inverse temperatures t[k], every
estimator of the gradient of the batch's mean log evidence is

    generator:  sum over k, m, i of  W[k, m, i] ∇_b l(x_i, z[k, m, i])
    prior:      sum over k, m, i of  V[k, m, i] ∇_a E(z[k, m, i])  +  sum over j of  U[j] ∇_a E(z0[j])

with the weights W, V, U held constant and z0 draws of the prior shared by all images. So one weighted backward pass
serves all of them, and a new estimator is one function from a `Ladder` to W. Notation: M chains, B images, K rungs,
Δt_k = t_{k+1} - t_k, w_k the trapezoid weights.

| estimator               | W[k, m, i]                                    | its limit                            |
|-------------------------|-----------------------------------------------|--------------------------------------|
| maximum-likelihood      | 1/(M B) on the last rung                      | ∇ log p (Fisher's identity)          |
| thermodynamic-detached  | w_k/(M B)                                     | sum w_k E_k[∇l]                      |
| thermodynamic-complete  | w_k/(M B) (1 + t_k M/(M-1) (l - mean_m l))    | sum w_k (E_k[∇l] + t_k Cov_k(l, ∇l)) |
| stepping-stone-detached | Δt_k softmax_m(Δt_k l)/B on rungs 0..K-2      | M to infinity: sum Δt_k E_{k+1}[∇l]  |
| stepping-stone-complete | (t_{k+1} softmax_m(Δt_k l) - t_k/M)/B, 0..K-2 | M to infinity: ∇ log p               |
| ...-likelihood-stein    | `stein_weights`/B on the last rung            | N to infinity: ∇ log p               |
| tempered                | 1/(M B) on the last rung                      | ∇ log p                              |
| multistate              | `state_weights` at t = 1 / B, all rungs       | M to infinity: ∇ log p               |

A visit may leave more than one state of each chain: `maximum-likelihood-stein` reads all of them, the others the last.

"Detached" holds the draws fixed while differentiating, so it is NOT the gradient of log p(x): p_t depends on b too.
Its continuum ascends J = ∫ (-ln t) E_t[l] dt. "Complete" adds what is missing: d/dt (t E_t[∇l]) = E_t[∇l] +
t Cov_t(l, ∇l) telescopes to E_1[∇l], so exact thermodynamic integration gives the maximum-likelihood gradient
back. Detached for the generator with the contrast for the prior is the gradient of no single objective.

References:
    Pang, Han, Nijkamp, Zhu, Wu (2020), Learning latent space energy-based prior model.
    Friel and Pettitt (2008), Marginal likelihood estimation via power posteriors.
    Xie, Lewis, Fan, Kuo, Chen (2011), Improving marginal likelihood estimation for Bayesian phylogenetic model
        selection.
    Masrani, Le, Wood (2019), The thermodynamic variational objective.
    `stein` and `multistate` name those of theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from thermograd.config import names
from thermograd.config.facts import EstimatorFacts, PriorRuleFacts
from thermograd.config.tables import Made, Table
from thermograd.errors import InputError
from thermograd.gradients.limits import (
    Limit,
    limit_complete,
    limit_contrast,
    limit_covariance,
    limit_detached,
    limit_detached_objective,
    limit_maximum_likelihood,
    limit_right_sum,
)
from thermograd.gradients.multistate import state_weights
from thermograd.gradients.stein import stein_weights
from thermograd.ladders.ladder import Ladder
from thermograd.ladders.quadrature import trapezoid_weights


@dataclass(frozen=True)
class Estimator(EstimatorFacts):
    """A rule of weights for the generator's gradient, with the facts of `EstimatorFacts`.

    Attributes:
        weights: from a ladder to W (K, M, B).
        limit: from inverse temperatures (K,) to what the rule's mean tends to as chains become exact (and, where
            `unbiased` is False, as M grows); tests hold the rule to it on models with exact answers.

    Example:
        >>> def left_sum(ladder):
        ...     step = ladder.inverse_temperatures.diff().view(-1, 1, 1) / ladder.num_draws / ladder.num_images
        ...     return torch.cat([step, torch.zeros(1, 1, 1)]).expand_as(ladder.log_likelihood)
        >>> def limit(t):
        ...     return tg.Limit(torch.cat([t.diff(), torch.zeros(1)]), torch.zeros_like(t))
        >>> tg.Estimator("left-sum", left_sum, limit).min_chains
        1
    """

    table: ClassVar[Table[EstimatorFacts]] = names.ESTIMATORS

    weights: Callable[[Ladder], Tensor]
    limit: Callable[[Tensor], Limit]


@dataclass(frozen=True)
class PriorRule(PriorRuleFacts):
    """A rule of weights for the prior's gradient, with the facts of `PriorRuleFacts`.

    Attributes:
        weights: from a ladder to (V (K, M, B), U (M0,) or None).
        limit: from inverse temperatures (K,) to the rule's mean, sum over k of c[k] E_k[∇E] + d[k] Cov_k(l, ∇E).

    Example:
        >>> from thermograd.gradients.rules import PRIOR_RULES
        >>> contrast = PRIOR_RULES["contrast"]
        >>> tg.PriorRule("mine", contrast.weights, contrast.limit, needs_prior_rung=False).name
        'mine'
    """

    table: ClassVar[Table[PriorRuleFacts]] = names.PRIOR_RULES

    weights: Callable[[Ladder], tuple[Tensor, Tensor | None]]
    limit: Callable[[Tensor], Limit]


class Weights(NamedTuple):
    """The weights of one gradient: W and V (K, M, B), and U (M0,) or None for shared draws of the prior."""

    log_likelihood: Tensor
    energy: Tensor
    shared_energy: Tensor | None


# --- generator: rules from a ladder to W (K, M, B) ---


def maximum_likelihood(ladder: Ladder) -> Tensor:
    """Return 1/(M B) on the last rung: the mean of ∇l over posterior chains."""
    weights = torch.zeros_like(ladder.log_likelihood)
    weights[-1] = 1 / (ladder.num_draws * ladder.num_images)
    return weights


def maximum_likelihood_stein(ladder: Ladder) -> Tensor:
    """Return Stein weights over B on the last rung: all states of a visit, corrected by their scores."""
    weights = torch.zeros_like(ladder.log_likelihood)
    weights[-1] = stein_weights(_scores(ladder)[-1]) / ladder.num_images
    return weights


def multistate(ladder: Ladder) -> Tensor:
    """Return the weights at t = 1 of the draws of all rungs over B."""
    (weights,) = state_weights(ladder.log_likelihood, ladder.inverse_temperatures, (1.0,))
    return weights / ladder.num_images


def thermodynamic_detached(ladder: Ladder) -> Tensor:
    """Return w_k/(M B): the trapezoid sum of l over the ladder, differentiated through l alone."""
    return _rung_weights(ladder).expand_as(ladder.log_likelihood)


def thermodynamic_complete(ladder: Ladder) -> Tensor:
    """Return w_k/(M B) (1 + t_k M/(M-1) (l - mean_m l)): the trapezoid sum of d/dt (t E_t[∇l])."""
    t = ladder.inverse_temperatures.view(-1, 1, 1)
    return _rung_weights(ladder) * (1 + t * _unbiased_deviation(ladder))


def stepping_stone_detached(ladder: Ladder) -> Tensor:
    """Return Δt_k softmax_m(Δt_k l)/B on all rungs but the last; with M = 1 it is the left Riemann sum."""
    step, softmax = _stones(ladder)
    return _without_last(ladder, step * softmax)


def stepping_stone_complete(ladder: Ladder) -> Tensor:
    """Return (t_{k+1} softmax_m(Δt_k l) - t_k/M)/B on all rungs but the last."""
    t = ladder.inverse_temperatures.view(-1, 1, 1)
    _, softmax = _stones(ladder)
    return _without_last(ladder, t[1:] * softmax - t[:-1] / ladder.num_draws)


def _scores(ladder: Ladder) -> Tensor:
    if ladder.score is None:
        raise InputError("`ladder` must hold the scores of its draws for weights that read them, got None.")
    return ladder.score


def _rung_weights(ladder: Ladder) -> Tensor:
    """Return w_k/(M B), (K, 1, 1)."""
    weights = trapezoid_weights(ladder.inverse_temperatures).to(ladder.log_likelihood.dtype)
    return weights.view(-1, 1, 1) / (ladder.num_draws * ladder.num_images)


def _unbiased_deviation(ladder: Ladder) -> Tensor:
    """Return M/(M-1) (l - mean_m l), whose product with f averages to the leave-one-out covariance Cov(l, f)."""
    log_likelihood, m = ladder.log_likelihood, ladder.num_draws
    return (log_likelihood - log_likelihood.mean(1, keepdim=True)) * (m / (m - 1))


def _stones(ladder: Ladder) -> tuple[Tensor, Tensor]:
    step = ladder.inverse_temperatures.diff().view(-1, 1, 1)
    return step, (step * ladder.log_likelihood[:-1]).softmax(1)


def _without_last(ladder: Ladder, weights: Tensor) -> Tensor:
    return torch.cat([weights, torch.zeros_like(weights[:1])]) / ladder.num_images


# --- prior: rules from a ladder to V (K, M, B) and U (M0,) ---


def contrast(ladder: Ladder) -> tuple[Tensor, Tensor | None]:
    """Return the weights of E_0[∇E] - E_1[∇E], the exact gradient of log p(x) by Fisher's identity."""
    share = 1 / (ladder.num_draws * ladder.num_images)
    energy = torch.zeros_like(ladder.energy)
    energy[-1] = -share
    return _with_prior_mean(ladder, energy, 1.0)


def contrast_stein(ladder: Ladder) -> tuple[Tensor, Tensor | None]:
    """Return the contrast's weights, each expectation by Stein weights of its own draws."""
    energy = -maximum_likelihood_stein(ladder)
    if ladder.prior_latents is None:
        energy[0] += stein_weights(_scores(ladder)[0]) / ladder.num_images
        return energy, None
    if ladder.prior_score is None:
        raise InputError(
            "`ladder` must hold `prior_score` beside `prior_latents` for contrast-stein, got None."
        )
    return energy, stein_weights(ladder.prior_score.unsqueeze(1)).squeeze(1)


def contrast_multistate(ladder: Ladder) -> tuple[Tensor, Tensor | None]:
    """Return the contrast's weights: -w(1), and w(0) where each image has a rung at t = 0, else the shared draws."""
    t = ladder.inverse_temperatures
    if ladder.has_prior_rung and ladder.prior_latents is None:
        prior, posterior = state_weights(ladder.log_likelihood, t, (0.0, 1.0))
        return (prior - posterior) / ladder.num_images, None
    return _with_prior_mean(ladder, -multistate(ladder), 1.0)


def covariance(ladder: Ladder) -> tuple[Tensor, Tensor | None]:
    """Return the weights of ∫ Cov_t(l, -∇E) dt, which equals the contrast in the continuum."""
    return -_rung_weights(ladder) * _unbiased_deviation(ladder), None


def detached_objective(ladder: Ladder) -> tuple[Tensor, Tensor | None]:
    """Return the weights of J's own gradient, ∫ (1/t) (E_0[∇E] - E_t[∇E]) dt, by the trapezoid rule.

    At t = 0 the integrand's limit is -Cov_0(l, ∇E), which takes two chains or more.
    """
    weights = _rung_weights(ladder)
    t = ladder.inverse_temperatures.view(-1, 1, 1)
    energy = torch.zeros_like(ladder.energy)
    energy[1:] = -weights[1:] / t[1:]
    energy[0] = -(weights * _unbiased_deviation(ladder))[0]
    mass = float((trapezoid_weights(ladder.inverse_temperatures)[1:] / ladder.inverse_temperatures[1:]).sum())
    return _with_prior_mean(ladder, energy, mass)


def _with_prior_mean(ladder: Ladder, energy: Tensor, mass: float) -> tuple[Tensor, Tensor | None]:
    """Add mass times E_0[∇E], from the shared draws where there are any and from the rung t = 0 elsewhere."""
    if ladder.prior_latents is not None:
        return energy, energy.new_full((len(ladder.prior_latents),), mass / len(ladder.prior_latents))
    energy[0] += mass / (ladder.num_draws * ladder.num_images)
    return energy, None


ESTIMATORS = Made(
    names.ESTIMATORS,
    {
        name: Estimator(weights=weights, limit=limit, **vars(names.ESTIMATORS[name]))
        for name, weights, limit in (
            ("maximum-likelihood", maximum_likelihood, limit_maximum_likelihood),
            ("maximum-likelihood-stein", maximum_likelihood_stein, limit_maximum_likelihood),
            ("tempered", maximum_likelihood, limit_maximum_likelihood),
            ("multistate", multistate, limit_maximum_likelihood),
            ("thermodynamic-detached", thermodynamic_detached, limit_detached),
            ("thermodynamic-complete", thermodynamic_complete, limit_complete),
            ("stepping-stone-detached", stepping_stone_detached, limit_right_sum),
            ("stepping-stone-complete", stepping_stone_complete, limit_maximum_likelihood),
        )
    },
)
"""Every estimator of the generator's gradient. Add one here and the contract tests run on it."""

PRIOR_RULES = Made(
    names.PRIOR_RULES,
    {
        name: PriorRule(weights=weights, limit=limit, **vars(names.PRIOR_RULES[name]))
        for name, weights, limit in (
            ("contrast", contrast, limit_contrast),
            ("contrast-stein", contrast_stein, limit_contrast),
            ("contrast-multistate", contrast_multistate, limit_contrast),
            ("covariance", covariance, limit_covariance),
            ("detached-objective", detached_objective, limit_detached_objective),
        )
    },
)
"""Every estimator of the prior's gradient."""


# --- from rules to a gradient ---


def compute_weights(ladder: Ladder, estimator: Estimator, prior_rule: PriorRule) -> Weights:
    """Apply an estimator and a prior rule to a ladder.

    Raises:
        InputError: too few chains, no rung at t = 0 for a rule that needs the whole ladder, no draws at t = 0 at all,
            or a rule whose weights have another shape than the draws.
    """
    if not ladder.has_prior_rung and ladder.prior_latents is None:
        raise InputError(
            "`ladder` must hold draws at t = 0, a rung of each image or `prior_latents`, got neither."
        )
    for rule in (estimator, prior_rule):
        if ladder.num_chains < rule.min_chains:
            raise InputError(
                f"`num_chains` must be at least {rule.min_chains} for {rule.name}, got {ladder.num_chains}."
            )
        if rule.needs_prior_rung and not ladder.has_prior_rung:
            raise InputError(f"`ladder` must hold the rung t = 0 for each image for {rule.name}.")
    last = ladder.last_states()

    def read(rule: Estimator | PriorRule) -> Ladder:
        return ladder if rule.states == "all" else last

    def whole(rule: Estimator | PriorRule, weights: Tensor) -> Tensor:
        shape = read(rule).log_likelihood.shape
        if weights.shape != shape:
            raise InputError(
                f"`weights` of {rule.name} must have shape {tuple(shape)}, got {tuple(weights.shape)}."
            )
        padding = ladder.num_draws - weights.shape[1]  # states before the last stand first
        return torch.nn.functional.pad(weights, (0, 0, padding, 0))

    energy, shared = prior_rule.weights(read(prior_rule))
    return Weights(whole(estimator, estimator.weights(read(estimator))), whole(prior_rule, energy), shared)
