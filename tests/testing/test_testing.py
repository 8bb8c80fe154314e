"""`tg.testing` passes what is right, and says in a sentence what is wrong with each planted mistake."""

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import thermograd as tg
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES, Estimator, PriorRule
from thermograd.ladders.ladder import Ladder
from thermograd.ladders.named import SCHEDULES
from thermograd.samplers.kernel import Kernel
from thermograd.samplers.named import KERNELS
from thermograd.samplers.target import Info

MAXIMUM_LIKELIHOOD, CONTRAST = ESTIMATORS["maximum-likelihood"], PRIOR_RULES["contrast"]
COMPLETE = ESTIMATORS["thermodynamic-complete"]


@pytest.mark.parametrize(
    "name", ["maximum-likelihood", "maximum-likelihood-stein", "stepping-stone-detached"]
)
def test_estimators_pass(name: str):
    """One of each kind; tests/gradients holds every one to the same contracts."""
    tg.testing.check_estimator(ESTIMATORS[name])


@pytest.mark.parametrize("name", ["contrast", "contrast-stein", "covariance"])
def test_prior_rules_pass(name: str):
    tg.testing.check_prior_rule(PRIOR_RULES[name])


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_passes(name: str):
    tg.testing.check_kernel(KERNELS[name](0.3))


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_passes(name: str):
    tg.testing.check_schedule(SCHEDULES[name])


def weights_of(change: Any, rule: Estimator = MAXIMUM_LIKELIHOOD, **facts: Any) -> Estimator:
    return replace(rule, name="mine", weights=lambda ladder: change(ladder, rule.weights(ladder)), **facts)


def named(rule: Estimator, **facts: Any) -> Estimator:
    return replace(rule, name="mine", **facts)


def top_shifted(ladder: Ladder, weights: Tensor, by: Tensor) -> Tensor:
    weights = weights.clone()
    weights[-1] = weights[-1] + weights[-1] * (by - by.mean(0))
    return weights


MISTAKES: dict[str, tuple[Estimator, str]] = {
    "the weights of no draw": (
        weights_of(lambda ladder, w: 0 * w),
        "every parameter must have a gradient, got exactly 0",
    ),
    "one weight for all chains": (
        weights_of(lambda ladder, w: w[:, :1]),
        "`weights` of mine must have shape (5, 4, 2), got (5, 1, 2)",
    ),
    "twice as much": (
        weights_of(lambda ladder, w: 2 * w),
        "must sum to the sum of its limit's expectation, 1; got 2",
    ),
    "another number format": (
        weights_of(lambda ladder, w: w.float()),
        "weights must have the number format of the draws, torch.float64, got torch.float32",
    ),
    "the ladder is changed": (
        weights_of(lambda ladder, w: w.add_(ladder.log_likelihood.zero_())),
        "the ladder must be left as it was, and `log_likelihood` was changed",
    ),
    "images mix": (
        weights_of(lambda ladder, w: top_shifted(ladder, w, ladder.log_likelihood[-1].mean(1, keepdim=True))),
        "the gradient of a batch must be the mean of its images' own",
    ),
    "chains have an order": (
        weights_of(lambda ladder, w: top_shifted(ladder, w, torch.arange(w.shape[1]).double().unsqueeze(1))),
        "the order of the chains must not matter",
    ),
    "constants are seen": (
        weights_of(lambda ladder, w: top_shifted(ladder, w, ladder.log_likelihood[-1].square())),
        "a constant added to all log-likelihoods must not change the weights",
    ),
    "two chains are needed and not said": (
        replace(COMPLETE, name="mine", min_chains=1),
        "must be finite with `min_chains` 1",
    ),
    "lower rungs are read and not said": (
        replace(ESTIMATORS["thermodynamic-detached"], name="mine", max_rungs=2, needs_prior_rung=False),
        "weights must be the same from the top rung alone, since `max_rungs` is 2",
    ),
    "another limit": (
        replace(ESTIMATORS["thermodynamic-detached"], name="mine", limit=MAXIMUM_LIKELIHOOD.limit),
        "its mean over 10,000 exact ladders of 2 chains must be its limit on the linear twin",
    ),
    "the covariance without M/(M-1)": (
        replace(
            COMPLETE,
            name="mine",
            weights=lambda ladder: (
                COMPLETE.weights(ladder) * (1 - 1 / ladder.num_draws)
                + ESTIMATORS["thermodynamic-detached"].weights(ladder) / ladder.num_draws
            ),
        ),
        "must be its limit",
    ),
    "a bias that is not said": (
        replace(ESTIMATORS["stepping-stone-complete"], name="mine", unbiased=True),
        "must be its limit",
    ),
    "a bias that stays": (
        replace(
            ESTIMATORS["thermodynamic-detached"], name="mine", limit=MAXIMUM_LIKELIHOOD.limit, unbiased=False
        ),
        "its bias must fall at least like 1/M with M chains on the linear twin",
    ),
    "a bias that stays, of weights that read scores": (
        named(
            ESTIMATORS["thermodynamic-detached"],
            limit=MAXIMUM_LIKELIHOOD.limit,
            unbiased=False,
            uses_scores=True,
        ),
        "its bias must fall with the number of chains on the linear twin; with 10 it is",
    ),
    "a limit of another length": (
        replace(MAXIMUM_LIKELIHOOD, name="mine", limit=lambda t: tg.Limit(t[1:], t)),
        "`limit` must",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_an_estimator_is_told(mistake: str):
    rule, said = MISTAKES[mistake]
    with pytest.raises(AssertionError, match=re.escape(said)) as caught:
        tg.testing.check_estimator(rule)
    assert str(caught.value).startswith("mine")
    assert "\n" not in str(caught.value)


def test_a_mistake_in_a_prior_rule_is_told():
    """NEW: the sign of the prior's loss was flipped."""

    def flipped(ladder: Ladder) -> tuple[Tensor, Tensor | None]:
        energy, shared = CONTRAST.weights(ladder)
        return -energy, None if shared is None else -shared

    rule = PriorRule("mine", flipped, CONTRAST.limit, needs_prior_rung=False)
    with pytest.raises(AssertionError, match="mine: its mean over 10,000 exact ladders"):
        tg.testing.check_prior_rule(rule)


# --- kernels ---


@dataclass(frozen=True)
class Walk(Kernel):
    """Random-walk Metropolis, with a place for each mistake."""

    name: ClassVar[str] = "walk"
    is_reversible: ClassVar[bool] = True
    target_acceptance: float | None = 0.3

    def noise(self, z: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(z.shape, generator=generator, dtype=z.dtype)

    def size(self, z: Tensor) -> Tensor:
        return torch.as_tensor(self.step_size, dtype=z.dtype).unsqueeze(-1)

    def log_ratio(self, proposal: Any, state: Any, t: Tensor) -> Tensor:
        return proposal.log_density(t) - state.log_density(t)

    def step(self, target: Any, state: Any, t: Tensor, generator: torch.Generator) -> Any:
        z = state.position
        proposal = target.evaluate(z + self.size(z) * self.noise(z, generator))
        return self.accept(state, proposal, self.log_ratio(proposal, state, t), generator)


class Inverted(Walk):
    """XSNL: the ratio upside down."""

    def log_ratio(self, proposal: Any, state: Any, t: Tensor) -> Tensor:
        return -super().log_ratio(proposal, state, t)


class Untempered(Walk):
    """The ratio at t = 1 on every rung."""

    def log_ratio(self, proposal: Any, state: Any, t: Tensor) -> Tensor:
        return super().log_ratio(proposal, state, torch.ones_like(t))


class Summed(Walk):
    """NEW: densities summed over images."""

    def log_ratio(self, proposal: Any, state: Any, t: Tensor) -> Tensor:
        ratio = super().log_ratio(proposal, state, t)
        return ratio.sum(-1, keepdim=True).expand_as(ratio)


class Global(Walk):
    """Noise from the global generator."""

    def noise(self, z: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(z.shape, dtype=z.dtype)


class Stale(Walk):
    """The proposal's density with the old position."""

    def step(self, target: Any, state: Any, t: Tensor, generator: torch.Generator) -> Any:
        new, info = super().step(target, state, t, generator)
        return new._replace(position=new.position, log_likelihood=state.log_likelihood), info


class OneSize(Walk):
    """The mean step size for all rungs."""

    def size(self, z: Tensor) -> Tensor:
        return super().size(z).mean()


class AlwaysOne(Walk):
    """An acceptance that tells nothing."""

    def step(self, target: Any, state: Any, t: Tensor, generator: torch.Generator) -> Any:
        new, info = super().step(target, state, t, generator)
        return new, Info(torch.ones_like(info.acceptance))


class Crossing(Walk):
    """Proposals without a density are taken."""

    def log_ratio(self, proposal: Any, state: Any, t: Tensor) -> Tensor:
        return torch.nan_to_num(super().log_ratio(proposal, state, t), neginf=1.0)


@dataclass(frozen=True)
class Unadjusted(tg.ULA):
    """ULA that calls itself exact."""

    is_reversible: ClassVar[bool] = True


KERNEL_MISTAKES = {
    Inverted: "exact draws must stay exact, since it is_reversible",
    Untempered: "exact draws must stay exact",
    Unadjusted: "exact draws must stay exact",
    Summed: "the chains of an image must not change with another image of the batch",
    Global: "the same generator must give the same chains",
    Stale: "`log_likelihood` of the new state must be that of its position",
    OneSize: "step sizes (K, 1, 1) must move each rung by its own",
    AlwaysOne: "adapted steps must be accepted with probability 0.3, got [1.0, 1.0, 1.0]",
    Crossing: "a proposal of density 0 must be rejected, got chains outside",
}


def test_the_kernel_without_a_mistake_passes():
    tg.testing.check_kernel(Walk(0.4))


@pytest.mark.parametrize("kind", KERNEL_MISTAKES, ids=lambda kind: kind.__name__)
def test_a_mistake_in_a_kernel_is_told(kind: type[Kernel]):
    with pytest.raises(AssertionError, match=re.escape(KERNEL_MISTAKES[kind])) as caught:
        tg.testing.check_kernel(kind(0.4))
    assert str(caught.value).startswith(kind.__name__)


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (lambda num_rungs, settings: torch.linspace(0.1, 1, num_rungs), "must start at exactly 0"),
        (
            lambda num_rungs, settings: torch.linspace(0, 1, 7),
            "`begin` must return (2,) for 2 rungs, got (7,)",
        ),
        (
            lambda num_rungs, settings: torch.linspace(0, 1, num_rungs).flip(0),
            "`begin` must return a schedule",
        ),
    ],
)
def test_a_mistake_in_a_schedule_is_told(begin: Any, said: str):
    with pytest.raises(AssertionError, match=re.escape(said)):
        tg.testing.check_schedule(tg.Schedule("mine", begin))
