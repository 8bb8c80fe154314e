"""Feature networks: images to feature vectors, each with its name and the hash of its weights.

A distance between sets of images is a distance between their features, so its value means nothing without the
network, its weights, the rule of resizing, and what was done to grey images. All four belong to a
`FeatureExtractor`.
"""

import hashlib
import io
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from thermograd.errors import InputError
from thermograd.metrics._imports import import_without_init
from thermograd.metrics.cache import hash_tensors
from thermograd.progress import steps

INCEPTION_SHA256_PREFIX = "6726825d"
"""Start of the sha256 of the file of the true FID Inception weights."""


class FeatureExtractor(nn.Module, ABC):
    """A frozen network from images to features.

    Attributes:
        name: e.g. "efficientnet-lite0"; a Fréchet distance in its features is reported as
            "fd-efficientnet-lite0".
        num_features: F, the length of a feature vector.
        num_channels: channels that the network takes; 3 means that grey images are repeated.
        resize_rule: how images are brought to the network's size, in words, for the record.
    """

    name: str
    num_features: int
    num_channels: int
    resize_rule: str

    @cached_property
    def weights_hash(self) -> str:
        """Sha256 over the names, shapes and bytes of all weights."""
        return hash_tensors(self.state_dict())

    def grey_conversion(self, num_channels: int) -> str:
        """Return in words what is done to images of `num_channels` channels.

        Raises:
            InputError: if the network cannot take such images.
        """
        if num_channels == self.num_channels:
            return "none"
        if num_channels == 1 and self.num_channels == 3:
            return "grey repeated to 3 channels"
        raise InputError(
            f"`images` must have {self.num_channels} channels for {self.name}, got {num_channels}."
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return features (N, F), float32, of images (N, C, H, W): uint8, or float in [-1, 1], rounded."""
        images = to_bytes(images).to(next(self.parameters()).device)
        self.grey_conversion(images.shape[1])
        with torch.inference_mode():
            return self.features(images.expand(-1, self.num_channels, -1, -1))

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Stay in evaluation mode whatever `mode` says: features must not depend on the batch."""
        return super().train(False)

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Return features (N, F) of uint8 images (N, num_channels, H, W)."""


def to_bytes(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) as uint8; x in [-1, 1] becomes round((x + 1) * 127.5).

    Generated images are rounded as the data were, so that a network cannot tell them apart by their
    fractions.

    Raises:
        InputError: for another shape or type, or for values out of [-1, 1] or not finite.
    """
    if images.ndim != 4:
        raise InputError(f"`images` must have shape (N, C, H, W), got {tuple(images.shape)}.")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise InputError(f"`images` must be uint8 or float, got {images.dtype}.")
    worst = images.abs().max().item() if images.numel() else 0.0
    if not worst <= 1 + 1e-5:
        raise InputError(f"`images` must lie in [-1, 1], got a value of size {worst:.4g}.")
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def extract_features(
    images: np.ndarray | Iterable[Tensor], extractor: FeatureExtractor, batch_size: int = 256
) -> Tensor:
    """Return the features of many images.

    Args:
        images: uint8 array (N, H, W, C) as the data sets hold it, or batches of tensors (B, C, H, W) as a
            generator makes them.
        extractor: the network.
        batch_size: images at a time, for an array.

    Returns:
        Features (N, F), float32, on the CPU.

    Raises:
        InputError: for images that the network cannot take, or none at all.
    """
    batches = _array_batches(images, batch_size) if isinstance(images, np.ndarray) else images
    features = [extractor(batch).cpu() for batch in batches]
    if not features:
        raise InputError("`images` must hold at least one image, got 0.")
    stacked = torch.cat(features)
    if not stacked.isfinite().all():
        raise InputError(f"`images` must have finite features, got others from {extractor.name}.")
    return stacked


def _array_batches(images: np.ndarray, batch_size: int) -> Iterable[Tensor]:
    if images.ndim != 4 or images.dtype != np.uint8:
        raise InputError(
            f"`images` must be uint8 of shape (N, H, W, C), got {images.dtype} of shape {images.shape}."
        )
    for start in steps(range(0, len(images), batch_size), "batches of images"):
        yield torch.from_numpy(np.array(images[start : start + batch_size])).permute(0, 3, 1, 2)


class InceptionFeatures(FeatureExtractor):
    """The true FID Inception (2015-12-05), 2048 features, from torch-fidelity (extra `[fid]`).

    With other weights than the published file, the name becomes "inception-other" and nothing is reported as
    FID.

    Args:
        weights: path of the weights file (`pt_inception-2015-12-05-6726825d.pth`); None lets torch-fidelity
            look in torch's cache, then download them.

    Raises:
        InputError: if torch-fidelity or the weights are missing, or the file is not such a file.

    References:
        Heusel et al. 2017, GANs trained by a two time-scale update rule.
    """

    num_features = 2048
    num_channels = 3
    resize_rule = "bilinear of TensorFlow 1 to 299 without antialiasing"

    def __init__(self, weights: Path | None = None):
        super().__init__()
        try:
            module = import_without_init("torch_fidelity.feature_extractor_inceptionv3", "torch_fidelity")
        except ImportError as error:
            raise InputError(
                f"The FID Inception needs torch-fidelity ({error}): install thermograd[fid], or use another"
                " extractor."
            ) from error
        self.name = "inception-v3-2015-12-05"
        source = None
        if weights is not None:
            source, sha256 = _checked_weights(weights)
            if not sha256.startswith(INCEPTION_SHA256_PREFIX):
                self.name = "inception-other"
        try:
            # Torch draws weights, soon overwritten, from its global stream, which is not ours to move.
            with torch.random.fork_rng(devices=[]):
                self.network = module.FeatureExtractorInceptionV3(self.name, ["2048"], source)
        except OSError as error:
            raise InputError(
                f"The FID Inception weights cannot be downloaded ({error}): pass the path of"
                f" pt_inception-2015-12-05-{INCEPTION_SHA256_PREFIX}.pth."
            ) from error
        except RuntimeError as error:
            raise InputError(f"`weights` is not a file of the FID Inception, got {weights}.") from error

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features (N, 2048) of uint8 images (N, 3, H, W)."""
        return self.network(images)[0]


def _checked_weights(path: Path) -> tuple[io.BytesIO, str]:
    """Return the tensors of a weights file, saved anew in memory, and the sha256 of the file.

    torch-fidelity unpickles whatever a file holds; a file that the user names goes through torch's safe
    reader first.
    """
    try:
        content = Path(path).read_bytes()
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(f"`weights` must be a readable file of tensors, got {path}.") from error
    if not isinstance(state, dict):
        raise InputError(f"`weights` must hold a dictionary of tensors, got {path}.")
    safe = io.BytesIO()
    torch.save(state, safe)
    safe.seek(0)
    return safe, hashlib.sha256(content).hexdigest()
