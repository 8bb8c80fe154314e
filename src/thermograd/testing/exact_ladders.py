"""Ladders of exact draws from the twins, and the gradients of single draws, for contracts of estimators.

R repeats of a batch of B images stand side by side as R * B images, so that 10,000 ladders are one.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from thermograd.gradients.rules import Weights
from thermograd.ladders.ladder import Ladder
from thermograd.ladders.schedules import power_schedule
from thermograd.models.energy import EnergyNetwork
from thermograd.models.exact_twin import ExactTwin
from thermograd.models.generator import DenseGenerator
from thermograd.models.grid import GridTwin
from thermograd.models.latent_ebm import LatentEBM
from thermograd.models.latent_model import LatentModel
from thermograd.models.linear_gaussian import LinearGaussian

TWINS = ("linear", "grid")
SCHEDULE = power_schedule(5, 2.0)


def seeded(seed: int) -> torch.Generator:
    """Return a fresh generator."""
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Case:
    """A model, the twin that knows its answers, and a batch of images."""

    model: LatentModel
    twin: ExactTwin
    x: Tensor


def make_case(name: str, num_images: int = 2) -> Case:
    """Return the closed-form twin with a full curvature, or a network under a non-linear prior on a grid."""
    if name == "linear":
        curvature = torch.tensor([[0.6, 0.3], [0.3, -0.3]], dtype=torch.float64)
        twin = LinearGaussian.random(2, 3, 0.7, 0.6, seed=1, energy_curvature=curvature)
        with torch.no_grad():
            twin.bias.normal_(generator=seeded(2))
        return Case(twin, twin, twin.sample_images(num_images, seeded(3)) * 1.3)
    energy = EnergyNetwork(1, (4,), "gelu", seeded(4))
    generator = DenseGenerator(1, (1, 2, 2), (4,), True, seeded(5))
    model = LatentEBM(
        energy, generator, latent_dim=1, image_shape=(1, 2, 2), noise_std=0.6, base_std=1.2
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=seeded(6), dtype=torch.float64)
            parameter.mul_(1.5).add_(0.4 * noise)
    x = torch.rand(num_images, 1, 2, 2, generator=seeded(7), dtype=torch.float64) * 2 - 1
    return Case(model, GridTwin(model, 121, half_width=6), x)


def exact_ladder(
    case: Case, t: Tensor, num_chains: int, seed: int, num_repeats: int = 1, num_shared: int | None = None
) -> Ladder:
    """Return a ladder of independent draws for R * B images, image r * B + i the r-th repeat of image i."""
    generator = seeded(seed)
    draws = case.twin.sample_power_posterior(case.x, t, num_chains * num_repeats, generator)
    latents = draws.unflatten(1, (num_chains, num_repeats)).flatten(2, 3)
    state = case.model.evaluate(repeated(case.x, num_repeats), latents)
    score = t.to(latents).view(-1, 1, 1, 1) * state.likelihood_score + state.prior_score
    shared = prior_score = None
    if num_shared is not None:
        assert isinstance(case.twin, LinearGaussian | GridTwin)
        shared = case.twin.sample_prior(num_shared, generator)
        prior_score = case.model.prior_score(shared)
    return Ladder(t, latents, state.log_likelihood, state.energy, shared, score, prior_score)


def repeated(x: Tensor, num_repeats: int) -> Tensor:
    """Return images (R * B, ...): the batch, R times over."""
    return x.repeat(num_repeats, *[1] * (x.ndim - 1))


class _Density(nn.Module):
    def __init__(self, model: LatentModel, group: str):
        super().__init__()
        self.model, self.group = model, group

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        if self.group == "prior":
            return self.model.energy(z).sum()
        return self.model.log_likelihood(x.unsqueeze(0), z.unsqueeze(0)).sum()


def draw_gradients(case: Case, ladder: Ladder, group: str) -> Tensor:
    """Return ∇l (generator) or ∇E (prior) of every draw, (K, M, R * B, P), parameters flat and in order."""
    names = case.model.parameter_groups()[group]
    wanted = {f"model.{name}": case.model.get_parameter(name).detach() for name in names}
    density = _Density(case.model, group)

    def value(parameters: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
        return functional_call(density, parameters, (x, z))

    num_repeats = ladder.num_images // len(case.x)
    x = repeated(case.x, num_repeats).expand(*ladder.latents.shape[:2], *[-1] * case.x.ndim)
    z = ladder.latents
    per_draw = vmap(grad(value), (None, 0, 0), chunk_size=200_000)
    gradients = per_draw(wanted, x.flatten(0, 2), z.flatten(0, 2))
    flat = torch.cat([gradients[f"model.{name}"].flatten(1) for name in names], 1)
    return flat.view(*z.shape[:3], -1)


def estimates(weights: Tensor, gradients: Tensor, num_repeats: int) -> Tensor:
    """Return the estimate of each repeat, (R, P), from the weights of all of them, which are means over R * B."""
    product = torch.einsum("kmi,kmip->ip", weights, gradients)
    return product.unflatten(0, (num_repeats, -1)).sum(1) * num_repeats


def flat_target(case: Case, target: dict[str, Tensor], group: str) -> Tensor:
    """Return the parameters of a group as one vector, in order."""
    return torch.cat([target[name].flatten() for name in case.model.parameter_groups()[group]])


def weights_of(weights: Weights, group: str) -> Tensor:
    """Return the weights of the draws of a ladder that belong to a group."""
    return weights.energy if group == "prior" else weights.log_likelihood


def worst_deviation(draws: Tensor, truth: Tensor) -> float:
    """Return the largest |mean - truth| in standard errors over P coordinates and 20 fixed projections.

    It is divided by the Bonferroni limit of that many comparisons at the level of 4 sigma for one, so that
    values up to 1 pass.
    """
    num_draws, num_coordinates = draws.shape
    directions = torch.randn(num_coordinates, 20, generator=seeded(99), dtype=draws.dtype)
    basis = torch.cat([torch.eye(num_coordinates, dtype=draws.dtype), directions], 1)
    values = (draws - truth) @ basis
    scores = values.mean(0) / (values.std(0) / math.sqrt(num_draws))
    level = 2 * (1 - NormalDist().cdf(4.0)) / basis.shape[1]
    return float(scores.abs().max()) / NormalDist().inv_cdf(1 - level / 2)
