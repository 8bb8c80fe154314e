"""Persistent prior chains against the short-run prior: whether they settle, the distance of samples, and the time.

    python benchmarks/prior.py mnist-5k --seeds 0 1 2 --out prior-runs

Each preset is trained as it stands and with `SHORT_RUN`, the published kind of prior at the rates it had before, for
equal generator evaluations. A run that is done is measured, not trained again. The table is in docs/validation.md.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thermograd.config.resolve import resolve
from thermograd.evaluation.evaluate import evaluate_run
from thermograd.evaluation.settings import EvaluationSettings
from thermograd.runs.metrics import read_metrics
from thermograd.runs.run import load_run
from thermograd.runs.train import train_run

SHORT_RUN: dict[str, Any] = {
    "prior_chains.kernel": "ula",
    "prior_chains.start": "base",
    "prior_chains.num_steps": 60,
    "prior_chains.num_updates": 1,
    "prior_chains.num_chains": None,
    "prior_chains.step_size": 0.4,
    "optimiser.prior_lr": 2e-4,
    "optimiser.generator_lr": 1e-3,
    "optimiser.ema_decay": None,
}
DEMO: dict[str, Any] = {
    "model.latent_dim": 16,
    "model.energy.hidden": [100, 100],
    "model.generator.kind": "dense",
    "model.generator.widths": [128, 256],
    "posterior_chains.kernel": "mala",
    "posterior_chains.num_steps": 2,
    "optimiser.generator_lr": 3e-3,
    "training.num_epochs": 30,
    "training.batch_size": 100,
}
"""The vanilla arm of the demo study, on top of `mnist-5k`; its short-run prior had 40 steps."""
DEMO_SHORT: dict[str, Any] = {"prior_chains.num_steps": 40}
HEADINGS = (
    "run",
    "prior",
    "seed",
    "E posterior",
    *(f"E at {n}" for n in (40, 200, 1000)),
    "contrast",
    "verdict",
    "own samples",
    *(f"at {n}" for n in (40, 200, 1000)),
    "decoded posterior, train",
    "log p(x)",
    "ms per step",
)


def measure(
    name: str, prior: str, seed: int, epochs: int | None, num_evidence: int, out: Path
) -> dict[str, Any]:
    """Train and evaluate one run, and return its row."""
    overrides: dict[str, Any] = {"seed": seed} | (DEMO if name == "demo" else {})
    if prior == "short-run":
        overrides |= SHORT_RUN | (DEMO_SHORT if name == "demo" else {})
    if epochs is not None:
        overrides["training.num_epochs"] = epochs
    overrides["training.pictures_every"] = 10**6
    config, requested = resolve("mnist-5k" if name == "demo" else name, overrides=overrides)
    folder = out / f"{name}-{prior}-{seed}"
    train_run(config, folder, requested=requested)
    record = evaluate_run(load_run(folder), EvaluationSettings(num_images=500, num_evidence=num_evidence))
    found, quantities = record.values["prior"], record.values["quantities"]
    parts = {(each["images"], each["num_steps"]): each for each in found["distances"]}
    own = next(
        each for each in record.values["distances"] if each["distance"] == "frechet" and not each["is_floor"]
    )
    seconds = sorted(each["seconds"] for each in read_metrics(folder) if each["kind"] == "train")
    energies = {mark["num_steps"]: mark for mark in found["marks"]}
    return {
        "run": name,
        "prior": prior,
        "seed": seed,
        "E posterior": f"{found['energy_posterior']:.2f}",
        **{f"E at {n}": _pm(mark["energy"], mark["standard_error"]) for n, mark in energies.items()},
        "contrast": _pm(found["contrast"], found["contrast_error"]),
        "verdict": found["verdict"],
        "own samples": _pm(own["value"], own["standard_error"]),
        **{f"at {n}": _pm(*_value(parts["prior", n])) for n in energies},
        "decoded posterior, train": _pm(*_value(parts["posterior-train", None])),
        "log p(x)": f"{quantities['log_evidence']['value']:.1f}" if "log_evidence" in quantities else "",
        "ms per step": f"{1e3 * seconds[len(seconds) // 2]:.0f}",
    }


def _value(distance: dict[str, Any]) -> tuple[float, float]:
    return distance["value"], distance["standard_error"]


def _pm(value: float, error: float) -> str:
    return f"{value:.2f} ± {error:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row of a Markdown table per run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="presets, or demo")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="fewer than the preset's, on both sides")
    parser.add_argument("--evidence", type=int, default=16, help="test images whose log p(x) is estimated")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    asked = parser.parse_args(arguments)
    print("| " + " | ".join(HEADINGS) + " |\n|" + "---|" * len(HEADINGS))
    for name in asked.names:
        for seed in asked.seeds:
            for prior in ("short-run", "persistent"):
                row = measure(name, prior, seed, asked.epochs, asked.evidence, asked.out)
                print("| " + " | ".join(str(row[heading]) for heading in HEADINGS) + " |", flush=True)
                with (asked.out / "rows.jsonl").open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
