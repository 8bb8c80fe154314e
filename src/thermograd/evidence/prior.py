"""The prior's own numbers, shared by all images: log Z_a with its error, and a bank of draws decoded once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thermograd.errors import Caution
from thermograd.evidence.annealing import FromBase
from thermograd.evidence.result import quantile
from thermograd.ladders.smc import run_smc
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.mala import MALA
from thermograd.samplers.target import Target

NUM_TEMPERATURES, NUM_STEPS = 60, 6
BANK_PER_PARTICLE, LEAST_PARTICLES = 5, 250
STEPS_BETWEEN = 10  # of the chains, between the draws that the bank keeps
SETTLED = 0.5  # nats


@dataclass(frozen=True)
class Prior:
    """What runs of sequential Monte Carlo from the base distribution to the prior found; no generator was evaluated.

    Attributes:
        log_partition: (R,), independent estimates of log Z_a, in nats.
        bank: (R, N, d), draws of the prior; those of one run descend from its particles, and no others.
        drift: (R,), by how much the mean energy moved while chains went on from the particles; 0 but for chance where
            the particles stand where the prior is.
    """

    log_partition: Tensor
    bank: Tensor
    drift: Tensor

    @property
    def value(self) -> float:
        """Return log Z_a, the log of the mean of exp(estimates)."""
        return float(self.log_partition.logsumexp(0) - torch.tensor(len(self.log_partition)).log())

    @property
    def error(self) -> float:
        """Return the standard error of log Z_a, from the spread of the runs."""
        return float(self.log_partition.std()) / len(self.log_partition) ** 0.5

    @property
    def warnings(self) -> list[Caution]:
        """Return a caution of kind "prior-chains" where runs disagree on log Z_a, or particles were not the prior's."""
        count = len(self.drift)
        moved, chance = float(self.drift.mean()), quantile(count) * float(self.drift.std()) / count**0.5
        if self.error <= SETTLED and not abs(moved) > max(chance, SETTLED):
            return []
        return [
            Caution(
                "prior-chains",
                f"the prior is not settled: log Z_a has standard error {self.error:.2g} nats, and mean energy moves by "
                f"{moved:.2g} nats as its chains go on; log p(x) of every image is as doubtful.",
            )
        ]


def run_prior(model: LatentModel, num_draws: int, num_replicates: int, generator: torch.Generator) -> Prior:
    """Estimate log Z_a by annealing the energy, and draw a bank by chains that go on from the particles.

    Args:
        model: any `LatentModel`.
        num_draws: of the bank, for all runs together; rounded up.
        num_replicates: R, independent runs.
        generator: source of all randomness.
    """
    number = max(LEAST_PARTICLES, num_draws // (BANK_PER_PARTICLE * num_replicates))
    particles = run_smc(
        FromBase(model),
        model.sample_base((number, num_replicates), generator),
        generator,
        num_temperatures=NUM_TEMPERATURES,
        threshold=0.9,
        step_size=0.5 * model.base_std,
        num_steps=NUM_STEPS,
    )
    target, kernel = Target(model), MALA(particles.step_sizes[-1])
    state, t = target.evaluate(particles.latents), particles.log_ratio.new_zeros(()).to(particles.latents)
    kept, begun = [], state.energy
    rounds = -(-num_draws // (number * num_replicates))
    for _ in range(rounds):
        for _ in range(STEPS_BETWEEN):
            state, _ = kernel.step(target, state, t, generator)
        kept.append(state.position)
    bank = torch.cat(kept).transpose(0, 1)
    size = -(-num_draws // num_replicates)
    pick = torch.arange(size, device=bank.device) * bank.shape[1] // size
    return Prior(particles.log_ratio, bank[:, pick], (state.energy - begun).mean(0))
