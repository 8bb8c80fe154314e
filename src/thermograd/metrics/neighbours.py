"""Nearest training images of samples, to see whether a model has memorised."""

from typing import NamedTuple

import torch
from torch import Tensor

from thermograd.errors import InputError


class Neighbours(NamedTuple):
    """The nearest `candidates` of each query, nearest first.

    Attributes:
        indices: (N, k), into the candidates.
        distances: (N, k), Euclidean.
    """

    indices: Tensor
    distances: Tensor


def nearest_neighbours(queries: Tensor, candidates: Tensor, k: int = 1, chunk_size: int = 8192) -> Neighbours:
    """Return the nearest candidates of each query in Euclidean distance.

    For pixels, pass images as floats; for a feature space, pass the output of `extract_features`.

    Args:
        queries: (N, ...), flattened.
        candidates: (M, ...), of the same shape but for M.
        k: neighbours of each.
        chunk_size: candidates compared at a time, which bounds memory.

    Raises:
        InputError: for shapes that differ, or k out of 1 to M.
    """
    if queries.shape[1:] != candidates.shape[1:]:
        raise InputError(
            f"`queries` must have shape (N, *{tuple(candidates.shape[1:])}), got {tuple(queries.shape)}."
        )
    if not 1 <= k <= len(candidates):
        raise InputError(f"`k` must lie in 1 to {len(candidates)}, the number of candidates, got {k}.")
    queries = queries.flatten(1).double()
    best = queries.new_full((len(queries), 0), 0.0)
    indices = torch.zeros((len(queries), 0), dtype=torch.int64, device=queries.device)
    for start in range(0, len(candidates), chunk_size):
        chunk = candidates[start : start + chunk_size].flatten(1).double()
        # Differences first: |a|^2 + |b|^2 - 2ab would lose a copy's distance of 0 to rounding.
        distances = torch.cdist(queries, chunk, compute_mode="donot_use_mm_for_euclid_dist")
        found = torch.arange(start, start + len(chunk), device=queries.device).expand(len(queries), -1)
        best, indices = torch.cat([best, distances], 1), torch.cat([indices, found], 1)
        best, order = best.topk(min(k, best.shape[1]), dim=1, largest=False)
        indices = indices.gather(1, order)
    return Neighbours(indices, best)
