"""One call for a whole ladder in tests: start, adapt, trace; what comes back answers for ladder, info and trace."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thermograd.ladders.ladder import Ladder
from thermograd.ladders.record import LadderInfo, LadderTrace
from thermograd.ladders.sampler import Bottom, LadderSampler
from thermograd.models.latent_model import LatentModel


@dataclass(frozen=True)
class Sampled:
    ladder: Ladder
    info: LadderInfo
    trace: LadderTrace

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ladder if hasattr(self.ladder, name) else self.info, name)


def run_ladder(
    model: LatentModel,
    x: Tensor,
    inverse_temperatures: Tensor,
    kernel: Any,
    num_chains: int,
    num_steps: int,
    at: Any,
    generator: torch.Generator,
    *,
    num_burn_in: int = 0,
    num_start_steps: int = 1,
    exchange: bool = False,
    bottom: Bottom = "chains",
    prior_latents: Tensor | None = None,
    chunk_size: int | None = None,
    first_parity: int = 0,
    scores: bool = False,
) -> Sampled:
    sampler = LadderSampler(inverse_temperatures, kernel, num_chains, exchange, bottom, chunk_size)
    state = sampler.start(model, x, generator, at, prior_latents=prior_latents, num_steps=num_start_steps)
    sampler, state = sampler.adapt(model, x, state, num_burn_in, generator)
    state = state.after(first_parity)
    return Sampled(*sampler.trace(model, x, state, num_steps, generator, prior_latents, scores=scores))
