"""Named random streams.

Every random number of a run comes from a `torch.Generator` that is a function of (seed, name, step) and of
nothing else. So measuring more often never changes training, and a resumed run needs no stored generator state.
"""

import hashlib

import torch


def stream_seed(seed: int, name: str, step: int = 0) -> int:
    """Return a 63-bit integer that is a function of (seed, name, step) only."""
    digest = hashlib.sha256(f"{seed}/{name}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: int, name: str, step: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator for the stream `name` at `step`.

    Args:
        seed: the run's seed.
        name: what the numbers are for, e.g. "posterior-chains".
        step: training step, epoch or any other counter of the stream.
        device: where the numbers are drawn.

    Note:
        Streams on different devices hold different numbers, so bits are equal only on one kind of device.
    """
    return torch.Generator(device=device).manual_seed(stream_seed(seed, name, step))
