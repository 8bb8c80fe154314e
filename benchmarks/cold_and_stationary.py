"""The tables of docs/validation.md on image models: estimators at equal evaluations, from a cold start and stationary.

    python benchmarks/cold_and_stationary.py RUN --first 100 --images 16 --out tables.json

For images of a trained run the gradient of the generator is known from a long run: ladders of MALA chains that exchange
states, whose largest R-hat is printed. Then each way to draw and to weigh is repeated. Its error is the root mean
square distance from the reference, relative to the reference's length, with a standard error over repeats. "Cold"
chains begin at the base distribution with step size 0.1; their steps adapt until the last few. "Stationary" chains
begin at draws of the reference and take steps of the sizes found there. The reference's own standard error is a floor
that all rows share.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.multistate import state_weights
from thermograd.gradients.rules import Weights
from thermograd.gradients.stein import stein_weights
from thermograd.ladders.diagnostics import r_hat
from thermograd.ladders.ladder import Ladder
from thermograd.ladders.record import LadderTrace
from thermograd.ladders.sampler import LadderSampler
from thermograd.ladders.schedules import geometric_schedule
from thermograd.models.latent_model import LatentModel
from thermograd.runs.run import load_run
from thermograd.samplers.mala import MALA
from thermograd.training.builder import batch_images

REFERENCE = geometric_schedule(10, 0.02)
TOP = torch.tensor([0.0, 1.0], dtype=torch.float64)
THREE = torch.tensor([0.0, 0.1, 0.35, 1.0], dtype=torch.float64)
Rules = dict[str, Callable[[Ladder], Tensor]]


class Problem:
    """Images of a trained model with their long-run gradient."""

    def __init__(self, model: LatentModel, x: Tensor, chains: int, steps: int):
        self.model, self.x = model, x
        self.names = model.parameter_groups()["generator"]
        generator = torch.Generator().manual_seed(0)
        sampler = make_sampler(REFERENCE, chains, len(x), exchange=True)
        state = sampler.start(model, x, generator)
        sampler, state = sampler.adapt(model, x, state, 500, generator)
        pool, values, sums = [], [], [torch.zeros(())] * chains
        for _ in range(steps // 10):
            ladder, info = sampler.run(model, x, state, 10, generator)
            state = info.state
            pool.append(ladder.latents[-1])
            values.append(ladder.log_likelihood[-1])
            weights = torch.full_like(ladder.log_likelihood[-1:], 1 / len(x))
            for q in range(chains):
                sums[q] = sums[q] + self.gradient(top(ladder, q), weights[:, q : q + 1]).double()
        per_chain = torch.stack(sums) / len(pool)
        self.reference = per_chain.mean(0)
        self.length = float(self.reference.norm())
        self.floor = math.sqrt(float(per_chain.var(0).sum()) / chains) / self.length
        self.pool, self.step_sizes = torch.cat(pool), sampler.step_sizes(torch.zeros(()))[-1]
        self.r_hat = float(torch.maximum(r_hat(torch.stack(values)).max(), r_hat(torch.stack(pool)).max()))

    def gradient(self, ladder: Ladder, weights: Tensor) -> Tensor:
        found = learning_gradient(self.model, self.x, ladder, Weights(weights, 0 * weights, None), 1024)
        return torch.cat([found[name].flatten() for name in self.names])

    def cold(
        self, t: Tensor, chains: int, steps: int, kept: int, seed: int, exchange: bool = False
    ) -> LadderTrace:
        """Return the last `kept` of steps from the base distribution."""
        generator = torch.Generator().manual_seed(seed)
        sampler = make_sampler(t, chains, len(self.x), exchange, bottom="shared")
        state = sampler.start(self.model, self.x, generator)
        sampler, state = sampler.adapt(self.model, self.x, state, steps - kept, generator)
        unused = torch.zeros(1, self.model.latent_dim)
        return sampler.trace(self.model, self.x, state, kept, generator, unused, scores=True)[2]

    def stationary(self, chains: int, steps: int, seed: int) -> LadderTrace:
        """Return steps from draws of the reference."""
        generator = torch.Generator().manual_seed(seed)
        images = torch.arange(len(self.x))
        pick = torch.randint(len(self.pool), (1, chains, len(images)), generator=generator)
        sampler = make_sampler(TOP, chains, len(images), bottom="shared", sizes=self.step_sizes.expand(2, -1))
        state = sampler.start(self.model, self.x, generator, self.pool[pick, images])
        unused = torch.zeros(1, self.model.latent_dim)
        return sampler.trace(self.model, self.x, state, steps, generator, unused, scores=True)[2]

    def errors(
        self, draw: Callable[[int], LadderTrace], rules: Rules, repeats: int
    ) -> dict[str, dict[str, float]]:
        """Return the relative error of each rule on the same draws, its standard error and the bias."""
        found: dict[str, list[Tensor]] = {name: [] for name in rules}
        for seed in range(1, repeats + 1):
            ladder = draw(seed).as_draws()
            for name, rule in rules.items():
                estimate = self.gradient(ladder, rule(ladder) / len(self.x))
                found[name].append((estimate - self.reference) / self.length)
        table = {}
        for name, differences in found.items():
            squares = torch.stack(differences).square().sum(1)
            error = math.sqrt(float(squares.mean()))
            table[name] = {
                "error": error,
                "standard_error": float(squares.std()) / math.sqrt(repeats) / (2 * error),
                "bias": float(torch.stack(differences).mean(0).norm()),
            }
            print(f"    {name:34} {error:.3f} ± {table[name]['standard_error']:.3f}", flush=True)
        return table


def make_sampler(
    t: Tensor,
    chains: int,
    images: int,
    exchange: bool = False,
    bottom: Any = "chains",
    sizes: Tensor | None = None,
) -> LadderSampler:
    kernel = MALA(torch.full((len(t), images), 0.1) if sizes is None else sizes)
    return LadderSampler(t, kernel, chains, exchange, bottom, 1024)


def top(ladder: Ladder, chain: int) -> Ladder:
    at = (slice(-1, None), slice(chain, chain + 1))
    return Ladder(
        ladder.inverse_temperatures[-1:], ladder.latents[at], ladder.log_likelihood[at], ladder.energy[at]
    )


def last(ladder: Ladder) -> Tensor:
    weights = torch.zeros_like(ladder.log_likelihood)
    weights[-1, -ladder.num_chains :] = 1 / ladder.num_chains
    return weights


def every(ladder: Ladder) -> Tensor:
    weights = torch.zeros_like(ladder.log_likelihood)
    weights[-1] = 1 / ladder.num_draws
    return weights


def stein(ladder: Ladder) -> Tensor:
    assert ladder.score is not None
    weights = torch.zeros_like(ladder.log_likelihood)
    weights[-1] = stein_weights(ladder.score[-1])
    return weights


def multistate(ladder: Ladder) -> Tensor:
    return state_weights(ladder.log_likelihood, ladder.inverse_temperatures, (1.0,))[0]


AT_TOP: Rules = {"last states": last, "mean of the states": every, "Stein": stein}
ON_LADDER: Rules = {"last states at t = 1": last, "multistate": multistate}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--first", type=int, default=100, help="index of the first image")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--reference", type=int, nargs=2, default=(6, 4000), help="chains and steps")
    parser.add_argument("--out", type=Path, default=Path("runs/cold_and_stationary.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = load_run(arguments.run)
    places = range(arguments.first, arguments.first + arguments.images)
    x = batch_images(run.config, run.data(), places, 0, torch.device("cpu"))
    problem = Problem(run.model, x, *arguments.reference)
    print(
        f"reference: largest R-hat {problem.r_hat:.3f}, relative standard error {problem.floor:.3f}",
        flush=True,
    )
    record: dict[str, Any] = {
        "r_hat": problem.r_hat,
        "floor": problem.floor,
        "images": [places[0], len(places)],
    }
    draws: dict[str, tuple[Callable[[int], LadderTrace], Rules]] = {
        "cold, 10 chains x 79 steps, 4 kept": (lambda s: problem.cold(TOP, 10, 79, 4, s), AT_TOP),
        "cold, 10 chains x 79 steps, 20 kept": (lambda s: problem.cold(TOP, 10, 79, 20, s), AT_TOP),
        "cold, 4 chains x 199 steps, 50 kept": (lambda s: problem.cold(TOP, 4, 199, 50, s), AT_TOP),
        "cold, 2 chains x 399 steps, 200 kept": (lambda s: problem.cold(TOP, 2, 399, 200, s), AT_TOP),
        "cold, 3 rungs x 3 chains x 88 steps, 20 kept": (
            lambda s: problem.cold(THREE, 3, 88, 20, s, exchange=True),
            ON_LADDER,
        ),
        "stationary, 4 chains x 2 steps": (lambda s: problem.stationary(4, 2, s), AT_TOP),
        "stationary, 4 chains x 5 steps": (lambda s: problem.stationary(4, 5, s), AT_TOP),
        "stationary, 4 chains x 10 steps": (lambda s: problem.stationary(4, 10, s), AT_TOP),
        "stationary, 8 chains x 20 steps": (lambda s: problem.stationary(8, 20, s), AT_TOP),
    }
    for title, (draw, rules) in draws.items():
        print(title)
        record[title] = problem.errors(draw, rules, arguments.repeats)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
