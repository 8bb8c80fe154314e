"""The dial of variance: a gradient with more noise and the same mean."""

import torch
from torch import Tensor

from thermograd.errors import InputError
from thermograd.gradients.rules import Estimator, PriorRule, Weights, compute_weights
from thermograd.ladders.ladder import Ladder


def compute_noisy_weights(
    ladder: Ladder, estimator: Estimator, prior_rule: PriorRule, multiplier: float, sign: float
) -> Weights:
    r"""Return the weights of ĝ + c ε (ĝ_A - ĝ_B) / 2, a gradient with more variance and the same mean.

    ĝ_A and ĝ_B come from two halves of the chains, c is `multiplier` and ε = ±1 is `sign`, drawn anew each step. For
    estimators that are linear in chains this adds c^2 times the chain variance.

    Raises:
        InputError: an odd number of chains or of shared draws, or halves too small for the estimator.
    """
    weights = compute_weights(ladder, estimator, prior_rule)
    first = compute_weights(_half(ladder, 0), estimator, prior_rule)
    second = compute_weights(_half(ladder, 1), estimator, prior_rule)
    scale = multiplier * sign / 2

    def signed(one: Tensor, other: Tensor) -> Tensor:
        """Put the chains of the halves side by side again, state by state."""
        halves = [part.unflatten(1, (ladder.num_states, -1)) for part in (one, -other)]
        return torch.cat(halves, 2).flatten(1, 2)

    shared = weights.shared_energy
    if shared is not None and first.shared_energy is not None and second.shared_energy is not None:
        shared = shared + scale * torch.cat([first.shared_energy, -second.shared_energy])
    return Weights(
        weights.log_likelihood + scale * signed(first.log_likelihood, second.log_likelihood),
        weights.energy + scale * signed(first.energy, second.energy),
        shared,
    )


def _half(ladder: Ladder, which: int) -> Ladder:
    shared = 0 if ladder.prior_latents is None else len(ladder.prior_latents)
    for name, count in (("num_chains", ladder.num_chains), ("prior_latents", shared)):
        if count % 2:
            raise InputError(f"`{name}` must be even for `noise_multiplier`, got {count}.")
    half = ladder.num_chains // 2
    return ladder.chains(slice(which * half, (which + 1) * half)).prior_half(which)
