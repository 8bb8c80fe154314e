"""What holds for the weights of every estimator and prior rule, on any draws.

A contract is a function of an estimator and a prior rule that raises an AssertionError; `CONTRACTS` lists them.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from thermograd.errors import InputError
from thermograd.gradients.limits import Limit
from thermograd.gradients.rules import (
    Estimator,
    PriorRule,
    compute_weights,
)
from thermograd.testing.exact_ladders import (
    SCHEDULE,
    TWINS,
    exact_ladder,
    make_case,
)
from thermograd.testing.expecting import expect, gradient, images_of, names_of, same

Contract = Callable[[Estimator, PriorRule], None]
NUM_SHARED = (None, 6)


def limit_is_two_tensors(rule: Estimator | PriorRule) -> None:
    """A limit is one coefficient for the expectation and one for the covariance on each rung."""
    found = rule.limit(SCHEDULE)
    shapes = [tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__ for each in found]
    shape = tuple(SCHEDULE.shape)
    expect(shapes == [shape, shape], f"{rule.name}: `limit` must return two tensors {shape}, got {shapes}")


def weights_have_the_shapes_of_draws(estimator: Estimator, rule: PriorRule) -> None:
    """A weight for each draw, finite, and one for each shared draw of the prior where these are used."""
    for name, num_shared in product(TWINS, NUM_SHARED):
        ladder = exact_ladder(make_case(name), SCHEDULE, 4, 0, num_shared=num_shared)
        found = compute_weights(ladder, estimator, rule)
        shape = tuple(ladder.log_likelihood.shape)
        shapes = tuple(found.log_likelihood.shape), tuple(found.energy.shape)
        pair = names_of(estimator, rule)
        expect(shapes == (shape, shape), f"{pair}: weights must have shape {shape}, got {shapes}")
        expect(
            found.log_likelihood.dtype == found.energy.dtype == ladder.log_likelihood.dtype,
            f"{pair}: weights must have the number format of the draws, {ladder.log_likelihood.dtype}, got "
            f"{found.log_likelihood.dtype} and {found.energy.dtype}",
        )
        finite = found.log_likelihood.isfinite().all() and found.energy.isfinite().all()
        expect(bool(finite), f"{pair}: weights must be finite, got some that are not")
        shared = found.shared_energy
        expect(
            shared is None or shared.shape == (num_shared,),
            f"{pair}: weights of shared draws must have shape ({num_shared},) or be None",
        )


def the_ladder_is_left_as_it_was(estimator: Estimator, rule: PriorRule) -> None:
    """A rule reads the draws, which other rules and the backward pass read after it."""
    ladder, again = (exact_ladder(make_case("linear"), SCHEDULE, 4, 2, num_shared=6) for _ in range(2))
    compute_weights(ladder, estimator, rule)
    for field, value in vars(again).items():
        kept = getattr(ladder, field)
        expect(
            torch.equal(kept, value) if isinstance(value, Tensor) else kept == value,
            f"{names_of(estimator, rule)}: the ladder must be left as it was, and `{field}` was changed",
        )


def every_parameter_has_a_gradient(estimator: Estimator, rule: PriorRule) -> None:
    """A flag read as bool("0"), or draws detached from what they weigh, leave a group at exactly 0."""
    for name, num_shared in product(TWINS, NUM_SHARED):
        case = make_case(name)
        ladder = exact_ladder(case, SCHEDULE, 4, 0, num_shared=num_shared)
        for key, value in gradient(case, ladder, estimator, rule).items():
            expect(
                bool(value.count_nonzero()),
                f"{names_of(estimator, rule)}: every parameter must have a gradient, got exactly 0 for {key}",
            )


def images_do_not_mix(estimator: Estimator, rule: PriorRule) -> None:
    """The batch's gradient is the mean of the images' own, and weights of one image ignore the others."""
    pair = names_of(estimator, rule)
    for name, num_shared in product(TWINS, NUM_SHARED):
        case = make_case(name, num_images=3)
        ladder = exact_ladder(case, SCHEDULE, 4, 3, num_shared=num_shared)
        together = gradient(case, ladder, estimator, rule)
        alone = [
            gradient(replace(case, x=case.x[i : i + 1]), images_of(ladder, [i]), estimator, rule)
            for i in range(3)
        ]
        mean = {key: torch.stack([each[key] for each in alone]).mean(0) for key in together}
        same(together, mean, f"{pair}: the gradient of a batch must be the mean of its images' own")
        other = exact_ladder(case, SCHEDULE, 4, 4, num_shared=num_shared)
        changed = replace(ladder, log_likelihood=ladder.log_likelihood.clone(), energy=ladder.energy.clone())
        changed.log_likelihood[:, :, 1:] = other.log_likelihood[:, :, 1:]
        changed.energy[:, :, 1:] = other.energy[:, :, 1:]
        before, after = (compute_weights(each, estimator, rule)[:2] for each in (ladder, changed))
        expect(
            all(torch.equal(a[:, :, 0], b[:, :, 0]) for a, b in zip(before, after, strict=True)),
            f"{pair}: weights of an image must not change with draws of another image",
        )


def order_of_chains_does_not_matter(estimator: Estimator, rule: PriorRule) -> None:
    """Chains have no order."""
    case = make_case("linear")
    ladder = exact_ladder(case, SCHEDULE, 4, 5)
    permuted = ladder.chains(torch.tensor([2, 0, 3, 1]))
    sentence = f"{names_of(estimator, rule)}: the order of the chains must not matter"
    same(gradient(case, permuted, estimator, rule), gradient(case, ladder, estimator, rule), sentence)


def constants_change_nothing(estimator: Estimator, rule: PriorRule) -> None:
    """A constant in l has no gradient, so no rule may see it."""
    ladder = exact_ladder(make_case("linear"), SCHEDULE, 4, 5)
    moved = replace(ladder, log_likelihood=ladder.log_likelihood + 50.0)
    found, wanted = (compute_weights(each, estimator, rule)[:2] for each in (moved, ladder))
    expect(
        all(torch.allclose(a, b, rtol=1e-9, atol=1e-11) for a, b in zip(found, wanted, strict=True)),
        f"{names_of(estimator, rule)}: a constant added to all log-likelihoods must not change the weights",
    )


def weights_sum_to_the_limit(estimator: Estimator, rule: PriorRule) -> None:
    """Covariances have no share: 1 for the generator's rules, 0 for the prior's, on any draws."""
    for num_shared in NUM_SHARED:
        ladder = exact_ladder(make_case("linear"), SCHEDULE, 4, 6, num_shared=num_shared)
        weights = compute_weights(ladder, estimator, rule)
        shared = 0.0 if weights.shared_energy is None else float(weights.shared_energy.sum())
        for each, found in (
            (estimator, ladder.num_images * weights.log_likelihood.sum((0, 1))),
            (rule, ladder.num_images * weights.energy.sum((0, 1)) + shared),
        ):
            wanted = Limit(*each.limit(SCHEDULE)).expectation.sum().expand(ladder.num_images)
            expect(
                torch.allclose(found, wanted, rtol=1e-7, atol=1e-9),
                f"{each.name}: weights of an image, times the number of images, must sum to the sum of its limit's "
                f"expectation, {float(wanted[0]):.6g}; got {float(found[0]):.6g}",
            )


def too_few_chains_are_refused(estimator: Estimator, rule: PriorRule) -> None:
    """With `min_chains` the weights are finite, and with fewer the rule is refused."""
    pair, needed = names_of(estimator, rule), max(estimator.min_chains, rule.min_chains)
    for num_chains in range(1, needed + 1):
        ladder = exact_ladder(make_case("linear"), SCHEDULE, num_chains, 6)
        try:
            weights = compute_weights(ladder, estimator, rule)
        except InputError:
            expect(num_chains < needed, f"{pair}: {num_chains} chains must be enough, as `min_chains` says")
            continue
        except Exception as error:
            raise AssertionError(
                f"{pair}: weights must be finite with `min_chains` {needed}, got {type(error).__name__}: {error}"
            ) from error
        expect(num_chains >= needed, f"{pair}: {num_chains} chains must be refused, as `min_chains` says")
        expect(
            bool(weights.log_likelihood.isfinite().all() and weights.energy.isfinite().all()),
            f"{pair}: weights must be finite with `min_chains` {needed}; raise it",
        )


def weights_are_constants(estimator: Estimator, rule: PriorRule) -> None:
    """Log-likelihoods with a graph must not be differentiated through, nor gradients vanish under no_grad."""
    case = make_case("linear")
    ladder = exact_ladder(case, SCHEDULE, 4, 7)
    attached = replace(
        ladder,
        log_likelihood=case.model.log_likelihood(case.x, ladder.latents),
        energy=case.model.energy(ladder.latents),
    )
    wanted = gradient(case, ladder, estimator, rule)
    sentence = f"{names_of(estimator, rule)}: weights must be constants, whatever graph the draws carry"
    for mode in (False, True):
        with torch.set_grad_enabled(mode):
            same(gradient(case, attached, estimator, rule), wanted, sentence)


def the_top_alone_suffices_where_it_is_said_to(estimator: Estimator, rule: PriorRule) -> None:
    """An estimator that can use two rungs at most, and shares draws at t = 0, reads the top rung alone."""
    if estimator.needs_prior_rung or rule.needs_prior_rung or estimator.max_rungs != 2:
        return
    case = make_case("linear")
    whole = exact_ladder(case, SCHEDULE, 4, 6, num_shared=6)
    ends = replace(
        whole,
        inverse_temperatures=whole.inverse_temperatures[-1:],
        latents=whole.latents[-1:],
        log_likelihood=whole.log_likelihood[-1:],
        energy=whole.energy[-1:],
        score=None if whole.score is None else whole.score[-1:],
    )
    sentence = f"{estimator.name}: weights must be the same from the top rung alone, since `max_rungs` is 2"
    try:
        found, wanted = (compute_weights(each, estimator, rule).log_likelihood[-1] for each in (ends, whole))
    except Exception as error:
        raise AssertionError(f"{sentence}, got {type(error).__name__}: {error}") from error
    expect(torch.allclose(found, wanted, rtol=1e-9, atol=1e-12), sentence)


CONTRACTS: tuple[Contract, ...] = (
    weights_have_the_shapes_of_draws,
    the_ladder_is_left_as_it_was,
    every_parameter_has_a_gradient,
    images_do_not_mix,
    order_of_chains_does_not_matter,
    constants_change_nothing,
    weights_sum_to_the_limit,
    too_few_chains_are_refused,
    weights_are_constants,
    the_top_alone_suffices_where_it_is_said_to,
)
"""What holds for every pair of rules on any draws."""
