"""docs/procedure.md, followed to the letter on 8x8 digits in a small setting: each step is one command that does it."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import thermograd as tg
from conftest import TINY
from thermograd import cli
from thermograd.evaluation.records import Record, read_records

PAGE = (Path(__file__).parents[1] / "docs" / "procedure.md").read_text()
STEPS = dict(re.findall(r"^## (\d)\. .*?\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL))
COMMAND = re.compile(r"^    thermograd (.+)$", re.MULTILINE)
SMALL: dict[str, Any] = {
    **{name: value for name, value in TINY.items() if name != "training.num_epochs"},
    "data.num_images": 64,
    "gradient.num_rungs": 3,
    "measure.every": "1 epoch",
    "measure.num_batches": 3,
    "measure.num_samples": 64,
    "measure.num_images": 8,
}
FEW = {
    "train": [
        word for name, value in SMALL.items() for word in (f"--{name}", str(value).replace("None", "null"))
    ],
    "evaluate": ["--num", "16", "--num-samples", "64", "--evidence", "4", "--quick", "--no-prior"],
}


def commands(step: str) -> list[list[str]]:
    """Return the commands of a step, with digits for mnist-5k and few of everything."""
    found = []
    for line in COMMAND.findall(STEPS[step]):
        words = shlex.split(line.replace("mnist-5k", "digits").replace("--epochs 20", "--epochs 2"))
        small = list(FEW.get(words[0], []))
        if words[0] == "train" and "thermodynamic-detached" not in words:
            small[small.index("--gradient.num_rungs") + 1] = "2"
        found.append([*words, *small])
    return found


def fixed(record: Record) -> float:
    (found,) = record.values["fixed"].values()
    return found["blocks"]["total"]["chain_variance"]["value"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which every step was done."""
    here = tmp_path_factory.mktemp("procedure")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("MPLBACKEND", "Agg")
        for step in "12345":
            for words in commands(step):
                assert cli.run(words) == 0, words
    return here


def test_each_step_is_one_command_or_one_for_each_model():
    assert [[words[0] for words in commands(step)] for step in "12345"] == [
        ["train", "train"],
        ["measure"],
        ["evaluate"],
        ["report"],
        ["evaluate", "compare"],
    ]


@pytest.mark.parametrize(
    ("name", "estimator"), [("ml", "maximum-likelihood"), ("ti", "thermodynamic-detached")]
)
def test_both_were_trained_and_the_variance_of_one_batch_was_measured_at_each_break(
    name: str, estimator: str, done: Path
):
    run = tg.load_run(done / "runs" / name)
    assert run.config.gradient.estimator == estimator
    records = [each for each in read_records(run.folder, "variance", "clock") if each.split == "test"]
    assert [each.step for each in records] == [8, 16]
    assert min(map(fixed, records)) > 0


def test_the_test_set_was_measured_by_the_command(done: Path):
    for name in ("ml", "ti"):
        (record,) = read_records(done / "runs" / name, "evaluation", "command")
        assert (record.split, record.step) == ("test", 16)


def test_the_report_has_the_three_plots_and_they_are_functions(done: Path):
    assert (done / "runs" / "ml" / "report" / "report.html").is_file()
    run = tg.load_run(done / "runs" / "ml")
    names = re.findall(r"`(?:tg\.plots\.)?(\w+_against_\w+)", PAGE)
    assert len(names) == 3
    for name in names:
        axes = getattr(tg.plots, name)(run)
        assert axes.lines or axes.collections
