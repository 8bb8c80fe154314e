"""One command for every number of docs/performance.md: `make bench`, or `python benchmarks/bench.py --full`.

Times are CPU seconds of one thread, in interleaved rounds; ratios are medians over rounds with their extremes. On a GPU
(`--device cuda --only machine training complete`) they are seconds on a clock.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accuracy import bfloat16_of_run, gradient_errors, make_run
from steps import (
    DENSE,
    LADDER,
    MULTISTATE,
    STEIN,
    compare,
    compare_complete,
    multiply_adds,
    our_step,
    share_of_weights,
)
from timing import Times, matmul_rates, race_apart

from thermograd.config.resolve import resolve
from thermograd.machine import peak_memory

CASES = [("mnist", 128, False), ("svhn", 100, False), ("mnist", 128, True), ("svhn", 10, True)]
"""Preset, batch size, ladder; the SVHN ladder has a small batch, since its plain loop takes a minute otherwise."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="more rounds and repeats")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"))
    parser.add_argument(
        "--run", type=Path, help="a trained run for the gradient's errors; else one is trained"
    )
    parser.add_argument(
        "--only",
        nargs="*",
        choices=SECTIONS,
        default=[name for name in SECTIONS if name != "bfloat16"],
        help="sections to run; bfloat16 needs --run",
    )
    parser.add_argument("--device", default="cpu", help="of machine, training and complete; e.g. cuda")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        print(json.dumps(measure_memory(json.loads(arguments.memory_of))))
        return
    record: dict[str, Any] = {"torch": torch.__version__, "load": os.getloadavg(), "full": arguments.full}
    for name in arguments.only:
        begin = time.time()
        record[name] = SECTIONS[name](arguments)
        record[name]["seconds"] = time.time() - begin
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1))
    print(f"written to {arguments.out}")


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    rates = matmul_rates(arguments.device)
    print(
        f"matrix products, 1e9 operations/s: {', '.join(f'{k} {v:.0f}' for k, v in rates.items())}",
        flush=True,
    )
    return {"rates": rates}


def training(arguments: argparse.Namespace) -> dict[str, Any]:
    """Race training steps, and say what share of the matrix-product rate the whole step reaches."""
    rates = matmul_rates(arguments.device)
    found = {}
    for preset, batch_size, ladder in CASES:
        times = compare(preset, batch_size, 9 if arguments.full else 3, ladder, arguments.device)
        title = f"{preset} {'ladder N=10' if ladder else 'vanilla'}, batch {batch_size}"
        found[title] = describe(times, title)
        config, _ = resolve(preset)
        chains = 10 if ladder else 1  # the lowest rung runs none
        # An evaluation with score takes two products a layer, the last of a chain one, the learning gradient three.
        products = (2 * 20 + 1) * chains + 3 * (chains + ladder) + ladder
        operations = 2 * multiply_adds(config) * batch_size * products
        for precision in ("float32", "bfloat16-mixed"):
            known = [rate for name, rate in rates.items() if name.startswith(precision.split("-")[0])]
            share = operations / times.median(precision) / 1e9 / max(known)
            found[title][f"share {precision}"] = share
            print(f"    {precision}: {share:.0%} of the matrix-product rate")
    return found


def complete(arguments: argparse.Namespace) -> dict[str, Any]:
    """Race complete ladders of 11 rungs, 2 chains and one step per rung against the plain loop's vanilla step."""
    found = {}
    for preset, batch_size in (("mnist", 128), ("svhn", 100 if arguments.full else 20)):
        times = compare_complete(preset, batch_size, 5 if arguments.full else 2, arguments.device)
        title = f"{preset} complete 11 rungs, 2 chains, 1 step, batch {batch_size}"
        found[title] = describe(times, title)
    return found


def weights(arguments: argparse.Namespace) -> dict[str, Any]:
    """Say what share of a training step the weights of `maximum-likelihood-stein` and `multistate` take."""
    found = {}
    for network, extra in (("dense", DENSE), ("conv", {})):
        cases = {"Stein, 4 chains x 5 steps": STEIN}
        cases |= {
            f"multistate, {k} rungs x 2 chains": MULTISTATE | {"gradient.num_rungs": k} for k in (4, 11)
        }
        for name, case in cases.items():
            times = share_of_weights("mnist-5k", extra | case, 30 if arguments.full else 8)
            share = times.ratio("weights", "step")
            found[f"{network}, {name}"] = share
            print(f"    {network}, {name:32} {share[0]:.1%} ({share[1]:.1%} to {share[2]:.1%})", flush=True)
    return found


def describe(times: Times, title: str) -> dict[str, Any]:
    """Print and return medians, and ratios to the plain loop."""
    print(title, flush=True)
    found: dict[str, Any] = {}
    for name in times.seconds:
        ratio = times.ratio("plain", name)
        found[name] = {"median_seconds": times.median(name), "plain_over_this": ratio}
        print(
            f"    {name:22} {times.median(name):8.3f} s   x{ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f})"
        )
    return found


def scaling(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time a step against batch, rungs, chains, latent size and chunk size, on the MNIST network."""
    ladder = LADDER | {"posterior_chains.num_steps": 2}
    variants: dict[str, tuple[dict[str, Any], int]] = {"vanilla, batch 128": ({}, 128)}
    variants |= {f"vanilla, batch {n}": ({}, n) for n in (32, 512)}
    variants |= {f"ladder of {k}, 2 steps": (ladder | {"gradient.num_rungs": k}, 128) for k in (3, 11, 31)}
    variants |= {f"ladder of 11, {m} chains": (ladder | {"gradient.num_chains": m}, 128) for m in (2, 4)}
    variants |= {f"latent size {d}": ({"model.latent_dim": d}, 128) for d in (8, 128)}
    variants |= {
        f"ladder of 11, chunks of {c}": (ladder | {"compute.chunk_size": c}, 128) for c in (128, 512, 2048)
    }
    contestants = {name: (our_step, ("mnist", extra, n)) for name, (extra, n) in variants.items()}
    times = race_apart(contestants, 3)
    for name in variants:
        print(f"    {name:32} {1e3 * times.median(name):8.1f} ms", flush=True)
    return {name: times.median(name) for name in variants}


def accuracy(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or make_run(Path(folder))
        return gradient_errors(run, 16 if arguments.full else 5)


def bfloat16(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure how far bfloat16 moves a trained run's gradient, of any network."""
    if arguments.run is None:
        raise SystemExit("bench.py: bfloat16 needs --run")
    return bfloat16_of_run(arguments.run, 64 if arguments.full else 20)


MEMORY = [
    {"gradient.num_rungs": 31, "compute.chunk_size": chunk, "posterior_chains.num_steps": 1}
    for chunk in (256, 1024)
]


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the peak of a process that does one step of a ladder with N = 30 on the SVHN network, batch 128."""
    found = {}
    for extra in MEMORY:
        command = [sys.executable, __file__, "--memory-of", json.dumps(extra)]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        peak = json.loads(result.stdout)
        found[f"chunks of {extra['compute.chunk_size']}"] = peak
        print(f"    {peak['peak_gib']:.2f} GiB at chunks of {extra['compute.chunk_size']}", flush=True)
    return found


def measure_memory(extra: dict[str, Any]) -> dict[str, float]:
    """Do one step and return this process's peak; in a process of its own."""
    our_step("svhn", LADDER | extra, 128)()
    return {"peak_gib": peak_memory(torch.device("cpu"))}


def imports(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time fresh processes: torch alone, the package's modules that train, and `--help`; seconds of CPU."""
    programs = {
        "torch": ["-c", "import torch"],
        "thermograd": ["-c", "import thermograd.run"],
        "help": ["-m", "thermograd", "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(5):
        for name, program in programs.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *program], check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    found = {name: statistics.median(each) for name, each in seconds.items()}
    found["beyond torch"] = found["thermograd"] - found["torch"]
    print("    " + ", ".join(f"{name} {value:.2f} s" for name, value in found.items()), flush=True)
    return found


SECTIONS = {
    "machine": machine,
    "training": training,
    "complete": complete,
    "weights": weights,
    "scaling": scaling,
    "accuracy": accuracy,
    "bfloat16": bfloat16,
    "memory": memory,
    "imports": imports,
}

if __name__ == "__main__":
    main()
