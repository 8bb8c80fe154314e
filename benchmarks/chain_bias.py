"""Bias of persistent chains against evaluations per visit: one step size, one per image, and covariances.

    python benchmarks/chain_bias.py --steps 1 2 5 20        # about an hour on one core; rows are printed when done

For each row the vanilla arm of the study `variance-and-quality` is trained, and beside its chains a second set visits
the same batches at the same weights and moves nothing. With g_1, g_2 the generator's gradients of a block of images by
the two sets after one visit more, and ∇ the reference, (g_1 - ∇)·(g_2 - ∇) averages to the squared bias of such chains
whatever their noise: the two share weights and images and no randomness.
"""

import argparse
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thermograd.config.resolve import resolve
from thermograd.config.schema import RunConfig
from thermograd.data import ImageDataset, batch_order
from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.reference import Reference, ReferenceSettings, reference_gradient
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES, compute_weights
from thermograd.models.latent_ebm import LatentEBM
from thermograd.streams import stream
from thermograd.training.builder import batch_images, build_model, load_data
from thermograd.training.chains import Chains
from thermograd.training.trainer import Trainer

BLOCK = 16
"""Images per gradient."""
FROZEN = 1e-3
"""Mean acceptance over `FROZEN_STEPS` further steps below which a chain counts as frozen."""
FROZEN_STEPS = 30
ARMS: dict[str, dict[str, Any]] = {
    "common": {"posterior_chains.image_gain": 0.0, "posterior_chains.restart_after": None},
    "per image": {},
    "covariance": {"posterior_chains.precondition": "secant"},
}


def vanilla(num_steps: int, seed: int, num_images: int, num_epochs: int, arm: str) -> RunConfig:
    """Return the study's vanilla arm with another number of steps per visit."""
    overrides: dict[str, Any] = {
        "seed": seed,
        "data.num_images": num_images,
        "model.latent_dim": 16,
        "model.energy.hidden": [100, 100],
        "model.generator": {"kind": "dense", "widths": [128, 256]},
        "prior_chains": {"num_steps": 40},
        "posterior_chains.kernel": "mala",
        "posterior_chains.start": "persistent",
        "posterior_chains.num_steps": num_steps,
        "training.num_epochs": num_epochs,
        "training.batch_size": 100,
        "compute.num_threads": 1,
    }
    return resolve("mnist", overrides=overrides | ARMS[arm])[0]


@dataclass
class Trained:
    """A model with the chains that trained it and those that were beside it."""

    config: RunConfig
    data: ImageDataset
    model: LatentEBM
    sets: tuple[Chains, Chains]
    seconds: float
    restarted: float


def train(config: RunConfig) -> Trained:
    """Train, with a second set of chains that sees what the first sees."""
    data, model = load_data(config), build_model(config)
    trainer = Trainer(config, model, len(data))
    beside = Chains(config.model_copy(update={"chain_stream": 1}), model, len(data))
    seconds = restarted = 0.0
    step = 0
    for epoch in range(config.training.num_epochs):
        for row in batch_order(len(data), config.training.batch_size, config.seed, epoch):
            x, index = batch_images(config, data, row, epoch, trainer.device), torch.from_numpy(row)
            beside.keep(model, x, beside.draw(model, x, index, step), index, step)
            begun = time.process_time()
            record = trainer.step(x, index, step, epoch)
            seconds += time.process_time() - begun
            restarted = record["restarted_chains"]
            step += 1
    return Trained(config, data, model, (trainer.chains, beside), seconds / step, restarted)


def frozen_share(trained: Trained) -> float:
    """Return the share of all stored chains that do not move at the weights and step sizes as they stand."""
    found = []
    for chains in trained.sets:
        assert chains.stored is not None
        for index in torch.arange(len(trained.data)).split(1000):
            x = batch_images(trained.config, trained.data, index.numpy(), 0, chains.device)
            sampler, generator = chains.sampler(index), stream(0, "frozen", int(index[0]))
            state = sampler.start(trained.model, x, generator, chains.stored[index].permute(1, 2, 0, 3))
            prior = trained.model.sample_base((1,), generator)
            _, info = sampler.run(trained.model, x, state, FROZEN_STEPS, generator, prior)
            found.append(info.acceptance[-1] < FROZEN)
    return float(torch.cat(found).double().mean())


def visit(trained: Trained, chains: Chains, index: Tensor, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Return the generator's gradient after one visit more, and l at its chains (B,)."""
    draws = chains.draw(trained.model, x, index, step, "bias-")
    weights = compute_weights(draws.ladder, ESTIMATORS["maximum-likelihood"], PRIOR_RULES["contrast"])
    gradient = learning_gradient(trained.model, x, draws.ladder, weights, trained.config.compute.chunk_size)
    return flat(trained.model, gradient), draws.ladder.log_likelihood[-1].mean(0)


def flat(model: LatentEBM, gradient: dict[str, Tensor]) -> Tensor:
    """Return the generator's part of a gradient as one vector."""
    return torch.cat([gradient[name].flatten() for name in model.parameter_groups()["generator"]]).double()


def measure(trained: Trained, num_blocks: int, num_visits: int = 4) -> dict[str, float]:
    """Return the row of a table: shares, biases relative to the gradient's length, nats."""
    names = trained.model.parameter_groups()["generator"]
    rows, lags, references = [], [], []
    for b in range(num_blocks):
        index = torch.arange(b * BLOCK, (b + 1) * BLOCK)
        x = batch_images(trained.config, trained.data, index.numpy(), 0, trained.sets[0].device)
        reference = reference_gradient(
            trained.model,
            x,
            stream(0, "reference", b),
            ReferenceSettings(),
            trained.config.compute.chunk_size,
        )
        references.append(reference)
        truth = flat(trained.model, reference.gradient)
        own = sum(reference.squared_error[name] for name in names)
        visits = [[visit(trained, each, index, x, v) for v in range(num_visits)] for each in trained.sets]
        first, second = ([gradient - truth for gradient, _ in each] for each in visits)
        product = torch.stack(first).mean(0) @ torch.stack(second).mean(0)
        error = torch.stack(first + second).square().sum(1).mean()
        one = sum(reference.draw_variance[name] for name in names)
        rows.append([float(v) for v in (product - own, error - own, one, truth @ truth - own)])
        lags += [found - reference.expected_log_likelihood for each in visits for _, found in each]
    bias, error, one, length = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    lag = torch.cat(lags).view(num_blocks, 2 * num_visits, BLOCK).mean(1).flatten().double()
    return {
        "bias": math.copysign(math.sqrt(abs(bias) / length), bias),
        "rms": math.sqrt(error / length),
        "exact": math.sqrt(one / length),
        "lag": float(lag.mean()),
        "lag_error": float(lag.std()) / math.sqrt(len(lag)),
        **_convergence(references),
    }


def _convergence(references: list[Reference]) -> dict[str, float]:
    values = torch.cat([each.r_hat for each in references])
    return {"r_hat": float(values.median()), "above": float((values > 1.05).double().mean())}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 5, 20])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--blocks", type=int, default=4, help=f"of {BLOCK} images that are measured")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| steps | evaluations | step sizes | frozen | began anew | l - E_1[l], nats | bias | error of one visit | "
        "exact draw | R-hat of the reference: median, share above 1.05 | ms of CPU per step |\n"
        + "|---" * 11
        + "|"
    )
    for num_steps in asked.steps:
        for arm in asked.arms:
            trained = train(vanilla(num_steps, asked.seed, asked.images, asked.epochs, arm))
            found = measure(trained, asked.blocks)
            print(
                f"| {num_steps} | {num_steps + 1} | {arm} | {frozen_share(trained):.2%} | {trained.restarted:.0f} | "
                f"{found['lag']:.1f} ± {found['lag_error']:.1f} | {found['bias']:.3f} | {found['rms']:.3f} | "
                f"{found['exact']:.3f} | {found['r_hat']:.3f}, {found['above']:.0%} | {1000 * trained.seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
