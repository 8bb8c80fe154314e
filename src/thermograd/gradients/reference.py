r"""The gradient of log p(x) of a batch by long chains, to judge estimators by.

By Fisher's identity it is E_1[∇_b l] for the generator and E_0[∇_a E] - E_1[∇_a E] for the prior, here averaged along
MALA chains on a ladder whose rungs exchange states. Its standard error comes from the spread of independent chains, and
R-hat says whether they agree.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from thermograd.config.measure import ReferenceSettings
from thermograd.errors import Caution
from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.moments import Spread
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES, compute_weights
from thermograd.ladders.diagnostics import ladder_warnings, r_hat
from thermograd.ladders.record import LadderTrace
from thermograd.ladders.sampler import LadderSampler
from thermograd.ladders.schedules import power_schedule
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.mala import MALA

REFERENCE_R_HAT = 1.05
"""Beyond which the chains of an image do not agree well enough to judge others by."""


@dataclass(frozen=True)
class Reference:
    """The long-run gradient of one batch.

    Attributes:
        gradient: by parameter.
        squared_error: by parameter, squared standard error of the mean over chains, summed over coordinates.
        draw_variance: by parameter, variance of the gradient of one draw per image, summed over coordinates: what a
            single chain that has converged would give.
        expected_log_likelihood: (B,), E_1[l] of each image, in nats.
        r_hat: (B,), of each image's log-likelihood at t = 1.
        num_evaluations: generator evaluations with gradient, of each image.
        warnings: a caution for each sign that chains have not mixed.
    """

    gradient: dict[str, Tensor]
    squared_error: dict[str, float]
    draw_variance: dict[str, float]
    expected_log_likelihood: Tensor
    r_hat: Tensor
    num_evaluations: float
    warnings: tuple[Caution, ...]


def reference_gradient(
    model: LatentModel,
    x: Tensor,
    generator: torch.Generator,
    settings: ReferenceSettings | None = None,
    chunk_size: int | None = None,
) -> Reference:
    """Return the maximum likelihood gradient of a batch from long MALA chains whose rungs exchange states.

    Its chains start from the base distribution, climb the ladder, adapt their step sizes while burning in, and are
    read every few steps. Chains of one image are independent, so their spread gives an error that holds whatever
    their autocorrelation; a bias that all of them share shows in R-hat, if at all.

    Raises:
        InputError: settings out of range.
    """
    settings = settings or ReferenceSettings()
    rule = ESTIMATORS["maximum-likelihood"], PRIOR_RULES["contrast"]
    sampler = LadderSampler(
        power_schedule(settings.num_rungs, settings.power),
        MALA(torch.full((settings.num_rungs, len(x)), settings.step_size)),
        settings.num_chains,
        exchange=True,
        chunk_size=chunk_size,
    )
    state = sampler.start(model, x, generator, "annealed")
    sampler, state = sampler.adapt(
        model, x, state, settings.num_burn_in, generator, precondition=settings.precondition
    )
    chains, traces = [Spread() for _ in range(settings.num_chains)], []
    for _ in range(settings.num_steps // settings.every):
        ladder, info, trace = sampler.trace(model, x, state, settings.every, generator)
        state = info.state
        traces.append(trace)
        for q, spread in enumerate(chains):
            alone = ladder.chains(slice(q, q + 1))
            spread.add(learning_gradient(model, x, alone, compute_weights(alone, *rule), chunk_size))
    between = Spread()
    for spread in chains:
        between.add(spread.mean)
    count, num_draws = settings.num_chains, chains[0].count
    whole = LadderTrace(
        info.inverse_temperatures,
        torch.cat([each.log_likelihood for each in traces]),
        torch.cat([each.energy for each in traces]),
    )
    info = replace(info, round_trips=None)  # counted within the last block alone, too short for one
    top = whole.log_likelihood[:, -1]
    found = r_hat(top)
    return Reference(
        between.mean,
        {name: square / (count * (count - 1)) for name, square in between.squares.items()},
        {
            name: (sum(spread.squares[name] for spread in chains) + num_draws * square)
            / (count * num_draws - 1)
            for name, square in between.squares.items()
        },
        top.double().mean((0, 1)),
        found,
        state.num_evaluations,
        (*_not_converged(found), *ladder_warnings(info, whole)),
    )


def _not_converged(found: Tensor) -> list[Caution]:
    """Return a caution where R-hat (B,) of an image says that its chains do not agree."""
    above = int((found > REFERENCE_R_HAT).sum())
    if not above:
        return []
    return [
        Caution(
            "reference-not-converged",
            f"R-hat of the reference exceeds {REFERENCE_R_HAT} for {above} of {len(found)} images (largest "
            f"{float(found.max()):.2f}): bias is that against this reference and no more; run more steps.",
        )
    ]


def reference_record(references: Sequence[Reference], settings: ReferenceSettings) -> dict[str, object]:
    """Return what a reader must know of the references: cost, R-hat, warnings."""
    values = torch.cat([each.r_hat for each in references])
    warnings = [
        asdict(caution.under(f"batch {b}")) for b, each in enumerate(references) for caution in each.warnings
    ]
    return {
        **settings.__dict__,
        "num_evaluations": references[0].num_evaluations,
        "r_hat_median": float(values.median()),
        "r_hat_largest": float(values.max()),
        "share_of_images_with_r_hat_above_limit": float((values > REFERENCE_R_HAT).double().mean()),
        "warnings": warnings,
    }
