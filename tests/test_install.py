"""What an installation needs: the core works without any extra, and what lacks one says in a line which."""

import runpy
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

import thermograd as tg
from thermograd.cli import run as command
from thermograd.errors import EXTRAS, import_extra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {Requirement(each).name for each in requirements}


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the packages of every extra impossible to import."""
    for module in [name for name in sys.modules if name.split(".")[0] in EXTRAS]:
        monkeypatch.delitem(sys.modules, module)
    for package in EXTRAS:
        monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize(("package", "extra"), EXTRAS.items())
def test_each_extra_brings_its_package(package: str, extra: str):
    brought = names(PROJECT["optional-dependencies"][extra])
    assert ("dask" if package == "distributed" else package) in brought
    assert package not in names(PROJECT["dependencies"])


@pytest.mark.usefixtures("bare")
def test_the_core_trains_samples_and_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images = np.random.default_rng(0).integers(0, 256, (160, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "mine.npy", images)
    run, data = str(tmp_path / "run"), str(tmp_path / "mine.npy")
    assert command(["train", "digits", "--data", data, "--epochs", "1", "--no-measure", "--out", run]) == 0
    assert command(["sample", run, "--num", "4", "--out", str(tmp_path / "s.npz")]) == 0
    assert command(["export", run, "--out", str(tmp_path / "shared")]) == 0
    assert tg.load_pretrained(tmp_path / "shared").sample(2).images.shape == (2, 1, 8, 8)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("words", [["study", "run", "quick", "--out", "OUT"], ["report", "OUT"]])
def test_what_needs_an_extra_says_which(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    code = command([str(out) if word == "OUT" else word for word in words])
    said = capsys.readouterr().err.splitlines()
    assert code == 2
    if words[0] == "study":
        assert said[-1] == "thermograd: distributed is not installed: pip install 'thermograd[studies]'."
        assert not out.exists()


@pytest.mark.usefixtures("bare")
def test_tables_and_hdf5_say_which_extra(tmp_path: Path):
    with pytest.raises(
        tg.InputError, match=r"^pandas is not installed: pip install 'thermograd\[tables\]'\.$"
    ):
        import_extra("pandas")
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(tg.InputError, match=r"^h5py is not installed: pip install 'thermograd\[hdf5\]'\.$"):
        tg.load_dataset(tmp_path / "x.h5")


def test_an_error_inside_a_package_is_not_called_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delitem(sys.modules, "h5py", raising=False)
    (tmp_path / "h5py.py").write_text("import no_such_package_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
        import_extra("h5py")
    sys.modules.pop("h5py", None)


def test_a_release_needs_one_version_everywhere(tmp_path: Path):
    section = runpy.run_path(str(ROOT / ".ci" / "release.py"))["section"]
    for file in ("CITATION.cff", "src/thermograd/version.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\nnew\n\n## 0.1.0 (2026)\n\nfirst\n\n## 0.0.1\n\nold\n"
    )
    assert section(tg.__version__, tmp_path) == "first"
    with pytest.raises(SystemExit, match=r"version\.py has version .*, not 9\.9"):
        section("9.9", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\nnew\n")
    with pytest.raises(SystemExit, match="has no section"):
        section(tg.__version__, tmp_path)
