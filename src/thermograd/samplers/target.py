"""What a chain samples from, and where it stands."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from thermograd.models.latent_model import Evaluation, LatentModel


class ChainState(NamedTuple):
    """Positions of chains and all that the model says there, cached so that a change of t costs nothing.

    Attributes:
        position: latents (..., d).
        log_likelihood: (...), in nats; 0 where the target is the prior alone.
        energy: (...).
        log_prior: (...), unnormalised.
        likelihood_score: (..., d); not a number where `Target.measure` left it out.
        prior_score: (..., d).
    """

    position: Tensor
    log_likelihood: Tensor
    energy: Tensor
    log_prior: Tensor
    likelihood_score: Tensor
    prior_score: Tensor

    def log_density(self, t: Tensor) -> Tensor:
        """Return t log p(x|z) + log p(z), unnormalised, (...)."""
        return t * self.log_likelihood + self.log_prior

    def score(self, t: Tensor) -> Tensor:
        """Return the gradient of `log_density` in z, (..., d)."""
        return t.unsqueeze(-1) * self.likelihood_score + self.prior_score


VECTOR_FIELDS = tuple(Evaluation._fields.index(name) for name in ("likelihood_score", "prior_score"))
"""Places in `Evaluation` of what has a latent axis."""


class Info(NamedTuple):
    """What happened in one step.

    Attributes:
        acceptance: (...), probability with which each proposal was accepted; 1 for kernels without a test.
        proposal: what was proposed, with its scores, or None.
    """

    acceptance: Tensor
    proposal: ChainState | None = None


@dataclass(frozen=True)
class Target:
    """The power posteriors of images x, or with x = None the prior.

    Args:
        model: any `LatentModel`.
        x: images (B, *image_shape), or None.
        chunk_size: the most latents that are evaluated at once, which bounds memory; None for no bound.
    """

    model: LatentModel
    x: Tensor | None = None
    chunk_size: int | None = None

    def evaluate(self, z: Tensor) -> ChainState:
        """Evaluate the model at z (..., B, d), or at z (..., d) for the prior."""
        if self.x is None:
            return ChainState(z, *self.model.evaluate_prior(z))
        if self.chunk_size is None or z[..., 0].numel() <= self.chunk_size:
            return ChainState(z, *self.model.evaluate(self.x, z))
        rows = z.reshape(-1, *z.shape[-2:])
        out = [torch.empty(rows.shape[: field_dim(i)], dtype=z.dtype, device=z.device) for i in range(5)]
        for row, column in chunks(rows.shape[0], rows.shape[1], self.chunk_size):
            part = self.model.evaluate(self.x[column], rows[row, column])
            for whole, piece in zip(out, part, strict=True):
                whole[row, column] = piece
        return ChainState(
            z, *(whole.reshape(z.shape[: z.dim() - 3 + field_dim(i)]) for i, whole in enumerate(out))
        )

    def measure(self, z: Tensor) -> ChainState:
        """Evaluate without the likelihood's score, for draws that no chain goes on from.

        It saves the backward pass through the generator. The score is not a number, so that its use would show.
        """
        state = ChainState(z, *self.model.evaluate_prior(z))
        if self.x is None:
            return state
        rows = z.reshape(-1, *z.shape[-2:])
        log_likelihood = rows.new_empty(rows.shape[:2])
        with torch.no_grad():
            for row, column in chunks(len(rows), rows.shape[1], self.chunk_size or log_likelihood.numel()):
                log_likelihood[row, column] = self.model.log_likelihood(self.x[column], rows[row, column])
        return state._replace(
            log_likelihood=log_likelihood.view(z.shape[:-1]), likelihood_score=torch.full_like(z, torch.nan)
        )


@dataclass(frozen=True)
class FromBase(Target):
    """The path from the base distribution: the energy is annealed, with the likelihood where there are images."""

    def evaluate(self, z: Tensor) -> ChainState:
        """Evaluate at z with l - E in the place of l, and the base distribution in that of the prior."""
        state = super().evaluate(z)
        base_score = -z / self.model.base_std**2
        return state._replace(
            log_likelihood=state.log_likelihood - state.energy,
            log_prior=-z.square().sum(-1) / (2 * self.model.base_std**2),
            likelihood_score=state.likelihood_score + state.prior_score - base_score,
            prior_score=base_score,
        )


def columns(values: Tensor) -> Tensor:
    """Return values per rung (K,) as (K, 1, 1), or per rung and image (K, B) as (K, 1, B), to meet chains (K, M, B)."""
    return values.view(-1, 1, 1) if values.dim() == 1 else values.unsqueeze(1)


def field_dim(index: int) -> int:
    """Return the number of axes of a field of `Evaluation` over (rows, images[, d])."""
    return 3 if index in VECTOR_FIELDS else 2


def chunks(num_rows: int, num_images: int, chunk_size: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices (rows, images) that cover a table, each with at most `chunk_size` cells."""
    rows_at_once = max(1, chunk_size // num_images)
    images_at_once = min(num_images, chunk_size)
    for row in range(0, num_rows, rows_at_once):
        for column in range(0, num_images, images_at_once):
            yield slice(row, row + rows_at_once), slice(column, column + images_at_once)
