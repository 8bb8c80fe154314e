"""The contracts of what users add, each one call: for a test of a rule or a kernel in a file of one's own.

Every check runs on a small linear Gaussian model, whose power posteriors and gradients are known exactly, and raises
`AssertionError` with one line that says what was broken. `check_model` does the same for a model.

    def test_mine():
        tg.testing.check_estimator(mine)
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES, Estimator, PriorRule, compute_weights
from thermograd.ladders.ladder import Ladder
from thermograd.ladders.schedules import power_schedule
from thermograd.models.check import check_model
from thermograd.models.linear_gaussian import LinearGaussian
from thermograd.samplers.kernel import Kernel
from thermograd.samplers.target import Target
from thermograd.validation.common import exact_ladder, within_chance

__all__ = ["check_estimator", "check_kernel", "check_model", "check_prior_rule"]

LATENT_DIM, NUM_PIXELS, NUM_IMAGES, NUM_RUNGS = 2, 6, 3, 5
NUM_REPEATS, NUM_COPIES = 30, 20  # gradients, each of so many copies of the images
NUM_KERNEL_CHAINS, NUM_KERNEL_STEPS = 2000, 20


def check_estimator(estimator: Estimator, seed: int = 0) -> None:
    """Hold a rule of the generator's gradient to the contract of all.

    Its weights are finite, keep the shape and the number format, and leave the ladder as it was; images do not mix;
    the order of chains and a constant added to l change nothing; the weights of an image sum to the coefficients of
    the stated limit. Over exact independent draws the mean gradient is the stated limit within 4 standard errors, or,
    where the rule says that it is not `unbiased`, its bias falls as chains are added.

    Args:
        estimator: the rule.
        seed: of the model and its draws.

    Raises:
        AssertionError: one line, what was broken.
        InputError: the rule's own.

    Example:
        >>> from thermograd.gradients.rules import ESTIMATORS
        >>> tg.testing.check_estimator(ESTIMATORS["thermodynamic-complete"])
    """
    _check_rule(estimator, "weight", seed)


def check_prior_rule(prior_rule: PriorRule, seed: int = 0) -> None:
    """Hold a rule of the prior's gradient to the same contract as `check_estimator`.

    Raises:
        AssertionError: one line, what was broken.
        InputError: the rule's own.

    Example:
        >>> from thermograd.gradients.rules import PRIOR_RULES
        >>> tg.testing.check_prior_rule(PRIOR_RULES["covariance"])
    """
    _check_rule(prior_rule, "energy_curvature", seed)


def check_kernel(kernel: Kernel, seed: int = 0) -> None:
    """Hold a kernel to its contract: shapes, one source of randomness, and, where it is reversible, its own target.

    Chains that begin at exact draws of three power posteriors must still be draws of them after some steps: the means
    of l, of z and of z^2 within 4 standard errors of the exact ones. A kernel that is not reversible, such as ULA, has
    another law and is not held to these.

    Args:
        kernel: with a step size at which it moves on a posterior about 0.4 wide.
        seed: of the model and its draws.

    Raises:
        AssertionError: one line, what was broken.

    Example:
        >>> tg.testing.check_kernel(tg.MALA(0.3))
    """
    twin, x = _twin(seed)
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    start = twin.sample_power_posterior(x, t, NUM_KERNEL_CHAINS, torch.Generator().manual_seed(seed))
    target, rungs = Target(twin, x), t.view(-1, 1, 1)

    def run() -> Tensor:
        generator = torch.Generator().manual_seed(seed + 1)
        state = kernel.init(target, start.clone())
        for _ in range(NUM_KERNEL_STEPS):
            state, _ = kernel.step(target, state, rungs, generator)
        _require(
            state.position.shape == start.shape,
            f"`step` must keep the shape {tuple(start.shape)} of its chains, got {tuple(state.position.shape)}.",
        )
        again = target.evaluate(state.position)
        _require(
            torch.allclose(state.log_likelihood, again.log_likelihood),
            "`step` returned a state whose log-likelihood is not that of its position.",
        )
        return state.position

    end = run()
    _require(
        torch.equal(end, run()), "`step` must draw from its generator alone: the same seed gave other chains."
    )
    _require(not torch.equal(end, start), "`step` moved no chain: is the step size far too large?")
    if not kernel.is_reversible:
        return
    exact = twin.power_posterior(x, t)
    mean, variance = exact.mean, exact.variance
    log_likelihood = twin.expected_log_likelihood(x, t).detach()
    found = target.evaluate(end)
    for name, draws, expected in (
        ("l", found.log_likelihood, log_likelihood),
        ("z", end, mean),
        ("z^2", (end - mean.unsqueeze(1)).square(), variance),
    ):
        scores = (draws.mean(1) - expected) / (draws.std(1) / math.sqrt(NUM_KERNEL_CHAINS))
        _require(
            within_chance(scores, NUM_KERNEL_CHAINS),
            f"{kernel.name} does not leave p_t as it is: the mean of {name} is {float(scores.abs().max()):.1f} "
            f"standard errors away after {NUM_KERNEL_STEPS} steps from exact draws.",
        )


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _twin(seed: int) -> tuple[LinearGaussian, Tensor]:
    twin = LinearGaussian.random(
        LATENT_DIM,
        NUM_PIXELS,
        noise_std=1.0,
        weight_scale=0.8,
        seed=seed,
        energy_curvature=torch.full((LATENT_DIM,), 0.3, dtype=torch.float64),
    )
    return twin, twin.sample_images(NUM_IMAGES, torch.Generator().manual_seed(seed + 1))


def _check_rule(rule: Estimator | PriorRule, parameter: str, seed: int) -> None:
    twin, x = _twin(seed)
    t = power_schedule(2 if rule.default_rungs == 2 else NUM_RUNGS, 2.0)
    num_chains = max(4, 2 * rule.min_chains)
    _check_form(rule, exact_ladder(twin, x, t, num_chains, torch.Generator().manual_seed(seed + 2)))
    target = twin.gradient_target(x, t, *rule.limit(t))[parameter].flatten()
    few, chance = _mean_gradient(rule, twin, x, t, num_chains, parameter, seed + 3)
    if rule.unbiased:
        _require(
            within_chance((few - target) / chance, NUM_REPEATS),
            f"{rule.name} states another limit than its mean, which is "
            f"{float(((few - target) / chance).abs().max()):.1f} standard errors away.",
        )
        return
    many, chance_many = _mean_gradient(rule, twin, x, t, 8 * num_chains, parameter, seed + 4)
    allowed = 4 * float(torch.hypot(chance, chance_many).norm()) + float((few - target).norm()) / 2
    away = float((many - target).norm())
    _require(
        away < allowed,
        f"{rule.name} must come nearer to its limit with 8 times the chains: {float((few - target).norm()):.3g} away "
        f"became {away:.3g}.",
    )


def _weights(rule: Estimator | PriorRule, ladder: Ladder) -> Tensor:
    if isinstance(rule, Estimator):
        return compute_weights(ladder, rule, PRIOR_RULES["contrast"]).log_likelihood
    return compute_weights(ladder, ESTIMATORS["maximum-likelihood"], rule).energy


def _check_form(rule: Estimator | PriorRule, ladder: Ladder) -> None:
    """Check what holds for any draws."""

    def part(images: list[int], chains: list[int]) -> Ladder:
        def of(value: Tensor) -> Tensor:
            return value[:, chains][:, :, images]

        return replace(
            ladder,
            latents=of(ladder.latents),
            log_likelihood=of(ladder.log_likelihood),
            energy=of(ladder.energy),
            score=None if ladder.score is None else of(ladder.score),
        )

    def same(left: Tensor, right: Tensor) -> bool:
        return torch.allclose(left, right, rtol=1e-7, atol=1e-9)

    images, chains = list(range(ladder.num_images)), list(range(ladder.num_draws))
    before = part(images, chains)
    weights = _weights(rule, ladder)
    like, name = ladder.log_likelihood, rule.name
    _require(
        weights.shape == like.shape and weights.dtype == like.dtype and bool(weights.isfinite().all()),
        f"{name} must give finite weights {tuple(like.shape)} of {like.dtype}, got {tuple(weights.shape)} of "
        f"{weights.dtype}.",
    )
    _require(
        torch.equal(before.log_likelihood, like) and torch.equal(before.energy, ladder.energy),
        f"{name} changed the ladder that it was given.",
    )
    for image in images:
        alone = _weights(rule, part([image], chains))
        _require(
            same(alone / len(images), weights[:, :, [image]]),
            f"{name} mixes images: the weights of image {image} depend on the others, or are not 1/B of its own.",
        )
    _require(
        same(_weights(rule, part(images, chains[::-1])), weights[:, chains[::-1]]),
        f"{name} depends on the order of chains.",
    )
    _require(
        same(_weights(rule, replace(ladder, log_likelihood=like + 50.0)), weights),
        f"{name} depends on a constant that is added to l, which has no gradient.",
    )
    total, stated = (
        len(images) * weights.sum((0, 1)),
        rule.limit(ladder.inverse_temperatures).expectation.sum(),
    )
    _require(
        same(total, stated.to(total).expand_as(total)),
        f"{name}: the weights of an image sum to {float(total[0]):.4g}, the coefficients of its stated limit to "
        f"{float(stated):.4g}.",
    )


def _mean_gradient(
    rule: Estimator | PriorRule,
    twin: LinearGaussian,
    x: Tensor,
    t: Tensor,
    num_chains: int,
    parameter: str,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Return the mean of the gradient over repeats (P,), and its standard error."""
    x = x.repeat(NUM_COPIES, 1)
    generator = torch.Generator().manual_seed(seed)
    estimates = []
    for _ in range(NUM_REPEATS):
        ladder = exact_ladder(twin, x, t, num_chains, generator)
        if isinstance(rule, Estimator):
            weights = compute_weights(ladder, rule, PRIOR_RULES["contrast"])
        else:
            weights = compute_weights(ladder, ESTIMATORS["maximum-likelihood"], rule)
        estimates.append(learning_gradient(twin, x, ladder, weights)[parameter].flatten())
    draws = torch.stack(estimates)
    return draws.mean(0), draws.std(0) / math.sqrt(NUM_REPEATS)
