r"""Chains on the prior: they cost no evaluation of the generator, and their draws serve all images.

Alone they sample p(z) ∝ exp(-E(z)) p0(z). With a ladder they sample p_t(z) ∝ exp(-t E(z)) p0(z) on K rungs from t = 0,
the base distribution, to t = 1, and neighbours swap states, so that a chain can leave a mode by way of the base.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thermograd.config.sections import PriorChainsConfig
from thermograd.errors import InputError, check_positive
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.kernel import Kernel
from thermograd.samplers.langevin import langevin_move
from thermograd.samplers.replica_exchange import exchange
from thermograd.samplers.target import FromBase, Target


@dataclass(frozen=True)
class PriorSource:
    """Where the samples of a run's prior come from.

    Attributes:
        settings: of the run's prior chains.
        step_size: h as adapted, () or (K,).
        stored: where the run's persistent chains stand, (M0, d) or (K, M0, d); None where chains begin at the base.
    """

    settings: PriorChainsConfig
    step_size: Tensor
    stored: Tensor | None = None

    @property
    def num_steps(self) -> int:
        """Return the steps from where chains begin to a sample."""
        short = self.settings.num_steps
        return short if self.settings.is_short_run else self.settings.num_sample_steps or short

    def start(self, model: LatentModel, num_chains: int, generator: torch.Generator) -> Tensor:
        """Return where chains begin: draws of the base, or copies of the stored chains, all as often as can be."""
        if self.stored is None:
            return model.sample_base((num_chains,), generator)
        stored = self.stored.to(generator.device)
        rounds = -(-num_chains // stored.shape[-2])
        order = [
            torch.randperm(stored.shape[-2], generator=generator, device=stored.device) for _ in range(rounds)
        ]
        return stored[..., torch.cat(order)[:num_chains], :]


@dataclass(frozen=True)
class PriorDraws:
    """Draws of chains on the prior, shared by all images.

    Attributes:
        latents: (M0, d).
        energy: (M0,).
        chains: where all chains stand, to go on from: the latents themselves, or with a ladder (K, M0, d).
        acceptance: mean acceptance probability, () or (K,); 1 for ULA.
        score_norm: mean length of the score at t = 1, for ULA where the last step set out from.
        energy_trace: (S, M0), the energy at t = 1 after each step; None for ULA alone, which does not evaluate it.
        swap_rates: (K - 1,), mean swap probability of neighbouring rungs; None without a ladder.
    """

    latents: Tensor
    energy: Tensor
    chains: Tensor
    acceptance: Tensor
    score_norm: float
    energy_trace: Tensor | None = None
    swap_rates: Tensor | None = None


def prior_temperatures(num_rungs: int) -> Tensor:
    """Return the inverse temperatures k/(K - 1) of a ladder on the prior, (K,)."""
    return torch.linspace(0, 1, num_rungs)


def sample_prior(
    model: LatentModel, kernel: Kernel, num_steps: int, start: Tensor, generator: torch.Generator
) -> PriorDraws:
    """Run chains on the prior; they cost no evaluation of the generator.

    Args:
        model: any `LatentModel`.
        kernel: its step size is a number, or with a ladder (K,).
        num_steps: S.
        start: (M0, d), or (K, M0, d) for a ladder of the temperatures of `prior_temperatures`, with exchange.
        generator: source of all randomness.

    Raises:
        InputError: `num_steps` below 1, or a start of another number of axes.
    """
    check_positive("num_steps", num_steps)
    if start.dim() == 3:
        return _tempered_prior(model, kernel, num_steps, start, generator)
    if start.dim() != 2:
        raise InputError(f"`start` must be (M0, d), or (K, M0, d) with a ladder, got {tuple(start.shape)}.")
    if kernel.moves_by_score:
        return _by_score(model, kernel, num_steps, start, generator)
    target = Target(model)
    state = kernel.init(target, start)
    t = state.log_prior.new_zeros(())
    acceptance, energies = torch.zeros_like(state.log_prior), []
    for _ in range(num_steps):
        state, info = kernel.step(target, state, t, generator)
        acceptance += info.acceptance
        energies.append(state.energy)
    score_norm = float(state.score(t).norm(dim=-1).mean())
    trace = torch.stack(energies)
    z = state.position
    return PriorDraws(z, state.energy, z, acceptance.mean() / num_steps, score_norm, trace)


def _tempered_prior(
    model: LatentModel, kernel: Kernel, num_steps: int, start: Tensor, generator: torch.Generator
) -> PriorDraws:
    """Run a ladder of priors with replica exchange: the part that is annealed is -E."""
    target, t = FromBase(model), prior_temperatures(len(start)).to(start).view(-1, 1, 1)
    h = torch.as_tensor(kernel.step_size).to(start).view(-1, 1, 1)
    kernel = replace(kernel, step_size=h)
    state = kernel.init(target, start.unsqueeze(2))  # one "image", so that chains are (K, M0, 1)
    acceptance, swaps, energies = torch.zeros_like(state.energy), start.new_zeros(len(start) - 1), []
    for step in range(num_steps):
        state, info = kernel.step(target, state, t, generator)
        acceptance += info.acceptance
        state, _, probability = exchange(state, t, step % 2, generator)
        swaps += probability.mean((1, 2))
        energies.append(state.energy[-1, :, 0])
    z = state.position.squeeze(2)
    return PriorDraws(
        z[-1],
        energies[-1],
        z,
        acceptance.mean((1, 2)) / num_steps,
        float(state.score(t)[-1].norm(dim=-1).mean()),
        torch.stack(energies),
        swaps / num_steps,
    )


def _by_score(
    model: LatentModel, kernel: Kernel, num_steps: int, z: Tensor, generator: torch.Generator
) -> PriorDraws:
    """Move by the score of the prior alone: on a small network the rest of the state took a third of the time."""
    score = torch.empty_like(z)
    for _ in range(num_steps):
        score = model.prior_score(z)
        z = langevin_move(z, score, kernel.step_size, generator)
    with torch.no_grad():
        energy = model.energy(z)
    return PriorDraws(z, energy, z, energy.new_ones(()), float(score.norm(dim=-1).mean()))
