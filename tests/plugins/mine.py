"""A user's file from outside the package: an estimator, a prior rule, a kernel, a schedule and two networks."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import thermograd as tg


def all_pairs(ladder: tg.Ladder) -> Tensor:
    """Return the weights of the mean over the top rung plus a term that two chains cancel: it needs two."""
    top, m = ladder.log_likelihood[-1], ladder.num_draws
    weights = torch.zeros_like(ladder.log_likelihood)
    weights[-1] = 1 + 0.5 * (top - top.mean(0)) * (m / (m - 1))
    return weights / (m * ladder.num_images)


def all_pairs_limit(t: Tensor) -> tg.Limit:
    """Return E_1[∇l] + Cov_1(l, ∇l) / 2."""
    last = torch.zeros_like(t)
    last[-1] = 1
    return tg.Limit(last, last / 2)


tg.register(
    tg.Estimator("ours", all_pairs, all_pairs_limit, min_chains=2, default_rungs=3, summary="of ours")
)


def half_contrast(ladder: tg.Ladder) -> tuple[Tensor, None]:
    """Return the weights of (E_0[∇E] - E_1[∇E]) / 2, which learns at half the rate."""
    weights = torch.zeros_like(ladder.energy)
    weights[0], weights[-1] = 0.5, -0.5
    return weights / (ladder.num_draws * ladder.num_images), None


def half_limit(t: Tensor) -> tg.Limit:
    """Return the coefficients of the same."""
    ends = torch.zeros_like(t)
    ends[0], ends[-1] = 0.5, -0.5
    return tg.Limit(ends, torch.zeros_like(t))


tg.register(tg.PriorRule("half", half_contrast, half_limit))


@tg.register
@dataclass(frozen=True)
class RandomWalk(tg.Kernel):
    """Random-walk Metropolis, whose step size adapts."""

    name: ClassVar[str] = "random-walk"
    is_reversible: ClassVar[bool] = True
    target_acceptance: float | None = 0.3

    def step(self, target: Any, state: Any, t: Tensor, generator: torch.Generator) -> Any:
        """Take one step."""
        z = state.position
        h = torch.as_tensor(self.step_size, dtype=z.dtype).unsqueeze(-1)
        proposal = target.evaluate(z + h * torch.randn(z.shape, generator=generator, dtype=z.dtype))
        return self.accept(state, proposal, proposal.log_density(t) - state.log_density(t), generator)


def cubes(num_rungs: int, settings: Any) -> Tensor:
    """Return (k/N)^3."""
    return torch.linspace(0, 1, num_rungs, dtype=torch.float64) ** 3


tg.register(tg.Schedule("cubes", cubes))


class Decoder(nn.Module):
    """A decoder with one hidden layer."""

    def __init__(self, latent_dim: int, image_shape: tuple[int, int, int], width: int = 6):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, width),
            nn.SiLU(),
            nn.Linear(width, math.prod(image_shape)),
            nn.Tanh(),
            nn.Unflatten(-1, image_shape),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return images (N, C, H, W) of latents (N, d)."""
        return self.layers(z)


class Energy(nn.Module):
    """A small energy."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(latent_dim, 5), nn.SiLU(), nn.Linear(5, 1, bias=False))

    def forward(self, z: Tensor) -> Tensor:
        """Return E(z), (..., d) to (...)."""
        return self.layers(z).squeeze(-1)
