r"""Separated modes: a model of two latent numbers whose posteriors have one to four modes, exact by `GridTwin`.

    g(z) = W a(z) + tilt V z + c,    a(z) = (sqrt(z_1^2 + r^2), sqrt(z_2^2 + r^2))

The rounded absolute values a fold the plane: z, and z with either sign turned, have nearly the same image. So an image
has four modes, two where one number lies near 0, one where both do. The tilt tells the modes apart by a few nats, and
between them lie barriers of tens of nats, which no chain at t = 1 crosses: where chains begin decides what they say.
"""

import torch
from torch import Tensor, nn

from thermograd.models.energy import EnergyNetwork
from thermograd.models.grid import GridTwin
from thermograd.models.latent_ebm import LatentEBM

ROUNDING = 0.2


class FoldedGenerator(nn.Module):
    """The generator above, from latents (N, 2) to means (N, 1, side, side), with entries of W and V drawn from N(0, 1).

    Args:
        side: of the square image, in pixels.
        tilt: scale of the part that is not folded.
        generator: source of the weights.
    """

    def __init__(self, side: int, tilt: float, generator: torch.Generator):
        super().__init__()
        draw = torch.randn(2, side * side, 2, generator=generator, dtype=torch.float64)
        self.folded, self.plain = nn.Parameter(draw[0]), nn.Parameter(draw[1])
        self.bias = nn.Parameter(torch.zeros(side * side, dtype=torch.float64))
        self.side, self.tilt = side, tilt

    def forward(self, z: Tensor) -> Tensor:
        """Return the means of the pixels."""
        folded = (z.square() + ROUNDING**2).sqrt()
        pixels = folded @ self.folded.mT + self.tilt * z @ self.plain.mT + self.bias
        return pixels.view(-1, 1, self.side, self.side)


def separated_modes(
    num_images: int, seed: int = 0, *, side: int = 4, tilt: float = 0.25, noise_std: float = 0.3
) -> tuple[LatentEBM, GridTwin, Tensor]:
    """Return the model under a small energy network, the twin that knows its answers, and images drawn from it.

    Args:
        num_images: B.
        seed: of weights, latents and noise.
        side: of the square images, in pixels.
        tilt: how far modes are told apart.
        noise_std: s of the likelihood.

    Returns:
        The model in float64, its twin, and images (B, 1, side, side).
    """
    generator = torch.Generator().manual_seed(seed)
    model = LatentEBM(
        EnergyNetwork(2, (8,), "gelu", generator),
        FoldedGenerator(side, tilt, generator),
        latent_dim=2,
        image_shape=(1, side, side),
        noise_std=noise_std,
    ).double()
    twin = GridTwin(model, num_points=161, half_width=5.5)
    with torch.no_grad():
        means = model.decode(twin.sample_prior(num_images, generator))
        noise = torch.randn(means.shape, generator=generator, dtype=torch.float64)
    return model, twin, means + noise_std * noise
