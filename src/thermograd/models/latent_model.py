r"""What every model offers: a prior, a likelihood, and their scores in the latent vector.

Notation: x is an image, z a latent vector of d numbers, E the energy (low = likely), s0 the base distribution's
standard deviation, t an inverse temperature in [0, 1].

    prior            p(z)    = exp(-E(z)) N(z; 0, s0^2 I) / Z
    power posterior  p_t(z)  ∝ p(x|z)^t p(z)        (t = 0 the prior, t = 1 the posterior)

Densities map (..., d) to (...): leading axes are free, and no sum ever mixes images, chains or temperatures.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Evaluation(NamedTuple):
    """A model evaluated at latents z (..., d); likelihood and prior parts apart, since t changes.

    Attributes:
        log_likelihood: (...), normalised, one value per image, in nats.
        energy: (...), E(z).
        log_prior: (...), -E(z) - |z|^2 / (2 s0^2), unnormalised.
        likelihood_score: (..., d), gradient of `log_likelihood` in z.
        prior_score: (..., d), gradient of `log_prior` in z.
    """

    log_likelihood: Tensor
    energy: Tensor
    log_prior: Tensor
    likelihood_score: Tensor
    prior_score: Tensor


class LatentModel(nn.Module, ABC):
    """A latent variable model p(x|z) p(z) whose prior is a base Gaussian tilted by an energy.

    A subclass sets `latent_dim`, `base_std` and `image_shape` and gives `log_likelihood`, `energy` and
    `parameter_groups`; samplers, evidence and gradient estimators need nothing else.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(4, torch.Generator().manual_seed(1))
        >>> isinstance(twin, tg.LatentModel), twin.log_prior(torch.zeros(5, 2, dtype=torch.float64)).shape
        (True, torch.Size([5]))
    """

    latent_dim: int
    base_std: float
    image_shape: tuple[int, ...]

    @abstractmethod
    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z), normalised.

        Args:
            x: images (B, *image_shape), which broadcast against the last batch axis of z.
            z: latents (..., B, d).

        Returns:
            (..., B), in nats.
        """

    @abstractmethod
    def energy(self, z: Tensor) -> Tensor:
        """Return E(z), (..., d) to (...)."""

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[str]]:
        """Return the names of the parameters of the `prior` and of the `generator`."""

    def log_likelihood_table(self, x: Tensor, z: Tensor, chunk_size: int = 1024) -> Tensor:
        """Return log p(x_b|z_n) of every latent (N, d) with every image (B, *image_shape), (N, B), without a graph."""
        with torch.no_grad():
            rows = [
                self.log_likelihood(x, part.unsqueeze(1).expand(-1, len(x), -1))
                for part in z.split(max(1, chunk_size // len(x)))
            ]
        return torch.cat(rows)

    def log_base(self, z: Tensor) -> Tensor:
        """Return the normalised log density of the base distribution N(0, s0^2 I), (..., d) to (...)."""
        constant = self.latent_dim * math.log(2 * math.pi * self.base_std**2) / 2
        return -z.square().sum(-1) / (2 * self.base_std**2) - constant

    def log_prior(self, z: Tensor) -> Tensor:
        """Return -E(z) - |z|^2 / (2 s0^2), (..., d) to (...); the normaliser of the prior is left out."""
        return -self.energy(z) - z.square().sum(-1) / (2 * self.base_std**2)

    def sample_base(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw latents (*shape, d) from the base distribution, in the model's number format."""
        like = next(self.parameters())
        z = torch.randn((*shape, self.latent_dim), generator=generator, device=like.device, dtype=like.dtype)
        return z * self.base_std

    def prior_score(self, z: Tensor) -> Tensor:
        """Return the gradient of `log_prior` in z, (..., d), and nothing else."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            (energy_gradient,) = torch.autograd.grad(self.energy(leaf).sum(), leaf)
        return -energy_gradient - leaf.detach() / self.base_std**2

    def evaluate_prior(self, z: Tensor) -> Evaluation:
        """Evaluate the prior alone: one backward pass of the energy; the likelihood's parts are zero."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            energy = self.energy(leaf)
            (energy_gradient,) = torch.autograd.grad(energy.sum(), leaf)
        z, energy = z.detach(), energy.detach()
        log_prior = -energy - z.square().sum(-1) / (2 * self.base_std**2)
        score = -energy_gradient - z / self.base_std**2
        return Evaluation(torch.zeros_like(energy), energy, log_prior, torch.zeros_like(z), score)

    def evaluate(self, x: Tensor, z: Tensor) -> Evaluation:
        """Evaluate likelihood, prior and both scores at z with one backward pass.

        The two scores come apart because likelihood and energy read two leaves that hold the same numbers.

        Args:
            x: images (B, *image_shape).
            z: latents (..., B, d).

        Returns:
            An `Evaluation` with leading axes (..., B), free of graphs.
        """
        with torch.enable_grad():
            leaf_likelihood = z.detach().requires_grad_()
            leaf_energy = z.detach().requires_grad_()
            log_likelihood = self.log_likelihood(x, leaf_likelihood)
            energy = self.energy(leaf_energy)
            likelihood_score, energy_gradient = torch.autograd.grad(
                log_likelihood.sum() + energy.sum(), (leaf_likelihood, leaf_energy)
            )
        z, energy = z.detach(), energy.detach()
        log_prior = -energy - z.square().sum(-1) / (2 * self.base_std**2)
        prior_score = -energy_gradient - z / self.base_std**2
        return Evaluation(log_likelihood.detach(), energy, log_prior, likelihood_score, prior_score)
