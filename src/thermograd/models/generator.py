"""Generator networks: latents (N, d) to images (N, C, H, W), or to logits for a Bernoulli likelihood.

None has batch normalisation: it would couple the chains of a batch, so that one image's posterior would depend on
the other images.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from thermograd.errors import InputError

STAGE_SIZES: dict[int, tuple[int, ...]] = {
    8: (4, 8),
    16: (4, 8, 16),
    28: (4, 7, 14, 28),
    32: (4, 8, 16, 32),
    64: (4, 8, 16, 32, 64),
}
"""Image sizes of a convolutional generator and the sizes its stages pass through."""


class ConvGenerator(nn.Module):
    """Transposed convolutions from a 4x4 map up to the image, LeakyReLU 0.2, tanh at the end (Pang et al. 2020).

    With widths (512, 256, 128) and 32 pixels this is the published SVHN generator. The first layer, a transposed
    convolution of a single pixel, is the same map as a linear layer and is computed as one.

    Args:
        latent_dim: d, length of a latent vector.
        image_shape: (C, H, W), H = W one of 8, 16, 28, 32, 64.
        widths: channels after each stage but the last, one for each size in `STAGE_SIZES[H][:-1]`.
        squash: end with tanh, so that pixels lie in (-1, 1); without, the outputs are logits.
        generator: draws the initial weights (Xavier normal; biases are 0).

    Raises:
        InputError: an image size without a generator, or a wrong number of widths.
    """

    def __init__(
        self,
        latent_dim: int,
        image_shape: tuple[int, int, int],
        widths: tuple[int, ...],
        squash: bool,
        generator: torch.Generator,
    ):
        super().__init__()
        channels, height, width = image_shape
        if height != width or height not in STAGE_SIZES:
            known = ", ".join(map(str, STAGE_SIZES))
            raise InputError(
                f"`image_shape` must be square with one of {known} pixels for a convolutional generator, "
                f"got {height}x{width}; `model.generator.kind` dense takes any size."
            )
        sizes = STAGE_SIZES[height]
        if len(widths) != len(sizes) - 1:
            raise InputError(
                f"`model.generator.widths` must have {len(sizes) - 1} entries for {height} pixels, got {widths}."
            )
        self.project = nn.Linear(latent_dim, widths[0] * sizes[0] ** 2)
        layers: list[nn.Module] = []
        for (width_in, width_out), (size_in, size_out) in zip(
            pairwise((*widths, channels)), pairwise(sizes), strict=True
        ):
            kernel = 4 if size_out == 2 * size_in else 3  # 4 -> 7 pixels takes a kernel of 3
            layers += [
                nn.LeakyReLU(0.2),
                nn.ConvTranspose2d(width_in, width_out, kernel, stride=2, padding=1),
            ]
        self.layers = nn.Sequential(*layers)
        self.first_shape = (widths[0], sizes[0], sizes[0])
        self.squash = squash
        _initialise(self, generator)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, z: Tensor) -> Tensor:
        """Return images (N, C, H, W) in (-1, 1), or logits."""
        channels, height, width = self.first_shape
        # The projection is laid out as (height, width, channels), so that the map is channels-last without a copy.
        features = self.project(z).view(-1, height, width, channels).permute(0, 3, 1, 2)
        images = self.layers(features)
        return images.tanh() if self.squash else images


class DenseGenerator(nn.Module):
    """Multi-layer perceptron with LeakyReLU 0.2 for images of any size; tanh at the end.

    Args:
        latent_dim: d, length of a latent vector.
        image_shape: (C, H, W).
        widths: widths of the hidden layers.
        squash: end with tanh; without, the outputs are logits.
        generator: draws the initial weights (Xavier normal; biases are 0).
    """

    def __init__(
        self,
        latent_dim: int,
        image_shape: tuple[int, int, int],
        widths: tuple[int, ...],
        squash: bool,
        generator: torch.Generator,
    ):
        super().__init__()
        channels, height, width = image_shape
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise((latent_dim, *widths)):
            layers += [nn.Linear(width_in, width_out), nn.LeakyReLU(0.2)]
        layers += [
            nn.Linear((latent_dim, *widths)[-1], channels * height * width),
            nn.Unflatten(-1, image_shape),
        ]
        self.layers = nn.Sequential(*layers)
        self.squash = squash
        _initialise(self, generator)

    def forward(self, z: Tensor) -> Tensor:
        """Return images (N, C, H, W) in (-1, 1), or logits."""
        images = self.layers(z)
        return images.tanh() if self.squash else images


def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.ConvTranspose2d):
            nn.init.xavier_normal_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
