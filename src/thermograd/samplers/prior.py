"""Chains on the prior: they cost no evaluation of the generator, and their draws serve all images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thermograd.errors import check_positive
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.kernel import Kernel
from thermograd.samplers.langevin import ULA, langevin_move
from thermograd.samplers.target import Target


@dataclass(frozen=True)
class PriorDraws:
    """Draws of chains on the prior, shared by all images.

    Attributes:
        latents: (M0, d).
        energy: (M0,).
        acceptance: mean acceptance probability.
        score_norm: mean length of the score, for ULA where the last step set out from.
    """

    latents: Tensor
    energy: Tensor
    acceptance: float
    score_norm: float


def sample_prior(
    model: LatentModel, kernel: Kernel, num_steps: int, start: Tensor, generator: torch.Generator
) -> PriorDraws:
    """Run chains on the prior from `start` (M0, d); they cost no evaluation of the generator.

    Raises:
        InputError: `num_steps` below 1.
    """
    check_positive("num_steps", num_steps)
    if isinstance(kernel, ULA):
        return _short_run_prior(model, kernel, num_steps, start, generator)
    target = Target(model)
    state = kernel.init(target, start)
    t = state.log_prior.new_zeros(())
    acceptance = torch.zeros_like(state.log_prior)
    for _ in range(num_steps):
        state, info = kernel.step(target, state, t, generator)
        acceptance += info.acceptance
    return PriorDraws(
        state.position,
        state.energy,
        float(acceptance.mean() / num_steps),
        float(state.score(t).norm(dim=-1).mean()),
    )


def _short_run_prior(
    model: LatentModel, kernel: ULA, num_steps: int, z: Tensor, generator: torch.Generator
) -> PriorDraws:
    """Run ULA on the prior, by its score alone: on a small network bookkeeping took a third of the time."""
    score = torch.empty_like(z)
    for _ in range(num_steps):
        score = model.prior_score(z)
        z = langevin_move(z, score, kernel.step_size, generator)
    with torch.no_grad():
        energy = model.energy(z)
    return PriorDraws(z, energy, 1.0, float(score.norm(dim=-1).mean()))
