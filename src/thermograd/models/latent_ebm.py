r"""The latent space energy-based prior model of Pang et al. (2020).

    prior       p_a(z)   = exp(-E_a(z)) N(z; 0, s0^2 I) / Z_a
    likelihood  p_b(x|z) = N(x; g_b(z), s^2 I)      Gaussian, x in [-1, 1], or
                p_b(x|z) = prod Bernoulli(x; sigmoid(g_b(z)))    x in {0, 1}, binarised by a rule kept with the run

E_a is `energy_network`, g_b is `generator`.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from thermograd.errors import InputError
from thermograd.models.generator import Bfloat16Generator, ConvGenerator, DenseGenerator
from thermograd.models.latent_model import LatentModel
from thermograd.models.networks import make_energy, make_generator
from thermograd.models.pretrained import Shared, check_fit, read_shared


class LatentEBM(LatentModel):
    """A generator with a Gaussian or Bernoulli likelihood, under a prior tilted by an energy network.

    Args:
        energy_network: module (..., d) to (...).
        generator: module (N, d) to (N, *image_shape): means, or logits for `bernoulli`.
        latent_dim: d.
        image_shape: (C, H, W).
        likelihood: "gaussian" or "bernoulli".
        noise_std: s, the Gaussian likelihood's standard deviation, in units of pixels in [-1, 1].
        base_std: s0, the base distribution's standard deviation.

    Raises:
        InputError: a network that is not a module, `noise_std` or `base_std` not positive, or an unknown likelihood.

    References:
        Pang, Han, Nijkamp, Zhu, Wu (2020), Learning latent space energy-based prior model. NeurIPS.

    Example:
        >>> from torch import nn
        >>> decoder = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
        >>> energy = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1), nn.Flatten(-2))
        >>> model = tg.LatentEBM(energy, decoder, latent_dim=4, image_shape=(1, 8, 8))
        >>> model.decode(torch.zeros(3, 4)).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        energy_network: nn.Module,
        generator: nn.Module,
        *,
        latent_dim: int,
        image_shape: tuple[int, int, int],
        likelihood: str = "gaussian",
        noise_std: float = 0.3,
        base_std: float = 1.0,
    ):
        super().__init__()
        for name, network in (("energy_network", energy_network), ("generator", generator)):
            if not isinstance(network, nn.Module):
                raise InputError(f"`{name}` must be a torch.nn.Module, got {type(network).__name__}.")
        for name, value in (("noise_std", noise_std), ("base_std", base_std)):
            if not value > 0 or not math.isfinite(value):
                raise InputError(f"`{name}` must be positive, got {value}.")
        if likelihood not in ("gaussian", "bernoulli"):
            raise InputError(f"`likelihood` must be gaussian or bernoulli, got {likelihood!r}.")
        self.energy_network = energy_network
        self.generator = generator
        self.latent_dim = latent_dim
        self.image_shape = image_shape
        self.likelihood = likelihood
        self.noise_std = noise_std
        self.base_std = base_std

    @classmethod
    def from_pretrained(
        cls, source: Path | str, *, revision: str | None = None, trust_plugins: bool = False
    ) -> "LatentEBM":
        """Return a model that was shared by `Run.save_pretrained` or `Run.push`, on the CPU.

        Args:
            source: a folder, or OWNER/NAME on the Hugging Face hub (extra `hub`).
            revision: on the hub, a branch, tag or commit.
            trust_plugins: run the code of networks that are not of this package.

        Raises:
            InputError: no such folder or name, files that are missing, changed or of another model, or code that is
                not trusted.
            RunError: the hub cannot be reached.
        """
        return cls.of_shared(read_shared(source, revision=revision, trust_plugins=trust_plugins))

    @classmethod
    def of_shared(cls, shared: Shared) -> "LatentEBM":
        """Return the model of a shared folder that was read."""
        settings, seed = shared.config.model, shared.config.seed
        model = cls(
            make_energy(settings, seed),
            make_generator(settings, seed),
            latent_dim=settings.latent_dim,
            image_shape=settings.image_shape,
            likelihood=settings.likelihood,
            noise_std=settings.noise_std,
            base_std=settings.base_std,
        )
        check_fit(shared.weights, model.state_dict(), str(shared.folder))
        model.load_state_dict(dict(shared.weights))
        return model

    def energy(self, z: Tensor) -> Tensor:
        """Return E_a(z), (..., d) to (...)."""
        return self.energy_network(z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        r"""Return log p_b(x|z), normalised, in nats.

        Gaussian: -|x - g(z)|^2 / (2 s^2) - (D/2) log(2 pi s^2), with D the number of pixels times channels.
        Bernoulli: sum of x log sigmoid(g) + (1 - x) log(1 - sigmoid(g)).

        Args:
            x: images (B, C, H, W).
            z: latents (..., B, d).

        Returns:
            (..., B)
        """
        output = self.generator(z.reshape(-1, self.latent_dim)).to(z.dtype)
        output = output.view(*z.shape[:-1], *self.image_shape)
        if self.likelihood == "bernoulli":
            return -functional.binary_cross_entropy_with_logits(
                output, x.expand_as(output), reduction="none"
            ).sum((-3, -2, -1))
        variance = self.noise_std**2
        constant = math.prod(self.image_shape) * math.log(2 * math.pi * variance) / 2
        return -(x - output).square().sum((-3, -2, -1)) / (2 * variance) - constant

    def log_likelihood_table(self, x: Tensor, z: Tensor, chunk_size: int = 1024) -> Tensor:
        """Return log p(x_b|z_n), (N, B): each latent is decoded once, and products of matrices do the rest."""
        flat, rows = x.flatten(1), []
        count = math.prod(self.image_shape)
        with torch.no_grad():
            for part in z.split(chunk_size):
                output = self.generator(part).to(z.dtype).flatten(1)
                if self.likelihood == "bernoulli":
                    rows.append(output @ flat.mT - functional.softplus(output).sum(1, keepdim=True))
                    continue
                square = output.square().sum(1, keepdim=True) - 2 * output @ flat.mT + flat.square().sum(1)
                constant = count * math.log(2 * math.pi * self.noise_std**2) / 2
                rows.append(-square / (2 * self.noise_std**2) - constant)
        return torch.cat(rows)

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean images of latents (..., d) as (..., C, H, W) in [-1, 1], without a graph."""
        with torch.no_grad():
            output = self.generator(z.reshape(-1, self.latent_dim)).to(z.dtype)
        if self.likelihood == "bernoulli":
            output = 2 * output.sigmoid() - 1
        return output.view(*z.shape[:-1], *self.image_shape)

    def with_bfloat16_generator(self) -> "LatentEBM":
        """Return the model for chains: a bfloat16 copy of the generator as it stands, the same energy network.

        Raises:
            InputError: a generator that is not of this package.
        """
        if not isinstance(self.generator, ConvGenerator | DenseGenerator):
            raise InputError(
                f"`generator` must be a ConvGenerator or a DenseGenerator, got {type(self.generator).__name__}."
            )
        return LatentEBM(
            self.energy_network,
            Bfloat16Generator(self.generator),
            latent_dim=self.latent_dim,
            image_shape=(self.image_shape[0], self.image_shape[1], self.image_shape[2]),
            likelihood=self.likelihood,
            noise_std=self.noise_std,
            base_std=self.base_std,
        )

    def parameter_groups(self) -> dict[str, list[str]]:
        """Return the names of the parameters of the `prior` and of the `generator`."""
        names = [name for name, _ in self.named_parameters()]
        return {
            "prior": [name for name in names if name.startswith("energy_network.")],
            "generator": [name for name in names if name.startswith("generator.")],
        }
