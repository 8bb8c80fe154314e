"""Energy networks: (..., d) to (...), low = likely."""

from itertools import pairwise

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "leaky_relu": nn.LeakyReLU, "silu": nn.SiLU}


class EnergyNetwork(nn.Module):
    """Multi-layer perceptron E(z), the published prior of Pang et al. with widths (200, 200).

    The last layer has no bias: a constant energy cancels out of the prior, so its gradient would be identically 0.

    Args:
        latent_dim: d, length of a latent vector.
        hidden: widths of the hidden layers, from the input on; () makes the energy linear.
        activation: "gelu", "silu" or "leaky_relu" (slope 0.2).
        generator: draws the initial weights (Xavier normal; biases are 0).

    References:
        Pang, Han, Nijkamp, Zhu, Wu (2020), Learning latent space energy-based prior model.
    """

    def __init__(self, latent_dim: int, hidden: tuple[int, ...], activation: str, generator: torch.Generator):
        super().__init__()
        widths = (latent_dim, *hidden)
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), _activation(activation)]
        layers.append(nn.Linear(widths[-1], 1, bias=False))
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight, generator=generator)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Return E(z), (..., d) to (...)."""
        return self.layers(z).squeeze(-1)


def _activation(name: str) -> nn.Module:
    return nn.LeakyReLU(0.2) if name == "leaky_relu" else ACTIVATIONS[name]()
