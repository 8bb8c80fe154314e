"""Algorithms and networks from a file outside the package: in every verb, in worker processes, and by their hash."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import thermograd as tg
from thermograd import cli
from thermograd.config import names
from thermograd.config.plugins import forget_plugins
from thermograd.config.resolve import resolve
from thermograd.config.schema import RunConfig
from thermograd.errors import InputError
from thermograd.runs.run import load_run
from thermograd.study.file import read_study_file
from thermograd.study.folder import make_study, open_study
from thermograd.study.work import work

MINE = Path(__file__).parent / "plugins" / "mine.py"
OWN: dict[str, Any] = {
    "gradient": {"estimator": "ours", "prior_rule": "half", "schedule": {"kind": "cubes"}},
    "posterior_chains": {"kernel": "random-walk", "num_steps": 2, "step_size": 0.3},
    "prior_chains": {"kernel": "random-walk", "num_steps": 3, "num_updates": 1, "start": "base"},
    "model": {
        "latent_dim": 3,
        "generator": {"kind": "mine.py:Decoder", "options": {"width": 5}},
        "energy": {"kind": "mine.py:Energy"},
    },
    "data": {"num_images": 48},
    "training": {"batch_size": 8, "num_epochs": 1, "pictures_every": 1000},
    "compute": {"num_threads": 1, "device": "cpu"},
    "measure": {"every": None, "extractor": "none", "num_images": 4, "num_samples": 8, "num_batches": 3},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder that holds the user's file and a config file beside it."""
    shutil.copy(MINE, tmp_path / "mine.py")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"plugins": ["mine.py"], **OWN}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def done(*words: Any) -> None:
    """Run a verb as a process of its own would: without what others have loaded."""
    forget_plugins()
    assert cli.run([str(word) for word in words]) == 0


def refused(*words: Any, capsys: pytest.CaptureFixture[str]) -> str:
    forget_plugins()
    capsys.readouterr()
    assert cli.run([str(word) for word in words]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert "defect" not in output.err
    return output.err


@pytest.fixture
def run_folder(here: Path) -> Path:
    done("train", "digits", "--config", "own.yaml", "--out", "run", "--no-measure")
    return here / "run"


def test_every_verb_works_with_them_and_needs_the_file_no_more(
    run_folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    config = yaml.safe_load((run_folder / "config.yaml").read_text())
    assert config["gradient"]["num_chains"] == 2  # what `ours` needs, under a name of the user's choice
    assert config["gradient"]["num_rungs"] == 11  # what the prior rule asks for
    assert (run_folder / "plugins" / "mine.py").read_bytes() == MINE.read_bytes()
    records = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["step_size"] != records[0]["step_size"]  # a kernel of the user's adapts as well
    assert records[0]["inverse_temperature"] == pytest.approx([(k / 10) ** 3 for k in range(11)], abs=1e-6)
    (here / "mine.py").unlink()
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    done("resume", run_folder, "--no-measure")
    done("sample", run_folder, "--num", 4)
    done(
        "evaluate",
        run_folder,
        "--num",
        4,
        "--num-samples",
        8,
        "--evidence",
        2,
        "--distance",
        "none",
        "--no-prior",
    )
    done("evidence", run_folder, "--num", 2, "--evaluations", 300)
    capsys.readouterr()
    small = ["--batches", 3, "--repeats", 2, "--batch-size", 4, "--num-rungs", 3, "--no-reference", "--json"]
    done("variance", run_folder, "--estimator", "ours", "--estimator", "thermodynamic-detached", *small)
    found = json.loads(capsys.readouterr().out)["values"]["estimators"]
    assert list(found) == ["ours", "thermodynamic-detached"]
    done("measure", run_folder, "--num-images", 4)
    forget_plugins()
    run = tg.load_run(run_folder)
    assert type(run.model.generator).__name__ == "Decoder"
    assert run.model.generator.layers[0].out_features == 5
    assert type(run.model.energy_network).__name__ == "Energy"


def test_a_run_begun_without_a_plugin_is_measured_with_one(here: Path, capsys: pytest.CaptureFixture[str]):
    plain = {name: OWN[name] for name in ("data", "training", "compute", "measure")}
    chains = {"num_steps": 2, "num_updates": 1, "start": "base", "kernel": "ula"}
    (here / "plain.yaml").write_text(yaml.safe_dump(plain | {"prior_chains": chains}))
    done("train", "digits", "--config", "plain.yaml", "--out", "run", "--no-measure")
    small = ["--batches", 3, "--repeats", 2, "--batch-size", 4, "--num-rungs", 3, "--no-reference"]
    words = ["variance", "run", "--estimator", "ours", *small]
    assert "'ours' is not a known estimator" in refused(*words, capsys=capsys)
    done(*words, "--plugins", "mine.py", "--json")
    record = json.loads(capsys.readouterr().out)
    assert list(record["values"]["estimators"]) == ["ours"]
    sha256 = hashlib.sha256(MINE.read_bytes()).hexdigest()
    assert record["settings"]["plugins"] == {"mine.py": sha256}
    done("measure", "run", "--plugins", "mine.py", "--estimator", "ours", "--json")
    records = json.loads(capsys.readouterr().out)["records"]
    assert all("ours" in each["values"]["estimators"] for each in records if each["kind"] == "variance")
    done("sample", "run", "--num", 4)  # of the run itself nothing has changed
    assert yaml.safe_load((here / "run" / "config.yaml").read_text())["plugins"] == []


# --- a folder ---


@pytest.fixture
def folder(here: Path) -> Path:
    """Stand beside a plugin that is a folder: `mine.py` as a module of it, and `own.yaml` that names it."""
    pack = here / "pack"
    (pack / "inner").mkdir(parents=True)
    (here / "mine.py").rename(pack / "inner" / "core.py")
    (pack / "inner" / "__init__.py").write_text("")
    (pack / "__init__.py").write_text("from .inner.core import Decoder, Energy\n")
    text = yaml.safe_dump({"plugins": ["pack"], **OWN}).replace("mine.py:", "pack:")
    (here / "own.yaml").write_text(text)
    return pack


def test_a_plugin_may_be_a_folder(folder: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    done("train", "digits", "--config", "own.yaml", "--out", "run", "--no-measure")
    copy = here / "run" / "plugins" / "pack"
    assert {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()} == {
        "__init__.py",
        "inner/__init__.py",
        "inner/core.py",
    }
    assert (copy / "inner" / "core.py").read_bytes() == MINE.read_bytes()
    shutil.rmtree(folder)
    done("sample", here / "run", "--num", 4)
    done("evidence", here / "run", "--num", 2, "--evaluations", 300)
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "inner.pyc").write_bytes(b"")
    done("sample", here / "run", "--num", 4)
    (copy / "inner" / "more.py").write_text("")
    assert "plugins/pack is damaged or was changed" in refused("sample", "run", capsys=capsys)
    (copy / "inner" / "more.py").unlink()
    appended("\n")(copy / "inner" / "core.py")
    assert "plugins/pack is damaged or was changed" in refused("sample", "run", capsys=capsys)


def test_every_file_of_a_folder_is_part_of_the_identity(folder: Path, here: Path):
    found = set()
    for write in (lambda: None, lambda: (folder / "inner" / "data.txt").write_text("1"), lambda: None):
        write()
        forget_plugins()
        found.add(resolve("digits", file=here / "own.yaml")[0].identity)
    assert len(found) == 2


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "without __init__.py": (
        lambda pack: (pack / "__init__.py").unlink(),
        "pack is a folder without __init__.py.",
    ),
    "too large": (
        lambda pack: os.truncate(pack / "inner" / "core.py", 65 * 2**20),
        "pack must hold at most 64 MiB, since each run keeps a copy, got 65.",
    ),
    "imports what is not there": (
        lambda pack: (pack / "__init__.py").write_text("from .outer import Decoder"),
        "pack raises ModuleNotFoundError at import: No module named ",
    ),
    "a module raises": (
        lambda pack: (pack / "inner" / "core.py").write_text("1 / 0"),
        "pack raises ZeroDivisionError at import: division by zero.",
    ),
}


@pytest.mark.parametrize("fault", FOLDERS)
def test_a_bad_folder_is_one_line_and_nothing_is_written(
    fault: str, folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
):
    spoil, said = FOLDERS[fault]
    spoil(folder)
    assert said in refused("train", "digits", "--config", "own.yaml", "--out", "run", capsys=capsys)
    assert not (here / "run").exists()
    forget_plugins()
    assert not [name for name in sys.modules if name.startswith("thermograd_plugin")]


def test_validate_holds_them_to_exact_values(here: Path, capsys: pytest.CaptureFixture[str]):
    small = ["--latent", 2, "--pixels", 6, "--images", 4, "--repeats", 40, "--weight-scale", 0.3, "--json"]
    done("validate", "--plugins", "mine.py", *small)
    tables = json.loads(capsys.readouterr().out)["tables"]
    rows = {row["name"]: row for table in tables.values() for row in table}
    assert {name.split(",")[0] for name in rows} >= {"ours", "half", "RandomWalk", "RandomWalk with exchange"}


def write_study(here: Path) -> Path:
    groups = {name: OWN[name] for name in ("posterior_chains", "prior_chains", "model", "data", "training")}
    arms = {
        "ours": {"gradient": OWN["gradient"]},
        "vanilla": {"ready": "vanilla", "gradient.prior_rule": "contrast"},
    }
    study = {
        "name": "own",
        "preset": "digits",
        "plugins": ["mine.py"],
        "seeds": 1,
        "arms": arms,
        "overrides": groups,
    }
    (here / "study.yaml").write_text(yaml.safe_dump({**study, "measure": OWN["measure"]}))
    return here / "study.yaml"


def test_a_study_of_two_arms_on_two_workers(here: Path):
    write_study(here)
    done("study", "run", "study.yaml", "--workers", 2)
    folder = here / "studies" / "own"
    assert (folder / "plugins" / "mine.py").read_bytes() == MINE.read_bytes()
    for path in (folder / "runs").iterdir():
        assert (path / "plugins" / "mine.py").read_bytes() == MINE.read_bytes()
        assert json.loads((path / "status.json").read_text())["state"] == "done"
    assert len(list((folder / "runs").iterdir())) == 2
    (here / "mine.py").unlink()
    done("study", "status", folder)
    done("report", folder)


def test_a_worker_loads_the_copy_that_the_study_keeps(here: Path):
    folder = make_study(read_study_file(write_study(here)), here / "out")
    (here / "mine.py").write_text("raise RuntimeError")
    forget_plugins()
    study = open_study(here / "out")
    (run,) = (run for run in study.runs if run.arm == "ours")
    assert work(study, run.identity) == "done"
    assert (folder.run_folder(run.identity) / "plugins" / "mine.py").read_bytes() == MINE.read_bytes()


def test_a_study_whose_plugin_has_changed_is_refused(here: Path, capsys: pytest.CaptureFixture[str]):
    make_study(read_study_file(write_study(here)), here / "out")
    appended("\n")(here / "mine.py")
    assert "(changed: plugins)" in refused("study", "run", "study.yaml", "--out", "out", capsys=capsys)
    error = refused("study", "add", "study.yaml", "--out", "out", capsys=capsys)
    assert "mine.py has changed since the study began; give the new version another name." in error
    (here / "mine.py").unlink()
    assert "mine.py cannot be read" in refused("study", "plan", "study.yaml", capsys=capsys)


def test_an_arm_can_name_no_file_that_the_study_does_not(here: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copy(MINE, here / "other.py")
    file = write_study(here)
    text = file.read_text().replace("mine.py:Energy", "other.py:Energy")
    file.write_text(text)
    error = refused("study", "plan", "study.yaml", capsys=capsys)
    assert "`plugins` of the study must name other.py" in error


def test_the_same_seed_gives_the_same_weights_and_resuming_is_the_same(here: Path):
    """Initial weights of a user's network are a function of the seed, whatever torch drew before."""
    weights = []
    for name, before in (("a", 0), ("b", 1)):
        torch.manual_seed(before)
        done("train", "digits", "--config", "own.yaml", "--out", name, "--no-measure")
        weights.append(load_run(here / name).model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_the_hash_is_part_of_the_identity_and_the_place_is_not(here: Path):
    config = resolve("digits", file=here / "own.yaml")[0]
    (here / "moved").mkdir()
    for name in ("mine.py", "own.yaml"):
        shutil.move(here / name, here / "moved" / name)
    forget_plugins()
    moved = resolve("digits", file=here / "moved" / "own.yaml")[0]
    assert moved.identity == config.identity
    assert moved == config
    with (here / "moved" / "mine.py").open("a") as file:
        file.write("\n")
    forget_plugins()
    assert resolve("digits", file=here / "moved" / "own.yaml")[0].identity != config.identity


def test_names_of_a_plugin_are_of_no_use_without_it(here: Path):
    resolve("digits", overrides={"plugins": ["mine.py"], "gradient.estimator": "ours"})
    with pytest.raises(
        InputError, match=r"^`gradient.estimator` 'ours' comes from a plugin that `plugins` does not"
    ):
        resolve("digits", overrides={"gradient.estimator": "ours"})
    with pytest.raises(InputError, match=r"^`posterior_chains.kernel` 'random-walk' comes from a plugin"):
        resolve("digits", overrides={"posterior_chains.kernel": "random-walk"})
    forget_plugins()
    with pytest.raises(InputError, match=r"^`gradient.estimator` 'ours' is not a known estimator"):
        resolve("digits", overrides={"gradient.estimator": "ours"})


def test_a_network_alone_needs_no_list_of_plugins(here: Path):
    config = resolve("digits", overrides={"model.generator.kind": "mine.py:Decoder"})[0]
    assert [plugin.file for plugin in config.plugins] == [here / "mine.py"]
    assert config.model.generator.kind == "mine.py:Decoder"


# --- bad input ---


def appended(text: str) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.write_text(file.read_text() + text)

    return write


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (Path.unlink, "mine.py cannot be read: No such file or directory."),
    "raises": (appended("\n1 / 0\n"), "mine.py raises ZeroDivisionError at import: division by zero."),
    "is no Python": (appended("\ndef\n"), "mine.py raises SyntaxError at import: "),
    "exits": (appended("\nraise SystemExit(0)\n"), "mine.py raises SystemExit at import: 0."),
    "registers a name twice": (
        appended("\ntg.register(tg.Schedule('cubes', cubes))\n"),
        "mine.py: `name` 'cubes' is registered twice (schedule).",
    ),
    "registers a name of the package": (
        appended("\ntg.register(tg.Schedule('power', cubes))\n"),
        "mine.py: `name` 'power' is taken by the package (schedule).",
    ),
    "registers something else": (appended("\ntg.register(3)\n"), "mine.py: `register` takes an Estimator, "),
    "a kernel that needs more than a step size": (
        appended("\nclass Odd(RandomWalk):\n    def __init__(self, a, b): ...\n\n\ntg.register(Odd)\n"),
        "mine.py: `Odd` must be made from a step size alone",
    ),
    "has no such class": (
        lambda file: file.write_text(file.read_text().replace("class Decoder", "class Dekoder")),
        "`model.generator.kind` 'mine.py:Decoder' names no torch.nn.Module that ",
    ),
    "takes other options": (
        lambda file: file.write_text(file.read_text().replace("width", "height")),
        "`model.generator.kind` mine.py:Decoder cannot be made as Decoder(3, (1, 8, 8), width=5): ",
    ),
    "an energy of another shape": (
        lambda file: file.write_text(file.read_text().replace(".squeeze(-1)", "")),
        "`energy` must map latents (2, 2, 3) to (2, 2), got (2, 2, 1)",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_plugin_is_one_line_and_nothing_is_written(
    fault: str, here: Path, capsys: pytest.CaptureFixture[str]
):
    spoil, said = BAD[fault]
    spoil(here / "mine.py")
    before = {path.name for path in here.iterdir()}
    error = refused("train", "digits", "--config", "own.yaml", "--out", "run", capsys=capsys)
    assert said in error
    assert {path.name for path in here.iterdir()} - before <= {"run"}
    assert not (here / "run").exists() or not [
        path for path in (here / "run").iterdir() if path.name != ".lock"
    ]
    import_failed = not fault.startswith(("has", "takes", "an energy"))
    assert ("ours" not in names.ESTIMATORS) == import_failed


def test_a_name_is_held_by_one_plugin_at_a_time(here: Path):
    resolve("digits", overrides={"plugins": ["mine.py"]})
    appended("\n")(here / "mine.py")
    with pytest.raises(
        InputError,
        match=r"`name` 'ours' is taken in this process by another plugin, or another version of it",
    ):
        resolve("digits", overrides={"plugins": ["mine.py"]})


def test_a_copy_that_was_changed_is_refused(run_folder: Path, capsys: pytest.CaptureFixture[str]):
    appended("\n")(run_folder / "plugins" / "mine.py")
    for verb in ("resume", "sample", "evidence", "variance", "evaluate"):
        error = refused(verb, run_folder, capsys=capsys)
        assert "plugins/mine.py is damaged or was changed since the run began: its sha256 is " in error
    (run_folder / "plugins" / "mine.py").unlink()
    assert "plugins/mine.py cannot be read" in refused("sample", run_folder, capsys=capsys)


def test_the_same_command_with_a_changed_file_is_refused(
    run_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
):
    appended("\n")(here / "mine.py")
    error = refused("train", "digits", "--config", "own.yaml", "--out", "run", capsys=capsys)
    assert f"`plugins` {here / 'mine.py'} has changed since the run in run began." in error
    assert (run_folder / "plugins" / "mine.py").read_bytes() == MINE.read_bytes()


def test_reading_a_run_executes_no_plugin(run_folder: Path, here: Path):
    counts = ["--num-images", 4, "--num-samples", 8, "--num-evidence", 0, "--batches", 3]
    done("measure", run_folder, *counts, "--distance", "none", "--no-prior")
    appended("\nraise RuntimeError\n")(run_folder / "plugins" / "mine.py")
    done("report", run_folder)


def test_an_error_of_a_plugin_is_not_a_defect_of_the_package(here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "mine.py").write_text(
        (here / "mine.py").read_text().replace("weights[-1] = 1 +", "weights[-9, 77] = 1 +")
    )
    assert cli.run(["train", "digits", "--config", "own.yaml", "--out", "run", "--no-measure"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "the plugin" in last
    assert "mine.py, line 17, raises IndexError" in last


# --- in Python ---


def test_register_in_python():
    rule = tg.Estimator("mine", lambda ladder: ladder.log_likelihood * 0, lambda t: tg.Limit(t * 0, t * 0))
    assert tg.register(rule) is rule
    assert tg.load_config("digits", gradient={"estimator": "mine"}).gradient.num_rungs == 11
    with pytest.raises(InputError, match=r"^`name` 'mine' is registered twice \(estimator\)"):
        tg.register(rule)
    tg.register(rule, replace=True)


def test_register_a_network_in_python(tiny_config: Callable[..., RunConfig]):
    class Wide(torch.nn.Module):
        """Means of all pixels from one layer."""

        def __init__(self, latent_dim: int, image_shape: tuple[int, ...]):
            super().__init__()
            self.layer = torch.nn.Linear(latent_dim, 64)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.layer(z).tanh().view(-1, 1, 8, 8)

    tg.register(Wide, role="generator")
    from thermograd.training.builder import build_model

    assert isinstance(build_model(tiny_config({"model.generator.kind": "Wide"})).generator, Wide)
    with pytest.raises(InputError, match=r"^`role` 'decoder' is not known; known are generator, energy"):
        tg.register(Wide, role="decoder")  # type: ignore[arg-type]
