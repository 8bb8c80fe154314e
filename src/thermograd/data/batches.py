"""From stored bytes to the tensors a training step sees, in an order that is a function of (seed, epoch)."""

from typing import Literal

import numpy as np
import torch

from thermograd.errors import InputError
from thermograd.streams import stream_seed

BinariseRule = Literal["none", "threshold", "dynamic"]


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Map bytes to [-1, 1]: x = u / 127.5 - 1.

    Args:
        images: (B, H, W, C) uint8.

    Returns:
        (B, C, H, W) float32, contiguous, sharing no memory with `images`.

    Raises:
        InputError: if `images` is not a four-dimensional array of uint8.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise InputError(
            f"`images` must be uint8 of shape (B, H, W, C), got {images.dtype} of shape {images.shape}."
        )
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return torch.tensor(channels_first, dtype=torch.float32).div_(127.5).sub_(1.0)


def binarise(
    x: torch.Tensor,
    rule: BinariseRule,
    threshold: float = 0.5,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Turn grey values in [-1, 1] into {0, 1} for a Bernoulli likelihood.

    With the intensity v = (x + 1) / 2 in [0, 1]: "threshold" gives 1 where v > threshold, "dynamic" draws
    each pixel from Bernoulli(v) anew at every call, and "none" returns `x` as it is, still in [-1, 1].

    Args:
        x: (...) values in [-1, 1].
        rule: "none", "threshold" or "dynamic".
        threshold: intensity in [0, 1); used by "threshold" only.
        generator: source of the random numbers of "dynamic".

    Returns:
        (...) in the dtype of `x`.

    Raises:
        InputError: for another rule, a threshold or a value out of range, or "dynamic" without a generator.

    References:
        Salakhutdinov and Murray, On the quantitative analysis of deep belief networks, ICML 2008.
    """
    if rule not in ("none", "threshold", "dynamic"):
        raise InputError(f"`binarise` must be none, threshold or dynamic, got {rule!r}.")
    if rule == "none":
        return x
    intensity = (x + 1) / 2
    inside = (intensity >= 0) & (intensity <= 1)  # False for NaN
    if not bool(inside.all()):
        raise InputError(f"`x` must lie in [-1, 1], got {x[~inside][0].item():g}.")
    if rule == "threshold":
        if not 0 <= threshold < 1:
            raise InputError(f"`threshold` must lie in [0, 1), got {threshold}.")
        return (intensity > threshold).to(x.dtype)
    if generator is None:
        raise InputError("`generator` must be given for the rule dynamic, got None.")
    return torch.bernoulli(intensity, generator=generator)


def batch_order(num_images: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Return the image indices of every batch of an epoch; a function of the arguments only.

    Each epoch is a fresh permutation from a Philox generator keyed by the stream "data-order" of
    (seed, epoch). The incomplete last batch is dropped, so num_images % batch_size images sit an epoch out.

    Args:
        num_images: number of images in the data set.
        batch_size: images per batch.
        seed: the run's seed.
        epoch: counted from 0.

    Returns:
        (num_images // batch_size, batch_size) int64; no index twice.

    Raises:
        InputError: if `batch_size` is not between 1 and `num_images`, or `epoch` is negative.
    """
    if batch_size < 1:
        raise InputError(f"`batch_size` must be at least 1, got {batch_size}.")
    if batch_size > num_images:
        raise InputError(
            f"`batch_size` must be at most the number of images, {num_images}, got {batch_size}."
        )
    if epoch < 0:
        raise InputError(f"`epoch` must not be negative, got {epoch}.")
    philox = np.random.Philox(np.random.SeedSequence(stream_seed(seed, "data-order", epoch)))
    order = np.random.Generator(philox).permutation(num_images)
    num_batches = num_images // batch_size
    return order[: num_batches * batch_size].reshape(num_batches, batch_size).astype(np.int64)
