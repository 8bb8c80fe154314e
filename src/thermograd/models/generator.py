"""Generator networks: latents (N, d) to images (N, C, H, W), or to logits for a Bernoulli likelihood.

None has batch normalisation: it would couple the chains of a batch, so that one image's posterior would depend on
the other images.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from thermograd.errors import InputError

STAGE_SIZES: dict[int, tuple[int, ...]] = {
    8: (4, 8),
    16: (4, 8, 16),
    28: (4, 7, 14, 28),
    32: (4, 8, 16, 32),
    64: (4, 8, 16, 32, 64),
}
"""Image sizes of a convolutional generator and the sizes its stages pass through."""

BFLOAT16_WIDTH = 16
"""Narrowest hidden layer for which bfloat16 gained in docs/performance.md."""


class SeparateBiasConvolution(nn.ConvTranspose2d):
    """Transposed convolution of kernel 3, stride 2 and padding 1 that adds its bias by itself.

    The library's own bias takes this kernel off its fast path: on a CPU that doubles its time in float32, and takes ten
    times as long in bfloat16.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return (N, C_out, H', W') of (N, C_in, H, W)."""
        output = functional.conv_transpose2d(input, self.weight, None, stride=2, padding=1)
        return output if self.bias is None else output + self.bias.view(-1, 1, 1)


class DoublingConvolution(nn.ConvTranspose2d):
    """Transposed convolution of kernel 4, stride 2 and padding 1, computed as a convolution of kernel 3.

    An output pixel at row 2i + a, a in {0, 1}, reads the input rows i - 1, i, i + 1 only. So the map is a convolution
    to four channels for each one, which are then laid out as 2x2 pixels. It multiplies 9/4 as many numbers, which pays
    where output channels are few and the transposed kernel is far from the machine's rate: to the image's channels.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1)
        # Row of the kernel that offset a and input row i - 1, i, i + 1 meet in; the fifth row is zero.
        meet = torch.tensor([[3, 1, 4], [4, 2, 0]])
        self.meet: Tensor
        self.register_buffer("meet", meet, persistent=False)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return (N, C_out, 2H, 2W) of (N, C_in, H, W)."""
        padded = functional.pad(self.weight, (0, 1, 0, 1))
        rows, columns = self.meet[:, None, :, None], self.meet[None, :, None, :]
        kernel = padded[:, :, rows, columns]  # (C_in, C_out, a, b, 3, 3)
        kernel = kernel.permute(1, 2, 3, 0, 4, 5).reshape(-1, self.in_channels, 3, 3)
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        return functional.pixel_shuffle(functional.conv2d(input, kernel, bias, padding=1), 2)


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
            layer: nn.Module
            if kernel == 3:
                layer = SeparateBiasConvolution(width_in, width_out)
            elif size_out == sizes[-1]:
                layer = DoublingConvolution(width_in, width_out)
            else:
                layer = nn.ConvTranspose2d(width_in, width_out, kernel, stride=2, padding=1)
            layers += [nn.LeakyReLU(0.2), layer]
        self.layers = nn.Sequential(*layers)
        self.widths = widths
        self.first_shape = (widths[0], sizes[0], sizes[0])
        self.squash = squash
        _initialise(self, generator)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, z: Tensor) -> Tensor:
        """Return images (N, C, H, W) in (-1, 1), or logits."""
        output = self.before_squash(z)
        return output.tanh() if self.squash else output

    def before_squash(self, z: Tensor) -> Tensor:
        """Return what tanh is taken of, (N, C, H, W)."""
        channels, height, width = self.first_shape
        # The projection is laid out as (height, width, channels), so that the map is channels-last without a copy.
        features = self.project(z).view(-1, height, width, channels).permute(0, 3, 1, 2)
        return self.layers(features)


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
        output = self.before_squash(z)
        return output.tanh() if self.squash else output

    def before_squash(self, z: Tensor) -> Tensor:
        """Return what tanh is taken of, (N, C, H, W)."""
        return self.layers(z)


class Bfloat16Generator(nn.Module):
    """A copy of a generator in bfloat16, for evaluations inside chains; tanh and images are float32.

    Near -1 and 1 the error of bfloat16 numbers is the smaller for being made before tanh. The copy takes no gradient
    and stands where the original stood at the last `refresh`.

    Args:
        original: the generator that is copied.
    """

    def __init__(self, original: ConvGenerator | DenseGenerator):
        super().__init__()
        self.network = copy.deepcopy(original).to(torch.bfloat16).requires_grad_(False)
        self._original = (original,)  # in a tuple, since it is no part of this module

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the weights of the original as they stand now, in place."""
        for own, theirs in zip(self.network.parameters(), self._original[0].parameters(), strict=True):
            own.copy_(theirs)

    def forward(self, z: Tensor) -> Tensor:
        """Return images (N, C, H, W) in the number format of z."""
        output = self.network.before_squash(z.to(torch.bfloat16)).to(z.dtype)
        return output.tanh() if self.network.squash else output


def has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 numbers in hardware."""
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def choose_precision(precision: str, generator: nn.Module) -> str:
    """Return "float32" or "bfloat16-mixed" for a setting that may be "auto".

    "auto" takes bfloat16 where it was measured to gain: on a CPU that has it in hardware, for convolutions whose
    narrowest hidden layer has `BFLOAT16_WIDTH` channels. Everywhere else it takes float32.
    """
    if precision != "auto":
        return precision
    wide = isinstance(generator, ConvGenerator) and min(generator.widths) >= BFLOAT16_WIDTH
    on_cpu = next(generator.parameters()).device.type == "cpu"
    return "bfloat16-mixed" if wide and on_cpu and has_bfloat16() else "float32"


def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.ConvTranspose2d):
            nn.init.xavier_normal_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
