"""An estimator of our own for docs/findings.md: maximum likelihood from the plain mean of all states of a visit.

On the same chains as `maximum-likelihood` (their last states) and `maximum-likelihood-stein` (all states, corrected by
their scores), so that the three differ in variance and in nothing that the chains do.
"""

import torch
from torch import Tensor

import thermograd as tg


def mean_of_states(ladder: tg.Ladder) -> Tensor:
    """Return 1/(N B) on the last rung, over all N states of an image."""
    weights = torch.zeros_like(ladder.log_likelihood)
    weights[-1] = 1 / ladder.num_draws / ladder.num_images
    return weights


def limit(t: Tensor) -> tg.Limit:
    """Return what the mean tends to: E_1[∇l], the gradient of log p(x)."""
    mean = torch.zeros_like(t)
    mean[-1] = 1.0
    return tg.Limit(mean, torch.zeros_like(t))


tg.register(
    tg.Estimator(
        "mean-of-states",
        mean_of_states,
        limit,
        summary="maximum likelihood from the plain mean of all states of a visit",
        needs_prior_rung=False,
        default_rungs=2,
        max_rungs=2,
        states="all",
    )
)
