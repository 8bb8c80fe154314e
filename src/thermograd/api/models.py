"""Any model of the user's: its evidence, its ladder and its gradient, after the check at the door."""

from typing import Any

import torch
from torch import Tensor

from thermograd import evidence
from thermograd.config.resolve import validate
from thermograd.errors import InputError
from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES, Weights, compute_weights
from thermograd.ladders.ladder import Ladder
from thermograd.ladders.record import LadderInfo, LadderTrace
from thermograd.ladders.sampler import LadderSampler
from thermograd.models.check import check_model
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.kernel import Kernel
from thermograd.samplers.mala import MALA


def estimate_evidence(
    model: LatentModel,
    x: Tensor,
    *,
    generator: torch.Generator | None = None,
    short_run_prior: bool = False,
    **settings: Any,
) -> evidence.Evidence:
    """Estimate log p(x) of each image by independent repeats, with an interval, a range or a lower bound.

    Args:
        model: any `LatentModel`.
        x: images (B, *image_shape), as the likelihood takes them.
        generator: source of all randomness; None for a seeded one.
        short_run_prior: warn that the prior was trained by short chains, which do not sample exp(-E) p0 / Z_a.
        settings: method and cost, as `thermograd settings evidence` lists them: `method="smc"`,
            `num_evaluations=16_000`.

    Raises:
        InputError: a model or images that do not pass the check at the door, or a setting at fault.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(8, torch.Generator().manual_seed(1))
        >>> found = tg.estimate_evidence(twin, x)
        >>> bool(((found.log_evidence - twin.log_evidence(x)).abs() < 1).all())
        True
    """
    check_model(model, x)
    return evidence.estimate_evidence(
        model,
        x,
        validate(evidence.EvidenceSettings, settings),
        generator=generator or torch.Generator(x.device).manual_seed(0),
        short_run_prior=short_run_prior,
    )


def sample_ladder(
    model: LatentModel,
    x: Tensor,
    inverse_temperatures: Tensor,
    generator: torch.Generator,
    *,
    kernel: Kernel | None = None,
    num_chains: int = 2,
    num_steps: int = 100,
    num_burn_in: int = 100,
    exchange: bool = True,
    chunk_size: int | None = 1024,
) -> tuple[Ladder, LadderInfo, LadderTrace]:
    """Sample the power posteriors of images on every rung: start, adapt, trace.

    Args:
        model: any `LatentModel`.
        x: images (B, *image_shape), as the likelihood takes them.
        inverse_temperatures: (K,) or (K, B), e.g. `power_schedule(8, 3.0)`.
        generator: source of all randomness.
        kernel: None for MALA that begins with step size 0.1.
        num_chains: M, chains on each rung of each image.
        num_steps: steps that are kept, with step sizes frozen.
        num_burn_in: steps before, in which step sizes adapt.
        exchange: let neighbouring rungs swap states.
        chunk_size: the most latents evaluated at once; it bounds memory.

    Returns:
        Where the chains stand at the end, what happened, and every step with its latents and scores.

    Raises:
        InputError: a model or images that do not pass the check at the door, or a bad schedule, kernel or count.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(4, torch.Generator().manual_seed(1))
        >>> ladder, info, trace = tg.sample_ladder(twin, x, tg.power_schedule(5, 3.0), torch.Generator())
        >>> ladder.latents.shape, trace.log_likelihood.shape
        (torch.Size([5, 2, 4, 2]), torch.Size([100, 5, 2, 4]))
    """
    check_model(model, x)
    sampler = LadderSampler(
        inverse_temperatures, kernel or MALA(0.1), num_chains, exchange, chunk_size=chunk_size
    )
    state = sampler.start(model, x, generator)
    sampler, state = sampler.adapt(model, x, state, num_burn_in, generator)
    return sampler.trace(model, x, state, num_steps, generator, scores=True)


def ladder_gradient(
    model: LatentModel,
    x: Tensor,
    ladder: Ladder,
    estimator: str = "maximum-likelihood",
    prior_rule: str = "contrast",
    chunk_size: int | None = 1024,
) -> dict[str, Tensor]:
    """Estimate the gradient of the batch's mean log p(x) from the draws of a ladder.

    Args:
        model: the model whose parameters are differentiated.
        x: images (B, *image_shape).
        ladder: draws, held fixed.
        estimator: a rule of weights for the generator.
        prior_rule: a rule of weights for the prior.
        chunk_size: the most latents in one backward pass; it bounds memory.

    Returns:
        The gradient of each parameter by its name, in nats per image; log p(x) rises along it.

    Raises:
        InputError: an unknown rule, or a ladder that it cannot read.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(4, torch.Generator().manual_seed(1))
        >>> ladder, _, _ = tg.sample_ladder(twin, x, tg.power_schedule(5, 3.0), torch.Generator())
        >>> sorted(tg.ladder_gradient(twin, x, ladder))
        ['bias', 'weight']
    """
    return learning_gradient(model, x, ladder, ladder_weights(ladder, estimator, prior_rule), chunk_size)


def ladder_weights(
    ladder: Ladder, estimator: str = "maximum-likelihood", prior_rule: str = "contrast"
) -> Weights:
    """Return the weights that an estimator and a prior rule give to the draws of a ladder.

    Args:
        ladder: draws.
        estimator: a rule of weights for the generator.
        prior_rule: a rule of weights for the prior.

    Returns:
        `log_likelihood` W and `energy` V, both (K, M, B), and `shared_energy` U (M0,) or None.

    Raises:
        InputError: an unknown rule, or a ladder that it cannot read.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(4, torch.Generator().manual_seed(1))
        >>> ladder, _, _ = tg.sample_ladder(twin, x, tg.power_schedule(5, 3.0), torch.Generator())
        >>> round(float(tg.ladder_weights(ladder).log_likelihood.sum()), 6)
        1.0
    """
    for name, value, known in (("estimator", estimator, ESTIMATORS), ("prior_rule", prior_rule, PRIOR_RULES)):
        if value not in known:
            raise InputError(f"`{name}` must be one of {', '.join(known)}, got {value!r}.")
    return compute_weights(ladder, ESTIMATORS[estimator], PRIOR_RULES[prior_rule])
