r"""Repeated draws of the learning gradient at frozen parameters: variance, its sources, bias, and what they cost.

On each of several batches an estimator is drawn anew several times; `variance_statistics` says what is made of it.
Estimators that read the same kind of ladder are given the same draws, so that their difference is the rule's alone.

Memory: for each estimator (batches + 2) P numbers, kept as the model's floats: the mean over repeats of each batch, a
running mean and one gradient; 2 K P more where rungs are told apart, and batches x P for reference gradients. A stack
of all gradients is never kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thermograd.errors import Caution, InputError
from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.moments import (
    Estimate,
    Gradient,
    Moments,
    ReferenceMoments,
    Spread,
    heavy_tailed,
    jackknife,
    join,
    summarise,
)
from thermograd.gradients.reference import Reference
from thermograd.gradients.rules import Estimator, PriorRule, Weights, compute_weights
from thermograd.ladders.ladder import Ladder
from thermograd.models.latent_model import LatentModel

Draw = Callable[[int, int], tuple[Ladder, float]]
"""From the numbers of a batch and of a repeat to a ladder of fresh draws for it, and its evaluations per image."""


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
class Measurement:
    """What was measured of one estimator.

    Attributes:
        groups: moments of each network, of `total`, and of each parameter.
        rungs: by rung, lowest first; empty unless asked for.
        log_likelihood_variance: by rung held for each image, mean over images of Var(l) over draws, in nats^2.
        log_likelihood_bias: mean over images of l at the draws of t = 1 less E_1[l] of the reference, in nats; None
            without one. Where every repeat starts from the same stored chains, their noise is in its interval.
        inverse_temperatures: of those rungs.
        num_evaluations: generator evaluations with gradient in z, for each image and gradient.
        num_backward: draws of each image through which one gradient is taken back to the parameters.
    """

    groups: dict[str, Moments]
    rungs: tuple[RungVariance, ...]
    log_likelihood_variance: Estimate
    log_likelihood_bias: Estimate | None
    inverse_temperatures: Tensor
    num_evaluations: float
    num_backward: float

    def summary(self) -> dict[str, dict[str, Estimate]]:
        """Return every quantity of each network, of the total and of each parameter, by name."""
        return {name: summarise(moments) for name, moments in self.groups.items()}

    def cautions(self) -> list[Caution]:
        """Return a caution of kind "heavy-tailed" where chain variances of networks or in total may be far too low."""
        networks = [name for name in self.groups if name in ("prior", "generator", "total")]
        heavy = [name for name in networks if bool(heavy_tailed(self.groups[name]))]
        text = (
            f"chain variance of {', '.join(heavy)}: draws have heavy tails, so it is more often than not below its "
            f"expectation, which its interval holds in 70 to 90 % of cases; read `typical_chain_variance` beside it."
        )
        return [Caution("heavy-tailed", text)] if heavy else []


# --- collecting ---


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
                errors, draws = (
                    torch.tensor([values[name] for values in each], dtype=torch.float64)
                    for each in zip(*((r.squared_error, r.draw_variance) for r in references), strict=True)
                )
                reference = ReferenceMoments(stack @ others.mT, others @ others.mT, errors, draws)
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
        model: any `LatentModel`; it is not changed.
        batches: images (B, *image_shape) of each batch.
        draw: returns a fresh ladder and its cost; all of its ladders have the same rungs and chains.
        rules: by the name under which a rule's measurement is returned.
        num_repeats: R, at least 2.
        references: of each batch, from `reference_gradient`.
        by_rung: tell rungs apart as well.
        chunk_size: the most latents in one backward pass.
        on_gradient: called after each repeat.

    Raises:
        InputError: fewer than 2 repeats, no batch, or a ladder that a rule cannot read.
    """
    if num_repeats < 2:
        raise InputError(f"`repeats` must be at least 2, got {num_repeats}.")
    tallies = {name: _Tally(rule, by_rung) for name, rule in rules.items()}
    variances, biases, num_evaluations, ladder = [], [], 0.0, None
    for b, x in enumerate(batches):
        log_likelihoods = []
        for r in range(num_repeats):
            ladder, spent = draw(b, r)
            log_likelihoods.append(ladder.log_likelihood)
            num_evaluations += spent / (num_repeats * len(batches))
            for tally in tallies.values():
                tally.add(model, x, ladder, b, r, chunk_size)
            on_gradient()
        draws = torch.cat(log_likelihoods, 1).double()
        variances.append(draws.var(1).mean(-1))
        if references is not None:
            biases.append((draws[-1] - references[b].expected_log_likelihood).mean())
        for tally in tallies.values():
            tally.end_batch()
    if ladder is None:
        raise InputError("`batches` must be at least 1, got 0.")
    groups = {group: names for group, names in model.parameter_groups().items() if names}
    groups["total"] = [name for names in groups.values() for name in names]
    spread, t = _over_batches(torch.stack(variances, -1), log=True), ladder.inverse_temperatures
    bias = _over_batches(torch.stack(biases)) if biases else None
    return {
        name: Measurement(
            tally.groups(groups, references),
            tally.rungs(groups),
            spread,
            bias,
            t,
            num_evaluations,
            tally.num_backward,
        )
        for name, tally in tallies.items()
    }


class _Tally:
    """All that is kept of one rule while it is measured."""

    def __init__(self, rule: Rule, by_rung: bool):
        self.rule, self.by_rung = rule, by_rung
        self.collector = Collector()
        self.parts: _RungCollector | None = None
        self.temperatures: list[float] = []
        self.num_backward = 0.0

    def add(
        self, model: LatentModel, x: Tensor, ladder: Ladder, batch: int, repeat: int, chunk_size: int | None
    ) -> None:
        weights = self.rule(ladder, batch, repeat)
        self.num_backward = float(weights.log_likelihood.ne(0).flatten(0, 1).any(1).sum())
        if not self.by_rung:
            self.collector.add(learning_gradient(model, x, ladder, weights, chunk_size))
            return
        parts = rung_weights(ladder, weights)
        gradients = [learning_gradient(model, x, ladder, part, chunk_size) for _, part in parts]
        self.temperatures = [t for t, _ in parts]
        self.parts = self.parts or _RungCollector(len(parts))
        self.parts.add(gradients)
        self.collector.add({name: torch.stack([g[name] for g in gradients]).sum(0) for name in gradients[0]})

    def end_batch(self) -> None:
        self.collector.end_batch()
        if self.parts is not None:
            self.parts.end_batch()

    def groups(
        self, groups: Mapping[str, Sequence[str]], references: Sequence[Reference] | None
    ) -> dict[str, Moments]:
        blocks = self.collector.moments(references)
        return {group: join([blocks[name] for name in names]) for group, names in groups.items()} | blocks

    def rungs(self, groups: Mapping[str, Sequence[str]]) -> tuple[RungVariance, ...]:
        if self.parts is None:
            return ()
        sizes = {name: means[0].numel() for name, means in self.collector.means.items()}
        return self.parts.rungs(self.temperatures, groups, sizes)


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


def _over_batches(values: Tensor, log: bool = False) -> Estimate:
    """Return the mean over batches (..., n) with its jackknife interval."""
    num_batches = values.shape[-1]
    rest = (values.sum(-1, keepdim=True) - values) / max(num_batches - 1, 1)
    return jackknife(torch.cat([values.mean(-1, keepdim=True), rest], -1), log)
