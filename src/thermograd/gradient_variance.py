r"""Repeated draws of the learning gradient at frozen parameters: variance, its sources, bias, and what they cost.

On each of several batches an estimator is drawn anew several times; `variance_statistics` says what is made of it.
Estimators that read the same kind of ladder are given the same draws, so that their difference is the rule's alone.

Memory: for each estimator (batches + 2) P numbers, kept as the model's floats: the mean over repeats of each batch, a
running mean and one gradient; 2 K P more where rungs are told apart, and batches x P for reference gradients. A stack
of all gradients is never kept.

The reference gradient of a batch is maximum likelihood's (Fisher's identity) averaged along converged chains: MALA on a
ladder whose rungs exchange states. Its standard error comes from the spread of independent chains, and R-hat says
whether they agree.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thermograd.errors import InputError
from thermograd.gradients import (
    ESTIMATORS,
    PRIOR_RULES,
    Estimator,
    PriorRule,
    Weights,
    compute_weights,
    learning_gradient,
)
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.diagnostics import R_HAT_LIMIT, ladder_warnings, r_hat
from thermograd.samplers.ladder import Ladder, sample_ladder
from thermograd.samplers.mala import MALA
from thermograd.schedules import power_schedule
from thermograd.variance_statistics import Estimate, Moments, ReferenceMoments, jackknife, join, summarise

Gradient = Mapping[str, Tensor]
Draw = Callable[[int, int], Ladder]
"""From the numbers of a batch and of a repeat to a ladder of fresh draws for that batch."""


Rule = Callable[[Ladder, int, int], Weights]
"""From a ladder, and the numbers of its batch and repeat, to the weights of a gradient."""


def make_rule(estimator: Estimator, prior_rule: PriorRule) -> Rule:
    """Return the rule that applies an estimator of the generator's gradient and one of the prior's."""
    return lambda ladder, batch, repeat: compute_weights(ladder, estimator, prior_rule)


@dataclass(frozen=True)
class RungVariance:
    """The variance of one rung's weighted part of the gradient, by network and in total, per coordinate.

    Where rungs run chains of their own, the chain variances of all parts add up to the estimator's. Under exchange
    they do not: rungs are coupled.

    Attributes:
        inverse_temperature: t; 0 also for draws of the prior that all images share.
        chain_variance: same batch, new chains.
        batch_variance: new batch, NaN for a single one.
    """

    inverse_temperature: float
    chain_variance: dict[str, float]
    batch_variance: dict[str, float]


@dataclass(frozen=True)
class Reference:
    """The long-run gradient of one batch.

    Attributes:
        gradient: by parameter.
        squared_error: by parameter, squared standard error of the mean over chains, summed over coordinates.
        r_hat: (B,), of each image's log-likelihood at t = 1.
        num_evaluations: generator evaluations with gradient, of each image.
        warnings: a line for each sign that chains have not mixed.
    """

    gradient: dict[str, Tensor]
    squared_error: dict[str, float]
    r_hat: Tensor
    num_evaluations: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Measurement:
    """What was measured of one estimator.

    Attributes:
        groups: moments of each network, of `total`, and of each parameter.
        rungs: by rung, lowest first; empty unless asked for.
        log_likelihood_variance: by rung held for each image, mean over images of Var(l) over draws, in nats^2.
        inverse_temperatures: of those rungs.
        num_evaluations: generator evaluations with gradient in z, for each image and gradient.
        num_backward: draws of each image through which one gradient is taken back to the parameters.
    """

    groups: dict[str, Moments]
    rungs: tuple[RungVariance, ...]
    log_likelihood_variance: Estimate
    inverse_temperatures: Tensor
    num_evaluations: float
    num_backward: float

    def summary(self) -> dict[str, dict[str, Estimate]]:
        """Return every quantity of each network, of the total and of each parameter, by name."""
        return {name: summarise(moments) for name, moments in self.groups.items()}


# --- collecting ---


class Spread:
    """Running mean of gradients and the sum of their squared distances from it, by parameter (Welford)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: dict[str, Tensor] = {}
        self.squares: dict[str, float] = {}

    def add(self, gradient: Gradient) -> None:
        """Take in one gradient."""
        self.count += 1
        if self.count == 1:
            self.mean = {name: value.clone() for name, value in gradient.items()}
            self.squares = dict.fromkeys(gradient, 0.0)
            return
        for name, value in gradient.items():
            before = value - self.mean[name]
            self.mean[name] += before / self.count
            self.squares[name] += float(before.mul_(value - self.mean[name]).sum(dtype=torch.float64))


class Collector:
    """Takes in gradients, repeats of one batch after the other, and keeps what `Moments` need.

    Example:
        for each batch: `add` a gradient for each repeat, then `end_batch`; `moments` at the end.
    """

    def __init__(self) -> None:
        self.means: dict[str, list[Tensor]] = {}
        self.within: dict[str, list[float]] = {}
        self.num_repeats: int | None = None
        self._spread = Spread()

    def add(self, gradient: Gradient) -> None:
        """Take in the gradient of one repeat of the current batch."""
        self._spread.add(gradient)

    def end_batch(self) -> None:
        """Close the current batch.

        Raises:
            InputError: fewer than 2 repeats, or not as many as the batches before had.
        """
        spread, self._spread = self._spread, Spread()
        if spread.count < 2 or spread.count != (self.num_repeats or spread.count):
            wanted = "at least 2" if self.num_repeats is None else f"{self.num_repeats}, as before"
            raise InputError(f"`repeats` must be {wanted}, got {spread.count}.")
        self.num_repeats = spread.count
        for name, mean in spread.mean.items():
            self.means.setdefault(name, []).append(mean.flatten().cpu())
            self.within.setdefault(name, []).append(spread.squares[name])

    def moments(self, references: Sequence[Reference] | None = None) -> dict[str, Moments]:
        """Return the moments of each parameter, with those of the batches' references where given."""
        if self.num_repeats is None:
            raise InputError("`batches` must be at least 1, got 0.")
        found = {}
        for name, means in self.means.items():
            stack = torch.stack(means).double()  # one parameter at a time
            reference = None
            if references is not None:
                others = torch.stack([each.gradient[name].flatten().cpu() for each in references]).double()
                errors = torch.tensor([each.squared_error[name] for each in references], dtype=torch.float64)
                reference = ReferenceMoments(stack @ others.mT, others @ others.mT, errors)
            within = torch.tensor(self.within[name], dtype=torch.float64)
            found[name] = Moments(stack.shape[1], self.num_repeats, stack @ stack.mT, within, reference)
        return found


class _RungCollector:
    """The variance of each rung's part: a spread within batches and one of batch means, no batch kept."""

    def __init__(self, num_parts: int):
        self.inner = [Spread() for _ in range(num_parts)]
        self.outer = [Spread() for _ in range(num_parts)]
        self.within: list[dict[str, float]] = [{} for _ in range(num_parts)]
        self.num_repeats = 0

    def add(self, parts: Sequence[Gradient]) -> None:
        for spread, part in zip(self.inner, parts, strict=True):
            spread.add(part)

    def end_batch(self) -> None:
        self.num_repeats = self.inner[0].count
        for k, spread in enumerate(self.inner):
            self.outer[k].add(spread.mean)
            for name, square in spread.squares.items():
                self.within[k][name] = self.within[k].get(name, 0.0) + square
        self.inner = [Spread() for _ in self.inner]

    def rungs(
        self, t: Sequence[float], groups: Mapping[str, Sequence[str]], sizes: Mapping[str, int]
    ) -> tuple[RungVariance, ...]:
        found = []
        for k, outer in enumerate(self.outer):
            chain, batch = {}, {}
            for group, names in groups.items():
                size = sum(sizes[name] for name in names)
                within = sum(self.within[k][name] for name in names) / (outer.count * (self.num_repeats - 1))
                chain[group] = within / size
                batch[group] = float("nan")
                if outer.count > 1:
                    between = sum(outer.squares[name] for name in names) / (outer.count - 1)
                    batch[group] = (between - within / self.num_repeats) / size
            found.append(RungVariance(t[k], chain, batch))
        return tuple(found)


# --- measuring ---


def measure_gradients(
    model: LatentModel,
    batches: Sequence[Tensor],
    draw: Draw,
    rules: Mapping[str, Rule],
    num_repeats: int,
    *,
    references: Sequence[Reference] | None = None,
    by_rung: bool = False,
    chunk_size: int | None = None,
    on_gradient: Callable[[], None] = lambda: None,
) -> dict[str, Measurement]:
    """Draw every batch's gradient `num_repeats` times, by each rule from the same ladders.

    Args:
        model: stays as it is.
        batches: images (B, *image_shape) of each batch.
        draw: returns a fresh ladder; all of its ladders have the same rungs and chains.
        rules: by the name under which a rule's measurement is returned.
        num_repeats: R, at least 2.
        references: of each batch, from `reference_gradient`.
        by_rung: tell rungs apart as well.
        chunk_size: the most latents in one backward pass.
        on_gradient: called after each repeat.

    Raises:
        InputError: fewer than 2 repeats, no batch, or a ladder that a rule can not read.
    """
    if num_repeats < 2:
        raise InputError(f"`repeats` must be at least 2, got {num_repeats}.")
    collectors = {name: Collector() for name in rules}
    by_part: dict[str, _RungCollector] = {}
    temperatures: dict[str, list[float]] = {}
    num_backward = dict.fromkeys(rules, 0.0)
    variances, num_evaluations, ladder = [], 0.0, None
    for b, x in enumerate(batches):
        log_likelihoods = []
        for r in range(num_repeats):
            ladder = draw(b, r)
            log_likelihoods.append(ladder.log_likelihood)
            num_evaluations += ladder.num_evaluations / (num_repeats * len(batches))
            for name, rule in rules.items():
                weights = rule(ladder, b, r)
                parts = rung_weights(ladder, weights) if by_rung else [(0.0, weights)]
                gradients = [learning_gradient(model, x, ladder, part, chunk_size) for _, part in parts]
                if by_rung:
                    by_part.setdefault(name, _RungCollector(len(parts))).add(gradients)
                temperatures[name] = [t for t, _ in parts]
                collectors[name].add(_sum(gradients))
                num_backward[name] = float(weights.log_likelihood.ne(0).flatten(0, 1).any(1).sum())
            on_gradient()
        variances.append(torch.cat(log_likelihoods, 1).double().var(1).mean(-1))
        for name in rules:
            collectors[name].end_batch()
            if by_rung:
                by_part[name].end_batch()
    if ladder is None:
        raise InputError("`batches` must be at least 1, got 0.")
    names = model.parameter_groups()
    spread = _over_batches(torch.stack(variances, -1))
    found = {}
    for name, collector in collectors.items():
        blocks = collector.moments(references)
        groups = {group: members for group, members in names.items() if members}
        groups["total"] = [member for members in groups.values() for member in members]
        sizes = {block: moments.num_parameters for block, moments in blocks.items()}
        found[name] = Measurement(
            {group: join([blocks[member] for member in members]) for group, members in groups.items()}
            | blocks,
            by_part[name].rungs(temperatures[name], groups, sizes) if by_rung else (),
            spread,
            ladder.inverse_temperatures,
            num_evaluations,
            num_backward[name],
        )
    return found


def rung_weights(ladder: Ladder, weights: Weights) -> list[tuple[float, Weights]]:
    """Split the weights of a gradient into those of each rung, which add up to it; shared draws belong to t = 0."""
    parts = []
    if weights.shared_energy is not None and not ladder.has_prior_rung:
        nothing = torch.zeros_like(weights.energy)
        parts.append((0.0, Weights(nothing, nothing, weights.shared_energy)))
    for k, t in enumerate(ladder.inverse_temperatures.tolist()):
        log_likelihood = torch.zeros_like(weights.log_likelihood)
        energy = torch.zeros_like(weights.energy)
        log_likelihood[k], energy[k] = weights.log_likelihood[k], weights.energy[k]
        parts.append((t, Weights(log_likelihood, energy, weights.shared_energy if t == 0 else None)))
    return parts


def _sum(gradients: Sequence[Gradient]) -> Gradient:
    if len(gradients) == 1:
        return gradients[0]
    return {name: torch.stack([each[name] for each in gradients]).sum(0) for name in gradients[0]}


def _over_batches(values: Tensor) -> Estimate:
    """Return the mean over batches (..., n) with its jackknife interval."""
    num_batches = values.shape[-1]
    rest = (values.sum(-1, keepdim=True) - values) / max(num_batches - 1, 1)
    return jackknife(torch.cat([values.mean(-1, keepdim=True), rest], -1), log=True)


# --- the reference ---


@dataclass(frozen=True)
class ReferenceSettings:
    """Chains of the reference gradient.

    Attributes:
        num_rungs: K, on the schedule (k/N)^power.
        power: of the schedule.
        num_chains: independent ladders of an image, from whose spread the error comes.
        num_burn_in: steps in which step sizes adapt and chains forget their start.
        num_steps: steps after them.
        every: steps between the draws that are averaged.
        step_size: where MALA's step sizes begin.
    """

    num_rungs: int = 12
    power: float = 5.0
    num_chains: int = 4
    num_burn_in: int = 100
    num_steps: int = 200
    every: int = 10
    step_size: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("num_rungs", 2), ("num_chains", 2), ("num_burn_in", 0), ("every", 1)):
            if getattr(self, name) < least:
                raise InputError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if self.num_steps < 2 * self.every:
            raise InputError(
                f"`num_steps` must be at least {2 * self.every}, two draws apart, got {self.num_steps}."
            )

    @property
    def num_evaluations(self) -> int:
        """Return the generator evaluations of each image, near enough to plan with."""
        num_segments = self.num_steps // self.every
        return self.num_chains * self.num_rungs * (self.num_burn_in + self.num_steps + num_segments + 3)


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
    t = power_schedule(settings.num_rungs, settings.power)
    rule = make_rule(ESTIMATORS["maximum-likelihood"], PRIOR_RULES["contrast"])
    chains = [Spread() for _ in range(settings.num_chains)]
    traces, num_evaluations = [], 0.0
    ladder: Ladder | None = None
    for segment in range(settings.num_steps // settings.every):
        ladder = sample_ladder(
            model,
            x,
            t,
            MALA(settings.step_size if ladder is None or ladder.step_sizes is None else ladder.step_sizes),
            settings.num_chains,
            settings.every,
            "annealed" if segment == 0 else "persistent",
            generator,
            num_burn_in=settings.num_burn_in if segment == 0 else 0,
            exchange_rungs=True,
            initial_latents=None if ladder is None else ladder.latents,
            chunk_size=chunk_size,
            trace=True,
        )
        num_evaluations += ladder.num_evaluations
        traces.append(ladder.log_likelihood_trace)
        for q, spread in enumerate(chains):
            alone = ladder.chains(slice(q, q + 1))
            spread.add(learning_gradient(model, x, alone, rule(alone, 0, segment), chunk_size))
    assert ladder is not None  # for the type checker: there are two segments or more
    between = Spread()
    for spread in chains:
        between.add(spread.mean)
    count = settings.num_chains
    whole = replace(ladder, log_likelihood_trace=torch.cat([each for each in traces if each is not None]))
    assert whole.log_likelihood_trace is not None  # for the type checker
    return Reference(
        between.mean,
        {name: square / (count * (count - 1)) for name, square in between.squares.items()},
        r_hat(whole.log_likelihood_trace[:, -1]),
        num_evaluations,
        tuple(ladder_warnings(whole)),
    )


def reference_record(references: Sequence[Reference], settings: ReferenceSettings) -> dict[str, object]:
    """Return what a reader must know of the references: cost, R-hat, warnings."""
    values = torch.cat([each.r_hat for each in references])
    warnings = [f"batch {b}: {line}" for b, each in enumerate(references) for line in each.warnings]
    return {
        **settings.__dict__,
        "num_evaluations": references[0].num_evaluations,
        "r_hat_median": float(values.median()),
        "r_hat_largest": float(values.max()),
        "share_of_images_with_r_hat_above_limit": float((values > R_HAT_LIMIT).double().mean()),
        "warnings": warnings,
    }
