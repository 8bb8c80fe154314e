r"""Zero-variance control variates: functions whose mean under a power posterior is known to be 0.

For a density p with score s and any smooth vector field phi, E_p[div phi + phi . s] = 0. Constant fields and
phi = z give d + 1 such functions that cost nothing, since Langevin kernels know the score already:

    s_1, ..., s_d,  and  z . s + d.

A regression of the integrand on them, fitted on other draws than those it is applied to, removes what they
explain. With l quadratic and the curvature of log p the same in all directions they explain all of it.

References:
    Oates, Papamarkou, Girolami (2016), The controlled thermodynamic integral for Bayesian model evidence
        evaluation. JASA.
    Mira, Solgi, Imparato (2013), Zero variance Markov chain Monte Carlo for Bayesian estimators.
"""

import torch
from torch import Tensor

from thermograd.errors import InputError

NUM_FOLDS = 10
RIDGE = 1e-6  # relative to the functions' own variance; keeps the fit defined when a chain repeats a state


def num_draws_needed(latent_dim: int) -> int:
    """Return how many draws per image and rung must have: twice as many as coefficients are fitted."""
    return 2 * (latent_dim + 2)


def stein_functions(latents: Tensor, score: Tensor) -> Tensor:
    """Return the score and z . s + d, both with mean 0 under the density that the score belongs to.

    Args:
        latents: z, (..., d).
        score: s, (..., d).

    Returns:
        (..., d + 1)
    """
    virial = (latents * score).sum(-1, keepdim=True) + latents.shape[-1]
    return torch.cat([score, virial], -1)


def controlled(values: Tensor, functions: Tensor) -> Tensor:
    r"""Return f - c . h for each draw, with c fitted by least squares on the draws of other folds.

    The mean of the result estimates E[f] without bias on independent draws, and its spread shows the error,
    that of c included. Folds are blocks of time, so that neighbours of a draw mostly stay out of its own fit.

    Args:
        values: f, (S, K, M, B).
        functions: h, (S, K, M, B, p), each with mean 0.

    Returns:
        (S, K, M, B)

    Raises:
        InputError: fewer draws on a rung than twice the coefficients.
    """
    num_steps, num_rungs, num_chains, num_images = values.shape
    num_draws, num_functions = num_steps * num_chains, functions.shape[-1]
    if num_draws < 2 * (num_functions + 1):
        raise InputError(
            f"`control_variates` must have at least {2 * (num_functions + 1)} draws on each rung, "
            f"got {num_draws}."
        )
    f = values.movedim(2, 1).reshape(num_draws, num_rungs, num_images).movedim(0, -1)
    h = functions.movedim(2, 1).reshape(num_draws, num_rungs, num_images, num_functions).movedim(0, -2)
    h = h / h.square().mean(-2, keepdim=True).sqrt().clamp(min=torch.finfo(h.dtype).tiny)
    design = torch.cat([torch.ones_like(h[..., :1]), h], -1)
    ridge = RIDGE * num_draws * torch.eye(num_functions + 1, dtype=h.dtype, device=h.device)
    ridge[0, 0] = 0
    gram, moment = design.mT @ design + ridge, design.mT @ f.unsqueeze(-1)
    pieces = []
    for fold in torch.arange(num_draws, device=f.device).tensor_split(min(NUM_FOLDS, num_draws)):
        held_out = design[..., fold, :]
        target = f[..., fold].unsqueeze(-1)
        fit = torch.linalg.solve(gram - held_out.mT @ held_out, moment - held_out.mT @ target)
        pieces.append((target - held_out[..., 1:] @ fit[..., 1:, :]).squeeze(-1))
    out = torch.cat(pieces, -1).movedim(-1, 0)
    return out.reshape(num_steps, num_chains, num_rungs, num_images).movedim(1, 2)
