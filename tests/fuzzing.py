"""A fuzzer over everything that is read: whatever a file holds, the answer is a result or one line.

`tests/test_fuzz.py` runs a bounded number of inputs, the same at each time. By hand, for longer and with other seeds:

    python tests/fuzzing.py --seed 1 --minutes 5
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from PIL import Image

from thermograd.config.resolve import resolve
from thermograd.data import load_user_images
from thermograd.errors import InputError, RunError
from thermograd.runs.checkpoint import load_last
from thermograd.runs.folder import read_config, read_environment
from thermograd.runs.metrics import read_metrics
from thermograd.study.clusters import read_cluster_file
from thermograd.study.file import parse_study, read_study_file
from thermograd.study.folder import make_study, open_study
from thermograd.study.plan import plan_runs
from thermograd.study.results import load_study
from thermograd.study.status import study_status
from thermograd.study.work import work

Case = tuple[str, list[bytes], Callable[[Path, bytes], object]]
NASTY = [
    *rb"null true [] {} *a -1 0 1e400 .nan 1:30 2001-99-99 ../../etc/passwd } ] ' NaN".split(),
    *b'!!int\tx;!!python/name:os.system;<<: 1;&a [*a];: ;";\0;\r\n;\t;\xff\xfe;\x1b[31m;\xc3\xa9\xe2\x80\xae'.split(
        b";"
    ),
    *(
        b"",
        b"\n",
        b"[" * 300,
        b"{a: " * 100,
        b"9" * 5000,
        b"0x" + b"f" * 5000,
        b"x" * 100_000,
        b'{"kind": 1}',
    ),
    b"a: &a [1,1,1,1]\nb: [*a,*a,*a]\n",
]
edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.sampled_from(NASTY) | st.binary(max_size=4)),
    min_size=1,
    max_size=3,
)
"""Where, how many bytes go, and what comes in their place."""


def mutated(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """Return bytes with some cut out and others put in."""
    for place, length, new in changes:
        i = int(place * len(content))
        content = content[:i] + new + content[i + length :]
    return content


def answer(read: Callable[[Path, bytes], object], folder: Path, content: bytes) -> None:
    """Read, and let a refusal in words pass; everything else is a fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read(folder, content)
        except (InputError, RunError) as error:
            words = str(error)
        else:
            return
    assert words.strip(), "a refusal without a word"


# --- what is read ---


def with_file(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    """Return a reader of bytes that writes them into a file first."""

    def written(folder: Path, content: bytes) -> object:
        (folder / name).write_bytes(content)
        return read(folder / name)

    return written


def in_study(pattern: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    """Return a reader of a study in which the first file of a pattern is replaced, and put back after."""

    def replaced(folder: Path, content: bytes) -> object:
        file = sorted((folder / "study").glob(pattern))[0]
        before = file.read_bytes()
        file.write_bytes(content)
        try:
            return read(folder / "study")
        finally:
            file.write_bytes(before)

    return replaced


def read_run(study: Path) -> object:
    """Read every file of a study's run as its verbs do."""
    (run,) = (study / "runs").iterdir()
    read_environment(run)
    read_metrics(run)
    read_config(run)
    return load_last(run / "checkpoints")


def read_results(study: Path) -> object:
    """Read a study as `status`, `query` and `report` do."""
    return study_status(open_study(study)), load_study(study)


def override(folder: Path, content: bytes) -> object:
    """Read a setting from a command line."""
    name, _, text = content.decode("utf-8", "replace").partition("=")
    return resolve("digits", words={name: text})


def make_study_folder(folder: Path) -> None:
    """Make a study of one tiny run, done and measured."""
    quick = {
        "training.num_epochs": 1,
        "training.batch_size": 8,
        "training.pictures_every": 99,
        "data.num_images": 32,
    }
    small = {"model.energy.hidden": [4], "model.generator.widths": [4], "model.latent_dim": 2}
    measure = {"every": "none", "extractor": "none", "num_samples": 4, "num_images": 4, "num_batches": 3}
    steps = {"prior_chains.num_steps": 1, "posterior_chains.num_steps": 1}
    described = {"name": "fuzz", "preset": "digits", "overrides": {**quick, **small, **steps}, "seeds": 1}
    study = parse_study({**described, "arms": {"vanilla": {"ready": "vanilla"}}, "measure": measure})
    opened = make_study(study, folder / "study")
    work(opened, opened.runs[0].identity)


def cases(folder: Path) -> Iterator[Case]:
    """Yield each kind of input: its name, whole examples and what reads it.

    Args:
        folder: with what `make_study_folder` made.
    """
    config = resolve("digits")[0].to_yaml().encode()
    yield "config", [config], with_file("c.yaml", lambda file: resolve("digits", file=file))
    values = (
        "model.noise_std=0.3",
        "model.energy.hidden=[8, 8]",
        "data.name=digits",
        "optimiser.betas=[0, 0.9]",
    )
    yield "overrides", [value.encode() for value in values], override
    study = yaml.safe_dump(json.loads((folder / "study/study.json").read_text())["study"]).encode()
    yield "study", [study], with_file("s.yaml", lambda file: plan_runs(read_study_file(file)))
    cluster = b"class: SLURMCluster\nnum_workers: 2\noptions: {cores: 1, memory: 1GB, queue: x}\n"
    yield "cluster", [cluster], with_file("k.yaml", read_cluster_file)
    yield "data", list(_images(folder)), with_file("images.bin", load_user_images)
    for name, pattern, read in (
        ("checkpoint", "runs/*/checkpoints/step_*/*.safetensors", read_run),
        ("checkpoint state", "runs/*/checkpoints/step_*/state.json", read_run),
        *((f"folder {name}", f"runs/*/{name}", read_run) for name in ("config.yaml", "environment.json")),
        ("folder metrics.jsonl", "runs/*/metrics.jsonl", read_run),
        *(
            (f"results {name}", f"runs/*/{name}", read_results)
            for name in ("measurements.jsonl", "status.json")
        ),
        ("results metrics.jsonl", "runs/*/metrics.jsonl", read_results),
        ("results study.json", "study.json", read_results),
    ):
        file = sorted((folder / "study").glob(pattern))[0]
        yield name, [file.read_bytes()], in_study(pattern, read)


def _images(folder: Path) -> Iterator[bytes]:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8)).astype("u1")
    file = folder / "whole"
    np.save(folder / "whole.npy", images)
    yield (folder / "whole.npy").read_bytes()
    np.savez_compressed(folder / "whole.npz", x_train=images, x_test=images, y_train=np.arange(12))
    yield (folder / "whole.npz").read_bytes()
    with h5py.File(file, "w") as stored:
        stored.create_dataset("images", data=images, compression="gzip")
    yield file.read_bytes()
    Image.fromarray(images[0]).save(file, "PNG")
    yield file.read_bytes()


def property_of(case: Case, folder: Path, num: int, seed: int | None = None) -> Callable[[], Any]:
    """Return a test of `num` inputs of one kind: the same at each time, or those of a seed."""
    _, examples, read = case

    @settings(
        max_examples=num,
        derandomize=seed is None,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(examples), edits)
    def run(whole: bytes, changes: list[tuple[float, int, bytes]]) -> None:
        answer(read, folder, mutated(whole, changes))

    return run if seed is None else seeded(seed)(run)


def main() -> None:
    """Fuzz for some minutes with a seed, kind after kind, and then with the next seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--only", help="kinds whose names begin with this")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="thermograd-fuzz-"))
    make_study_folder(folder)
    until, seed, faults, num = time.monotonic() + 60 * chosen.minutes, chosen.seed, 0, 50
    while time.monotonic() < until:
        for case in cases(folder):
            if time.monotonic() > until or not case[0].startswith(chosen.only or ""):
                continue
            try:
                property_of(case, folder, num, seed)()
                told = "holds"
            except Exception as error:
                faults += 1
                told = f"FAULT {type(error).__name__}: {error}"[:2000]
            print(f"seed {seed}, {case[0]}, {num} inputs: {told}", flush=True)
        seed += 1
    shutil.rmtree(folder)
    print(f"{faults} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
