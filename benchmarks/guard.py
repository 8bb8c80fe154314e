"""Print the sha256 of weights and training state of four short runs, to see whether a change moved a number.

    python benchmarks/guard.py > before.txt;  change the code;  python benchmarks/guard.py | diff before.txt -

Most of the code takes part in them: vanilla ULA from the base distribution; a ladder with persistent MALA chains and a
schedule of equal length; the noise dial; and bfloat16. Hashes depend on the processor, so none is kept.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

COMMON = {
    "training.num_epochs": "2",
    "data.num_images": "400",
    "compute.num_threads": "1",
    "compute.device": "cpu",
}
MALA = {
    "posterior_chains.kernel": "mala",
    "posterior_chains.start": "persistent",
    "posterior_chains.num_steps": "3",
}
RUNS: dict[str, dict[str, str]] = {
    "vanilla": {},
    "ladder": {
        **MALA,
        "prior_chains.kernel": "mala",
        "prior_chains.start": "persistent",
        "gradient.estimator": "thermodynamic-complete",
        "gradient.num_rungs": "4",
        "gradient.num_chains": "2",
        "gradient.schedule.kind": "equal-length",
        "gradient.schedule.adapt_every": "3",
        "optimiser.ema_decay": "0.9",
    },
    "dial": {**MALA, "gradient.noise_multiplier": "2", "gradient.clean_second_moments": "true"},
    "bfloat16": {"compute.precision": "bfloat16-mixed"},
}


def digest(folder: Path) -> str:
    """Return one hash of the tensors of the last checkpoint, by name and bytes, so that file headers do not count."""
    from safetensors.torch import load_file

    found = hashlib.sha256()
    for file in sorted((folder / "checkpoints" / "last").glob("*.safetensors")):
        for name, tensor in sorted(load_file(file).items()):
            found.update(f"{file.name}/{name}/{tuple(tensor.shape)}".encode())
            found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        for name, settings in RUNS.items():
            folder = Path(work) / name
            words = [word for key, value in (COMMON | settings).items() for word in (f"--{key}", value)]
            preset = "mnist-5k" if name == "bfloat16" else "digits"
            command = [sys.executable, "-m", "thermograd", "train", preset, "--out", str(folder), *words]
            subprocess.run(command, check=True, capture_output=True)
            print(f"{name:10} {digest(folder)}", flush=True)


if __name__ == "__main__":
    main()
