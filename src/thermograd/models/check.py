"""One check at the door: is this model what samplers, evidence and gradients take it to be?

It tries the model with two images and two latents per image, so that what is wrong is told in the user's own terms
before any chain runs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from thermograd.errors import InputError, one_line
from thermograd.models.latent_ebm import LatentEBM
from thermograd.models.latent_model import LatentModel

TOLERANCE = 1e-3
"""Relative difference of a log-likelihood evaluated alone and beside others; rounding is far below it."""
RANGE_TOLERANCE = 1e-3
"""Of pixels beyond [-1, 1]."""


def check_model(model: LatentModel, x: Tensor | None = None) -> None:
    """Check a model, and images if they are given.

    Args:
        model: any `LatentModel`, e.g. a `LatentEBM` of your own networks.
        x: images (B, *image_shape), as the likelihood takes them; None to check the model alone.

    Raises:
        InputError: one line that names the argument, what was expected and what was found.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(4, torch.Generator().manual_seed(1))
        >>> tg.check_model(twin, x)
    """
    if not isinstance(model, LatentModel):
        raise InputError(
            f"`model` must be a LatentModel, got {type(model).__name__}: wrap a decoder and an energy in "
            f"tg.LatentEBM(energy, decoder, latent_dim=..., image_shape=...)."
        )
    if not list(model.parameters()):
        raise InputError("`model` must have parameters, got none.")
    if x is not None:
        check_images(model, x)
    z = model.sample_base((2, 2), torch.Generator(next(model.parameters()).device).manual_seed(0))
    with torch.no_grad():
        _check_energy(model, z)
        if isinstance(model, LatentEBM):
            _check_generator(model, z[0])
        images = z.new_zeros(2, *model.image_shape) if x is None else x[[0, -1]]
        _check_likelihood(model, images, z)
    _check_scores(model, images, z)


def check_images(model: LatentModel, x: Tensor) -> None:
    """Check images for a model: their shape, number format and range.

    Raises:
        InputError: one line that names what was expected and what was found.
    """
    shape, like = tuple(model.image_shape), next(model.parameters())
    wanted = ", ".join(map(str, shape))
    if not isinstance(x, Tensor):
        raise InputError(f"`x` must be a tensor (B, {wanted}), got {type(x).__name__}.")
    if x.dim() != len(shape) + 1 or tuple(x.shape[1:]) != shape or not len(x):
        raise InputError(f"`x` must have shape (B, {wanted}), got {tuple(x.shape)}.")
    if x.dtype != like.dtype:
        raise InputError(f"`x` must be {like.dtype} as the model's parameters are, got {x.dtype}.")
    if not x.isfinite().all():
        raise InputError("`x` must be finite, got a pixel that is not.")
    if not isinstance(model, LatentEBM):
        return
    low, high = float(x.min()), float(x.max())
    if model.likelihood == "bernoulli" and not ((x == 0) | (x == 1)).all():
        raise InputError(
            f"`x` must hold 0 and 1 for a Bernoulli likelihood, got values in [{low:g}, {high:g}]."
        )
    if model.likelihood == "gaussian" and max(-low, high) > 1 + RANGE_TOLERANCE:
        raise InputError(f"`x` must lie in [-1, 1] for a Gaussian likelihood, got [{low:g}, {high:g}].")


def _called(name: str, network: Callable[[Tensor], Tensor], z: Tensor, wanted: tuple[int, ...]) -> Tensor:
    """Return what a network gives for latents, if it gives a tensor at all."""
    expected = f"`{name}` must map latents {tuple(z.shape)} to {wanted}"
    try:
        found = network(z)
    except Exception as error:
        raise InputError(
            f"{expected}, but raises {type(error).__name__}: {one_line(str(error))[:150]}"
        ) from error
    if not isinstance(found, Tensor):
        raise InputError(f"{expected}, got {type(found).__name__} in place of a tensor.")
    return found


def _check_energy(model: LatentModel, z: Tensor) -> None:
    wanted = tuple(z.shape[:-1])
    energy = _called("energy", model.energy, z, wanted)
    if tuple(energy.shape) == (*wanted, 1):
        raise InputError(
            f"`energy` must map latents {tuple(z.shape)} to {wanted}, got {tuple(energy.shape)}: drop its last axis, "
            f"e.g. by nn.Flatten(-2) at its end."
        )
    if tuple(energy.shape) != wanted:
        raise InputError(
            f"`energy` must map latents {tuple(z.shape)} to {wanted}, got {tuple(energy.shape)}."
        )
    if not energy.isfinite().all():
        raise InputError(
            "`energy` must be finite at draws of the base distribution, got a value that is not."
        )
    _check_alone("energy", model, energy[:1], model.energy(z[:1]), model.energy(z)[:1])


def _check_generator(model: LatentEBM, z: Tensor) -> None:
    wanted = (len(z), *model.image_shape)
    output = _called("generator", model.generator, z, wanted)
    if tuple(output.shape) != wanted:
        raise InputError(
            f"`generator` must map latents {tuple(z.shape)} to {wanted}, got {tuple(output.shape)}."
        )
    if not output.isfinite().all():
        raise InputError(
            "`generator` must be finite at draws of the base distribution, got a value that is not."
        )


def _check_likelihood(model: LatentModel, x: Tensor, z: Tensor) -> None:
    found, wanted = model.log_likelihood(x, z), tuple(z.shape[:-1])
    if tuple(found.shape) != wanted:
        raise InputError(
            f"`log_likelihood` must map images {tuple(x.shape)} and latents {tuple(z.shape)} to {wanted}, "
            f"got {tuple(found.shape)}."
        )
    if not found.isfinite().all():
        raise InputError(
            "`log_likelihood` must be finite at draws of the base distribution, got a value that is not."
        )
    alone, again = model.log_likelihood(x, z[:1]), model.log_likelihood(x, z)[:1]
    _check_alone("generator", model, found[:1], alone, again)


def _check_alone(name: str, model: nn.Module, beside: Tensor, alone: Tensor, again: Tensor) -> None:
    """Check that a value does not change with what is evaluated beside it, nor from call to call."""
    scale = beside.abs().max().clamp(min=1.0)
    if (again - beside).abs().max() > TOLERANCE * scale:
        raise InputError(
            f"`{name}` must give the same value at each call, got two: a layer such as dropout draws random numbers; "
            f"call .eval() on it or remove it."
        )
    if (alone - beside).abs().max() > TOLERANCE * scale:
        layers = {type(m).__name__ for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
        which = f" ({', '.join(sorted(layers))} in training mode)" if layers else ""
        raise InputError(
            f"`{name}` must treat each latent by itself, got values that change with what stands beside it{which}: "
            f"call .eval() on it, or take GroupNorm."
        )


def _check_scores(model: LatentModel, x: Tensor, z: Tensor) -> None:
    try:
        state = model.evaluate(x, z)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"`model` must be differentiable in its latents, got: {reason[:150]}") from None
    for name, score in (("log_likelihood", state.likelihood_score), ("log_prior", state.prior_score)):
        if not score.isfinite().all():
            raise InputError(f"`{name}` must have a finite gradient in the latents, got a value that is not.")
