"""Relative error of the generator's learning gradient against generator evaluations, on a trained model.

The reference is a long run of MALA chains at the same parameters and the same images. Persistent starts come in two
states: `stored` is where training left the images' chains, `warm` are chains that have run to stationarity at these
parameters, as they would be late in a training with small learning rates.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thermograd.config.resolve import resolve
from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES, compute_weights
from thermograd.ladders.ladder import Ladder
from thermograd.ladders.record import LadderInfo
from thermograd.ladders.sampler import LadderSampler
from thermograd.ladders.schedules import power_schedule
from thermograd.models.latent_ebm import LatentEBM
from thermograd.runs.run import load_run
from thermograd.runs.train import train_run
from thermograd.samplers.kernel import Kernel
from thermograd.samplers.langevin import ULA
from thermograd.samplers.mala import MALA
from thermograd.training.builder import batch_images

BATCH = 48
PERSISTENT = {
    "gradient.num_chains": 4,
    "prior_chains.num_chains": 128,
    "posterior_chains.start": "persistent",
    "posterior_chains.kernel": "mala",
    "posterior_chains.num_steps": 4,
    "posterior_chains.adaptation_gain": 0.2,
}
"""Four stored chains per image and four steps: 20 evaluations, nearly the 21 of 20 short-run steps."""
VANILLA = torch.tensor([0.0, 1.0], dtype=torch.float64)
LADDER = power_schedule(11, 3.0)


Sample = Callable[[torch.Generator], tuple[Ladder, LadderInfo]]


@dataclass(frozen=True)
class Warm:
    """Chains at stationarity: their draws, and the step sizes that were found."""

    ladder: Ladder
    step_sizes: Tensor


@dataclass(frozen=True)
class Arm:
    """One way to draw, and the estimator that reads the draws."""

    name: str
    sample: Sample
    estimator: str = "maximum-likelihood"


def make_run(folder: Path) -> Path:
    """Train the small MNIST model that the errors are measured on, two minutes."""
    config, requested = resolve(
        "mnist-5k", overrides={"training.num_epochs": 8, "training.pictures_every": 1000, **PERSISTENT}
    )
    train_run(config, folder / "run", requested=requested)
    return folder / "run"


def gradient_errors(folder: Path, num_repeats: int) -> dict[str, Any]:
    """Print and return, for each arm, evaluations per image and the relative root mean square error."""
    run = load_run(folder)
    trainer = run.trainer()
    model, data = trainer.model, run.data("train")
    assert isinstance(model, LatentEBM)
    index = torch.arange(BATCH)
    x = batch_images(run.config, data, index, 0, trainer.device)
    stored = None if trainer.chains.stored is None else trainer.chains.stored[index].permute(1, 2, 0, 3)[-1:]
    generator = torch.Generator().manual_seed(1)
    warm = warm_up(model, x, VANILLA, 32, 300, stored, generator)
    reference, reference_error = long_run_gradient(model, x, warm, 10, generator)
    ladder = warm_up(model, x, LADDER, 4, 200, None, generator)
    arms = make_arms(model, x, stored, warm, ladder)
    found: dict[str, Any] = {"reference_error": reference_error, "arms": {}}
    print(f"    reference: half the distance of its halves is {reference_error:.3f}", flush=True)
    found["bfloat16"] = bfloat16_difference(model, x, 4 * num_repeats)
    for arm in arms:
        result = measure(model, x, arm, reference, num_repeats, generator)
        found["arms"][arm.name] = result
        print(
            f"    {arm.name:44} {result['evaluations']:6.0f} evaluations   error {result['error']:.3f}   "
            f"bias {result['bias']:.3f}   log p(x|z) {result['log_likelihood']:.1f}",
            flush=True,
        )
    return found


def warm_up(
    model: LatentEBM,
    x: Tensor,
    t: Tensor,
    num_chains: int,
    num_steps: int,
    start: Tensor | None,
    generator: torch.Generator,
) -> Warm:
    """Run MALA chains to stationarity; their step sizes adapt on each rung over all steps but the last.

    `start` (1, M, B, d) is spread over the chains; without, they climb the ladder from the base distribution, 20
    steps per rung.
    """
    vanilla = len(t) == 2
    sampler = LadderSampler(t, MALA(0.05), num_chains, bottom="shared" if vanilla else "chains")
    at = "annealed" if start is None else start[:, torch.arange(num_chains) % start.shape[1]]
    state = sampler.start(model, x, generator, at, num_steps=20)
    sampler, state = sampler.adapt(model, x, state, num_steps, generator)
    prior = model.sample_base((1,), generator) if vanilla else None
    ladder, info = sampler.run(model, x, state, 1, generator, prior)
    return Warm(ladder, info.step_sizes)


def continue_chains(
    model: LatentEBM, x: Tensor, kernel: Kernel, ladder: Ladder, steps: int, num_chains: int | None = None
) -> Sample:
    """Return a function that runs chains on from a ladder's draws, on the ladder's own rungs.

    Each call begins at `num_chains` of the ladder's chains, drawn anew: repeats that share their start would count its
    distance from the mean as bias.
    """
    vanilla = not ladder.has_prior_rung
    t = VANILLA if vanilla else ladder.inverse_temperatures.double()

    def sample(generator: torch.Generator) -> tuple[Ladder, LadderInfo]:
        chosen = torch.randperm(ladder.num_chains, generator=generator)[:num_chains]
        sampler = LadderSampler(t, kernel, len(chosen), bottom="shared" if vanilla else "chains")
        state = sampler.start(model, x, generator, ladder.latents[:, chosen])
        prior = model.sample_base((1,), generator) if vanilla else None
        return sampler.run(model, x, state, steps, generator, prior)

    return sample


def from_base(model: LatentEBM, x: Tensor, kernel: Kernel, num_steps: int) -> Sample:
    """Return a function that runs one short chain an image from the base distribution."""
    sampler = LadderSampler(VANILLA, kernel, bottom="shared")

    def sample(generator: torch.Generator) -> tuple[Ladder, LadderInfo]:
        prior = model.sample_base((1,), generator)
        return sampler.run(model, x, sampler.start(model, x, generator), num_steps, generator, prior)

    return sample


def make_arms(model: LatentEBM, x: Tensor, stored: Tensor | None, warm: Warm, ladder: Warm) -> list[Arm]:
    h = float(warm.step_sizes[-1])
    adapted = MALA(h)
    arms = [Arm(f"ULA h=0.1, base, {n} steps", from_base(model, x, ULA(0.1), n)) for n in (5, 20, 40, 80)]
    arms += [Arm(f"MALA, base, {n} steps", from_base(model, x, adapted, n)) for n in (20, 80)]
    starts = {"warm": warm.ladder}
    if stored is not None:
        starts["stored"] = replace(warm.ladder.chains(slice(stored.shape[1])), latents=stored)
    for name, start in starts.items():
        for label, kernel in (("ULA h=0.1", ULA(0.1)), ("MALA", adapted)):
            arms += [
                Arm(f"{label}, {name}, {n} steps", continue_chains(model, x, kernel, start, n, 1))
                for n in (1, 4, 19)
            ]
    for chains in (4, 10, 22):
        sample = continue_chains(model, x, adapted, warm.ladder, 1, chains)
        arms.append(Arm(f"MALA, warm, {chains} chains, 1 step", sample))
    if stored is not None and stored.shape[1] > 1:
        for n in (1, 4):
            sample = continue_chains(model, x, adapted, starts["stored"], n)
            arms.append(Arm(f"MALA, stored, {stored.shape[1]} chains, {n} steps", sample))
    rungs = MALA(ladder.step_sizes)
    for n in (1, 4):
        arms.append(
            Arm(
                f"complete, 11 rungs, 2 chains, warm, {n} steps",
                continue_chains(model, x, rungs, ladder.ladder, n, 2),
                "thermodynamic-complete",
            )
        )
    arms.append(Arm("ULA h=0.1, base, 43 steps (cost of complete)", from_base(model, x, ULA(0.1), 43)))
    return arms


def generator_gradient(model: LatentEBM, x: Tensor, ladder: Ladder, estimator: str) -> Tensor:
    weights = compute_weights(ladder, ESTIMATORS[estimator], PRIOR_RULES["contrast"])
    gradient = learning_gradient(model, x, ladder, weights, chunk_size=512)
    return torch.cat([gradient[name].flatten() for name in model.parameter_groups()["generator"]])


def long_run_gradient(
    model: LatentEBM, x: Tensor, warm: Warm, num_rounds: int, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Return the mean gradient over draws 5 steps apart, and half the distance of its halves over its length."""
    kernel, halves, ladder = MALA(float(warm.step_sizes[-1])), [], warm.ladder
    for _ in range(2):
        total = torch.zeros(())
        for _ in range(num_rounds):
            ladder, _ = continue_chains(model, x, kernel, ladder, 5)(generator)
            total = total + generator_gradient(model, x, ladder, "maximum-likelihood")
        halves.append(total / num_rounds)
    mean = (halves[0] + halves[1]) / 2
    return mean, float((halves[0] - halves[1]).norm() / 2 / mean.norm())


def measure(
    model: LatentEBM, x: Tensor, arm: Arm, reference: Tensor, num_repeats: int, generator: torch.Generator
) -> dict[str, float]:
    """Return the relative error of one gradient, and of the mean over repeats."""
    gradients = []
    for _ in range(num_repeats):
        ladder, info = arm.sample(generator)
        gradients.append(generator_gradient(model, x, ladder, arm.estimator))
    errors = torch.stack(gradients) - reference
    length = reference.norm()
    return {
        "evaluations": info.num_evaluations,
        "error": float(errors.square().sum(1).mean().sqrt() / length),
        "bias": float(errors.mean(0).norm() / length),
        "log_likelihood": float(ladder.log_likelihood[-1].mean()),
    }


def bfloat16_of_run(folder: Path, num_repeats: int) -> dict[str, float]:
    """Print and return how far bfloat16 moves the gradient of a run."""
    run = load_run(folder)
    x = batch_images(run.config, run.data("train"), torch.arange(BATCH), 0, torch.device("cpu"))
    return bfloat16_difference(run.model, x, num_repeats)


def bfloat16_difference(model: LatentEBM, x: Tensor, num_repeats: int) -> dict[str, float]:
    """Print and return how far bfloat16 moves the gradient, over the standard deviation of float32's over chains.

    20 short-run ULA steps with the same noise in both precisions. `path` is the difference of one gradient, in which
    rounding has grown along the chain; `mean` that of the mean over chains, an upper bound that holds its noise.
    Lengths are over all coordinates.
    """
    gradients: dict[str, list[Tensor]] = {"float32": [], "bfloat16": []}
    for seed in range(num_repeats):
        for name, sampled in (("float32", model), ("bfloat16", model.with_bfloat16_generator())):
            ladder, _ = from_base(sampled, x, ULA(0.1), 20)(torch.Generator().manual_seed(seed))
            gradients[name].append(generator_gradient(model, x, ladder, "maximum-likelihood"))
    exact = torch.stack(gradients["float32"])
    difference, spread = torch.stack(gradients["bfloat16"]) - exact, exact.var(0).sum().sqrt()
    moved = {
        "path": float(difference.square().sum(1).mean().sqrt() / spread),
        "mean": float(difference.mean(0).norm() / spread),
    }
    print(
        f"    bfloat16 chains, in standard deviations over chains: one gradient moves by {moved['path']:.2f}, "
        f"their mean by at most {moved['mean']:.2f}",
        flush=True,
    )
    return moved
