"""Error of log p(x) against evaluations on the closed-form twin, beside BlackJAX's adaptive tempered SMC.

The two run in environments of their own:

    python benchmarks/evidence_blackjax.py twin.json                # here: the twin, the truth, our errors
    other-env/bin/python benchmarks/evidence_blackjax.py twin.json  # where `blackjax` is installed

An evaluation is the log-likelihood with its gradient for one image and latent. BlackJAX gets the best of three
step sizes in hindsight; ours runs with its defaults but for the number of steps.
"""

import json
import statistics
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LATENT_DIM, NUM_PIXELS, NOISE_STD, NUM_IMAGES, NUM_REPEATS = 16, 256, 0.3, 16, 4


def main() -> None:
    file = Path(sys.argv[1])
    if find_spec("blackjax") is None:
        file.write_text(json.dumps(measure_ours()))
    else:
        twin = json.loads(file.read_text())
        twin["blackjax"] = measure_blackjax(twin)
        file.write_text(json.dumps(twin))


def measure_ours() -> dict[str, Any]:
    """Return the twin as lists, the exact log p(x) and our errors."""
    import torch

    from thermograd.evidence import EvidenceSettings, estimate_evidence
    from thermograd.models.linear_gaussian import LinearGaussian

    torch.set_num_threads(1)
    twin = LinearGaussian.random(LATENT_DIM, NUM_PIXELS, NOISE_STD, 0.08, seed=0)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(NUM_IMAGES, LATENT_DIM, generator=generator, dtype=torch.float64)
    noise = torch.randn(NUM_IMAGES, NUM_PIXELS, generator=generator, dtype=torch.float64)
    x = (z @ twin.weight.mT + NOISE_STD * noise).detach()
    truth = twin.log_power_evidence(x, 1.0).detach()
    rows = []
    for num_evaluations in (1000, 2000, 4000, 8000):
        errors, cost = [], 0.0
        for seed in range(NUM_REPEATS):
            settings = EvidenceSettings(method="thermodynamic", num_evaluations=num_evaluations, num_rungs=10)
            found = estimate_evidence(twin, x, settings, generator=torch.Generator().manual_seed(seed))
            errors += (found.log_evidence - truth).abs().tolist()
            cost = found.num_evaluations
        rows.append({"evaluations": cost, "mean_absolute_error": statistics.mean(errors)})
        print(rows[-1], flush=True)
    return {"weight": twin.weight.tolist(), "x": x.tolist(), "truth": truth.tolist(), "ours": rows}


def measure_blackjax(twin: dict[str, Any]) -> list[dict[str, float]]:
    """Return the errors of adaptive tempered SMC with MALA moves, for several sizes and step sizes."""
    import jax

    jax.config.update("jax_enable_x64", True)
    rows = []
    for particles, num_steps in ((32, 3), (64, 6), (256, 3)):
        for step_size in (0.05, 0.08, 0.12):  # BlackJAX's, h^2/2 in ours
            error, cost = run_blackjax(twin, particles, num_steps, step_size)
            rows.append(
                {
                    "particles": particles,
                    "steps": num_steps,
                    "step_size": step_size,
                    "evaluations": cost,
                    "mean_absolute_error": error,
                }
            )
            print(rows[-1], flush=True)
    return rows


def run_blackjax(
    twin: dict[str, Any], num_particles: int, num_steps: int, step_size: float
) -> tuple[float, float]:
    """Return the mean absolute error over images and repeats, and evaluations per image."""
    import blackjax
    import blackjax.smc.resampling as resampling
    import jax
    import jax.numpy as jnp

    weight, images, truth = (jnp.array(twin[name]) for name in ("weight", "x", "truth"))
    constant = NUM_PIXELS / 2 * jnp.log(2 * jnp.pi * NOISE_STD**2)
    moves = {"step_size": jnp.array([step_size])}

    def estimate(x: Any, key: Any) -> tuple[Any, Any]:
        smc = blackjax.adaptive_tempered_smc(
            lambda z: -(z**2).sum() / 2 - LATENT_DIM / 2 * jnp.log(2 * jnp.pi),
            lambda z: -((x - weight @ z) ** 2).sum() / (2 * NOISE_STD**2) - constant,
            blackjax.mala.build_kernel(),
            blackjax.mala.init,
            moves,
            resampling.systematic,
            0.5,
            num_mcmc_steps=num_steps,
        )
        key, start = jax.random.split(key)
        state = smc.init(jax.random.normal(start, (num_particles, LATENT_DIM)))

        def unfinished(carry: Any) -> Any:
            return carry[0].tempering_param < 1

        def temper(carry: Any) -> Any:
            state, total, key, count = carry
            key, step_key = jax.random.split(key)
            state, info = smc.step(step_key, state)
            return state, total + info.log_likelihood_increment, key, count + 1

        _, total, _, count = jax.lax.while_loop(unfinished, temper, (state, 0.0, key, 0))
        return total, count

    keys = jax.random.split(jax.random.PRNGKey(0), NUM_REPEATS * len(images)).reshape(
        NUM_REPEATS, len(images), -1
    )
    found, count = jax.jit(jax.vmap(jax.vmap(estimate), (None, 0)))(images, keys)
    evaluations = num_particles * (num_steps + 1) * count.mean()  # moves begin with an evaluation
    return float(jnp.abs(found - truth).mean()), float(evaluations)


if __name__ == "__main__":
    main()
