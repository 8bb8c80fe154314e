"""One call from a model and images to the evidence, with independent repeats and an honest interval for each image."""

import torch
from torch import Tensor

from thermograd.config import names
from thermograd.config.measure import EvidenceSettings
from thermograd.errors import Caution, InputError
from thermograd.evidence.particles import from_bank, from_modes
from thermograd.evidence.prior import run_prior
from thermograd.evidence.replicates import combine
from thermograd.evidence.result import Evidence
from thermograd.evidence.rungs import by_ladder
from thermograd.models.latent_model import LatentModel

METHODS = tuple(names.EVIDENCE_METHODS)


def estimate_evidence(
    model: LatentModel,
    x: Tensor,
    settings: EvidenceSettings | None = None,
    *,
    generator: torch.Generator,
    short_run_prior: bool = False,
) -> Evidence:
    """Estimate log p(x) of each image by independent repeats.

    Args:
        model: any `LatentModel`.
        x: images (B, *image_shape).
        settings: method and cost; None for the defaults.
        generator: source of all randomness.
        short_run_prior: warn that the prior was trained by short chains, which do not sample exp(-E) p0 / Z_a.

    Returns:
        An `Evidence`, with an interval, a range or a lower bound for each image.

    Raises:
        InputError: images of another shape, or settings out of range.
    """
    settings = settings or EvidenceSettings()
    if x.dim() < 2 or tuple(x.shape[1:]) != tuple(model.image_shape) or not len(x):
        raise InputError(
            f"`x` must have shape (B, {', '.join(map(str, model.image_shape))}), got {tuple(x.shape)}."
        )
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(
            False
        )  # only scores in z are taken, and weights without gradients spare a third
    try:
        prior = run_prior(model, settings.bank_for(len(x)), settings.num_replicates, generator)
        each = settings.num_evaluations / settings.num_replicates
        share = prior.bank[..., 0].numel() / len(x)
        facts = names.EVIDENCE_METHODS[settings.method]
        if facts.particles == "modes":
            found, _ = from_modes(model, x, prior, each, generator, settings.chunk_size)
        elif facts.particles == "bank":
            found, _ = from_bank(model, x, prior, each, generator, settings.chunk_size)
        else:
            found, share = (
                by_ladder(
                    model,
                    x,
                    prior.bank,
                    facts,
                    settings.num_rungs,
                    each,
                    generator,
                    settings.chunk_size,
                ),
                0.0,
            )
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    warnings = prior.warnings
    if short_run_prior:
        warnings.append(
            Caution(
                "short-run-prior",
                "the prior was trained by short chains: log p(x) is that of the stationary density exp(-E) p0 / Z_a, "
                "which those chains do not sample.",
            )
        )
    return combine(settings.method, found, warnings, share)
