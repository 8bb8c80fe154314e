"""From weights to a gradient: one weighted backward pass, whatever the estimator."""

from collections.abc import Iterable

import torch
from torch import Tensor

from thermograd.gradients.rules import Weights
from thermograd.ladders.ladder import Ladder
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.target import chunks


@torch.enable_grad()
def learning_gradient(
    model: LatentModel,
    x: Tensor,
    ladder: Ladder,
    weights: Weights,
    chunk_size: int | None = None,
    names: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """Return the estimate of the gradient of the batch's mean log p(x), by one weighted backward pass.

    Args:
        model: the model whose parameters are differentiated.
        x: images (B, *image_shape).
        ladder: draws, held fixed.
        weights: what `compute_weights` made of the ladder.
        chunk_size: the most latents in one pass; gradients of the chunks add up.
        names: of the parameters that are wanted; None for all.

    Returns:
        For the name of each wanted parameter its gradient, in nats per image: the direction in which log p(x) rises. A
        parameter that nothing depends on gets zeros.
    """
    parameters = dict(model.named_parameters())
    if names is not None:
        parameters = {name: parameters[name] for name in names}
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}

    def accumulate(value: Tensor) -> None:
        if not value.requires_grad:  # an energy without parameters
            return
        gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient

    num_images, latent_dim = ladder.num_images, ladder.latents.shape[-1]
    flat_weights = weights.log_likelihood.detach().reshape(-1, num_images)
    used = flat_weights.ne(0).any(1)  # rungs without weight cost nothing
    rows, row_weights = ladder.latents.reshape(-1, num_images, latent_dim)[used], flat_weights[used]
    size = rows[..., 0].numel() if chunk_size is None else chunk_size
    for row, column in chunks(len(rows), num_images, max(size, 1)):
        accumulate((row_weights[row, column] * model.log_likelihood(x[column], rows[row, column])).sum())

    latents, energy_weights = ladder.latents.reshape(-1, latent_dim), weights.energy.detach().reshape(-1)
    if weights.shared_energy is not None and ladder.prior_latents is not None:
        latents = torch.cat([latents, ladder.prior_latents])
        energy_weights = torch.cat([energy_weights, weights.shared_energy])
    used = energy_weights.ne(0)
    accumulate((energy_weights[used] * model.energy(latents[used])).sum())
    return total
