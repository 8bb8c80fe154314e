"""The published algorithm (Pang et al. 2020) in plain PyTorch: what the package is timed against.

float32, default memory layout, transposed convolutions from a single pixel, autograd for each Langevin step, Python
loops over steps and over temperatures, `torch.optim.Adam`. Nothing of the package is used.
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


class PlainModel(nn.Module):
    """Energy and generator networks of the published sizes.

    Args:
        latent_dim: d.
        image_shape: (C, H, W), 28 or 32 pixels.
        widths: channels of the generator's hidden layers.
        noise_std: s.
    """

    def __init__(
        self, latent_dim: int, image_shape: tuple[int, int, int], widths: tuple[int, ...], noise_std: float
    ):
        super().__init__()
        self.latent_dim, self.noise_std = latent_dim, noise_std
        self.num_pixels = math.prod(image_shape)
        self.energy = nn.Sequential(
            nn.Linear(latent_dim, 200),
            nn.GELU(),
            nn.Linear(200, 200),
            nn.GELU(),
            nn.Linear(200, 1, bias=False),
        )
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, widths[0], 4)]
        kernels = (3 if image_shape[1] == 28 else 4, 4, 4)  # from 4 to 7 pixels takes a kernel of 3
        for before, after, kernel in zip(widths, (*widths[1:], image_shape[0]), kernels, strict=True):
            layers += [nn.LeakyReLU(0.2), nn.ConvTranspose2d(before, after, kernel, stride=2, padding=1)]
        self.generator = nn.Sequential(*layers, nn.Tanh())

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log N(x; g(z), s^2 I) of images (B, C, H, W) and latents (B, d), (B,)."""
        images = self.generator(z.view(*z.shape, 1, 1))
        constant = self.num_pixels / 2 * math.log(2 * math.pi * self.noise_std**2)
        return -((x - images) ** 2).sum((1, 2, 3)) / (2 * self.noise_std**2) - constant


def fresh_noise(like: Tensor, num_steps: int) -> Iterator[Tensor]:
    """Yield standard normal noise, one tensor a step."""
    for _ in range(num_steps):
        yield torch.randn_like(like)


def sample_prior(model: PlainModel, z: Tensor, noise: Iterable[Tensor], h: float) -> Tensor:
    """Run unadjusted Langevin dynamics on the prior from z (B, d)."""
    for step_noise in noise:
        z = z.detach().requires_grad_()
        energy = model.energy(z).sum() + (z**2).sum() / 2
        (gradient,) = torch.autograd.grad(energy, z)
        z = z - h**2 / 2 * gradient + h * step_noise
    return z.detach()


def sample_posterior(
    model: PlainModel, x: Tensor, z: Tensor, noise: Iterable[Tensor], h: float, t: float = 1.0
) -> Tensor:
    """Run unadjusted Langevin dynamics on the power posterior of images x from z (B, d)."""
    for step_noise in noise:
        z = z.detach().requires_grad_()
        energy = -t * model.log_likelihood(x, z).sum() + model.energy(z).sum() + (z**2).sum() / 2
        (gradient,) = torch.autograd.grad(energy, z)
        z = z - h**2 / 2 * gradient + h * step_noise
    return z.detach()


def losses(
    model: PlainModel, x: Tensor, draws: list[Tensor], weights: list[float], prior_draws: Tensor
) -> Tensor:
    """Return what the optimisers lower: weighted -log p(x|z) over rungs, and the contrast of energies."""
    likelihood = sum(w * model.log_likelihood(x, z).mean() for w, z in zip(weights, draws, strict=True))
    contrast = model.energy(draws[-1]).mean() - model.energy(prior_draws).mean()
    return contrast - likelihood


class PlainTrainer:
    """A model with its two optimisers, trained by short-run chains.

    Args:
        model: the networks.
        temperatures: inverse temperatures of the rungs that run chains; [1.0] is maximum likelihood.
        weights: of the rungs' log-likelihoods in the objective.
        num_steps: Langevin steps of each posterior chain.
        num_prior_steps: Langevin steps of the prior chains.
        step_size: h of the posterior chains.
        prior_step_size: h of the prior chains.
    """

    def __init__(
        self,
        model: PlainModel,
        temperatures: list[float],
        weights: list[float],
        num_steps: int,
        num_prior_steps: int = 60,
        step_size: float = 0.1,
        prior_step_size: float = 0.4,
    ):
        self.model, self.temperatures, self.weights = model, temperatures, weights
        self.num_steps, self.num_prior_steps = num_steps, num_prior_steps
        self.step_size, self.prior_step_size = step_size, prior_step_size
        self.generator_adam = torch.optim.Adam(model.generator.parameters(), 1e-4, betas=(0.5, 0.999))
        self.energy_adam = torch.optim.Adam(model.energy.parameters(), 2e-5, betas=(0.5, 0.999))

    def step(self, x: Tensor) -> None:
        """Train on one batch (B, C, H, W)."""
        model = self.model
        start = torch.randn(len(x), model.latent_dim, device=x.device)
        prior = sample_prior(model, start, fresh_noise(start, self.num_prior_steps), self.prior_step_size)
        draws = []
        for t in self.temperatures:
            start = torch.randn(len(x), model.latent_dim, device=x.device)
            noise = fresh_noise(start, self.num_steps)
            draws.append(sample_posterior(model, x, start, noise, self.step_size, t))
        self.generator_adam.zero_grad()
        self.energy_adam.zero_grad()
        losses(model, x, draws, self.weights, prior).backward()
        self.generator_adam.step()
        self.energy_adam.step()
