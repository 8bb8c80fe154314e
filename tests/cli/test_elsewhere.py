"""What colleagues can read, and what is measured of a run that cannot be written to."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from thermograd import cli
from thermograd.config.schema import RunConfig
from thermograd.evaluation.records import read_records
from thermograd.runs.train import train_run

MakeConfig = Callable[..., RunConfig]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tiny_config: MakeConfig, tmp_path: Path) -> Path:
    train_run(tiny_config({"training.num_epochs": 1}), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_every_file_of_a_run_has_the_mode_of_the_umask(umask: int, tiny_config: MakeConfig, tmp_path: Path):
    before = os.umask(umask)
    try:
        train_run(tiny_config({"training.num_epochs": 1, "optimiser.ema_decay": 0.9}), tmp_path / "run")
        assert cli.run(["sample", str(tmp_path / "run"), "--num", "2", "--out", str(tmp_path / "s")]) == 0
    finally:
        os.umask(before)
    for path in [*(tmp_path / "run").rglob("*"), *(tmp_path / "s").rglob("*"), tmp_path / "s"]:
        if not path.is_symlink() and path.name != ".lock":
            whole = 0o777 if path.is_dir() else 0o666
            assert stat.S_IMODE(path.stat().st_mode) == whole & ~umask, path


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--distance", "none", "--evidence", "0", "--num", "4", "--num-samples", "8"],
        [
            "variance",
            "--no-reference",
            "--batches",
            "3",
            "--repeats",
            "2",
            "--estimator",
            "maximum-likelihood",
        ],
    ],
)
def test_a_run_that_cannot_be_written_to_is_measured_elsewhere(
    words: list[str],
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK or Path(path) != run)
    before = tree(run)
    verb, *options = words
    assert cli.run([verb, str(run), *options]) == 2
    assert (
        "cannot be written to; name another folder for what is measured by --out" in capsys.readouterr().err
    )
    assert cli.run([verb, str(run), *options, "--out", str(tmp_path / "mine")]) == 0
    assert len(read_records(tmp_path / "mine")) == 1
    assert tree(run) == before


@pytest.mark.parametrize("name", ["run/config.yaml/x.npy", "run/config.yaml/deep/folder"])
def test_a_file_is_no_folder_for_samples(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert cli.run(["sample", str(run), "--out", str(tmp_path / name)]) == 2
    assert "config.yaml is a file, not a folder." in capsys.readouterr().err
