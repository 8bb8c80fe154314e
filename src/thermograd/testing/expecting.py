"""What contracts share: a sentence for what does not hold, and gradients to compare."""

from collections.abc import Callable
from dataclasses import replace
from typing import ParamSpec

from torch import Tensor

from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.rules import (
    Estimator,
    PriorRule,
    compute_weights,
)
from thermograd.ladders.ladder import Ladder
from thermograd.testing.exact_ladders import (
    Case,
)

P = ParamSpec("P")


def expect(condition: bool, sentence: str) -> None:
    """Raise an AssertionError with a sentence unless a condition holds."""
    if not condition:
        raise AssertionError(f"{sentence}.")


def hold(subject: str, contract: Callable[P, None], *things: P.args, **settings: P.kwargs) -> None:
    """Hold things to a contract; whatever the user's code raises is a part of it that does not hold."""
    try:
        contract(*things, **settings)
    except AssertionError:
        raise
    except Exception as error:
        promise = contract.__name__.replace("_", " ")
        raise AssertionError(f"{subject}: raises {type(error).__name__} where {promise}: {error}") from error


def names_of(*rules: Estimator | PriorRule) -> str:
    """Return the names of a pair, for a sentence."""
    return " with ".join(rule.name for rule in rules)


def same(
    actual: dict[str, Tensor], wanted: dict[str, Tensor], sentence: str, tolerance: float = 1e-9
) -> None:
    """Expect two gradients to agree, relative to the length of each parameter's part."""
    expect(actual.keys() == wanted.keys(), sentence)
    for name, value in wanted.items():
        expect(float((actual[name] - value).norm()) <= tolerance * float(value.norm()), sentence)


def gradient(case: Case, ladder: Ladder, estimator: Estimator, rule: PriorRule) -> dict[str, Tensor]:
    """Return the gradient of a pair of rules on a ladder of a case."""
    return learning_gradient(case.model, case.x, ladder, compute_weights(ladder, estimator, rule))


def images_of(ladder: Ladder, index: list[int]) -> Ladder:
    """Return a ladder with some of its images."""
    return replace(
        ladder,
        latents=ladder.latents[:, :, index],
        log_likelihood=ladder.log_likelihood[:, :, index],
        energy=ladder.energy[:, :, index],
        score=None if ladder.score is None else ladder.score[:, :, index],
    )
