"""Names are text everywhere, one damaged run leaves the others alone, and a user's matplotlibrc changes no figure."""

import csv
import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from conftest import STUDY_TINY
from thermograd.cli import run as run_command_line
from thermograd.errors import InputError
from thermograd.reports import write_report
from thermograd.reports.style import STYLE, Look, arm_legend, panels
from thermograd.runs.pictures import own_style, save_curves
from thermograd.study import query_study, read_study_file
from thermograd.study.file import parse_study
from thermograd.study.folder import make_study, open_study
from thermograd.study.results import csv_text, load_study
from thermograd.study.status import study_status
from thermograd.study.work import work

NAMES = [
    "on",
    "1",
    "=1+1",
    "[/red]",
    "a$\\frac{$b",
    "学习率",
    "_under",
    "<script>x</script>",
    "a b",
    "{{ 7 * 7 }}",
]


def described(images_file: Path, names: list[str]) -> dict[str, Any]:
    quick = {"training.num_epochs": 1, "prior_chains.num_steps": 1, "posterior_chains.num_steps": 1}
    return {
        "name": "hostile",
        "preset": "digits",
        "overrides": {**STUDY_TINY, **quick, "data.path": str(images_file), "data.name": "smooth"},
        "seeds": 1,
        "arms": {name: {"optimiser.generator_lr": 1e-4 * (i + 1)} for i, name in enumerate(names)},
        "measure": {
            "every": "none",
            "extractor": "none",
            "num_samples": 20,
            "num_batches": 3,
            "num_repeats": 2,
        },
    }


@pytest.fixture(scope="module")
def study(images_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a study of one run for each name, of which all but the first share the files of one run."""
    path = tmp_path_factory.mktemp("hostile") / "study"
    folder = make_study(parse_study(described(images_file, NAMES)), path)
    first, *others = folder.runs
    work(folder, first.identity)
    for run in others:
        shutil.copytree(folder.run_folder(first.identity), folder.run_folder(run.identity), symlinks=True)
    return path


def test_names_are_what_was_written_in_the_file(images_file: Path, tmp_path: Path):
    (tmp_path / "s.yaml").write_text(
        "name: s\npreset: digits\nseeds: 1\narms:\n  on: {}\n  1: {seeds: [0]}\n  =1+1: {}\n  '[/red]': {}\n"
        "  a$\\frac{$b: {}\n  学习率: {}\n  2001-01-01: {}\n  1:30: {}\n",
        encoding="utf-8",
    )
    assert list(read_study_file(tmp_path / "s.yaml").arms) == [*NAMES[:6], "2001-01-01", "1:30"]


@pytest.mark.parametrize("name", ["new\nline", "\x1b[31mred", "\u202egnol", "", "  ", "x" * 201, "tab\t"])
def test_names_that_cannot_be_shown_on_one_line_are_refused(name: str, images_file: Path):
    with pytest.raises(
        InputError, match="must be 1 to 200 characters that can be shown on one line"
    ) as error:
        parse_study(described(images_file, [name]))
    assert str(error.value).isprintable()


def test_status_shows_every_name(study: Path, capsys: pytest.CaptureFixture[str]):
    assert run_command_line(["study", "status", str(study)]) == 0
    shown = capsys.readouterr().out
    assert [name for name in NAMES if name not in shown] == []


def test_a_report_shows_every_name_as_text(study: Path):
    page = write_report(study).read_text()
    assert [
        name for name in NAMES if html.escape(name, quote=True).replace("&#x27;", "&#39;") not in page
    ] == []
    assert "<script>x" not in page
    with (study / "report" / "costs.csv").open(newline="") as file:
        arms = [row["arm"] for row in csv.DictReader(file)]
    assert arms == [f"'{name}" if name == "=1+1" else name for name in NAMES]
    assert set(load_study(study)["arm"]) == set(NAMES)
    assert list(query_study(study, "SELECT DISTINCT arm FROM results WHERE arm = '=1+1'")["arm"]) == ["=1+1"]


def test_a_spreadsheet_runs_nothing():
    import pandas as pd

    frame = pd.DataFrame(
        {"text": ["=1+1", "@x", "+a", "-b", "a=b", "-", "–"], "number": [-1.5, 2, 3, 4, 5, 6, 7]}
    )
    assert csv_text(frame).splitlines() == [
        *("text,number", "'=1+1,-1.5", "'@x,2.0", "'+a,3.0", "'-b,4.0", "a=b,5.0", "-,6.0", "–,7.0"),
    ]


def test_a_legend_has_every_name():
    with own_style(STYLE):
        figure, _ = panels(1, narrow=False)
        arm_legend(figure, {name: Look("#000000", "o", "-") for name in NAMES}, narrow=False)
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == NAMES
        assert not any(text.get_parse_math() for text in legend.get_texts())


def test_a_matplotlibrc_changes_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    record = {"kind": "train", "log_likelihood": -1.0, "energy_posterior": 0.0, "energy_prior": 1.0}
    records = [{**record, "step": step} for step in (1, 2, 3)]
    save_curves(records, tmp_path / "own.png", "a$\\frac{$b")
    users = {
        "text.usetex": True,
        "lines.linewidth": 9,
        "font.size": 30,
        "savefig.dpi": 20,
        "axes.facecolor": "red",
    }
    with mpl.rc_context(users):
        save_curves(records, tmp_path / "users.png", "a$\\frac{$b")
        assert mpl.rcParams["text.usetex"]
    assert (tmp_path / "own.png").read_bytes() == (tmp_path / "users.png").read_bytes()


# --- one damaged run ---


def not_utf_8(file: Path) -> None:
    file.write_bytes(b"\xff\xfe" + file.read_bytes())


def not_a_measurement(file: Path) -> None:
    file.write_text('{"a": 1}\n')


def of_another_form(file: Path) -> None:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**line, "values": {"quantities": 5}}) + "\n" for line in lines))


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("damage", "name", "is_seen_by_status"),
    [
        (not_utf_8, "measurements.jsonl", True),
        (not_a_measurement, "measurements.jsonl", True),
        (a_folder, "measurements.jsonl", True),
        (a_folder, "metrics.jsonl", False),
        (of_another_form, "measurements.jsonl", False),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_one_damaged_run_is_told_and_the_others_go_on(
    damage: Callable[[Path], None],
    name: str,
    is_seen_by_status: bool,
    study: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("thermograd.reports.page.figures", lambda *arguments: ([], []))
    path = shutil.copytree(study, tmp_path / "study", symlinks=True)
    folder = open_study(path)
    bad = folder.runs[2]
    damage(folder.run_folder(bad.identity) / name)
    status = study_status(folder)
    (row,) = [row for row in status["runs"] if row["identity"] == bad.identity]
    assert (row["state"] == "damaged") == is_seen_by_status
    assert status["counts"]["done"] == len(NAMES) - is_seen_by_status
    with pytest.warns(UserWarning, match=rf"{re.escape(bad.folder)}\) is damaged: .*"):
        table = load_study(path)
    assert set(table["arm"]) == set(NAMES) - {bad.arm}
    assert query_study(path, "SELECT count(DISTINCT run) AS n FROM results")["n"][0] == len(NAMES) - 1
    assert write_report(path).is_file()


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: whole["runs"][0].update(identity="../../../tmp/x"),
        lambda whole: whole["runs"][0].update(identity="AA"),
        lambda whole: whole["runs"][0].update(arm="new\nline"),
        lambda whole: whole["runs"][0].update(num_steps=0),
        lambda whole: whole["runs"][0].update(config=[]),
        lambda whole: whole["runs"][0].pop("seed"),
        lambda whole: whole.update(runs=[]),
        lambda whole: whole.update(runs=whole["runs"][:1] * 2),
        lambda whole: whole.pop("study"),
    ],
)
def test_a_study_file_that_was_changed_by_hand_is_one_line(
    change: Callable[[dict[str, Any]], Any], study: Path, tmp_path: Path
):
    whole = json.loads((study / "study.json").read_text())
    change(whole)
    (tmp_path / "study.json").write_text(json.dumps(whole))
    with pytest.raises(InputError, match=rf"^`study` {tmp_path} is damaged: study.json .*\.$") as error:
        open_study(tmp_path)
    assert str(error.value).isprintable()


def test_messages_are_one_bounded_line_that_a_terminal_shows(capsys: pytest.CaptureFixture[str]):
    assert (
        run_command_line(["train", "digits", "--model.latent_dim", "\x1b[31m" + "x" * 10_000, "--dry-run"])
        == 2
    )
    shown = capsys.readouterr().err.rstrip("\n")
    assert shown.isprintable()
    assert len(shown) < 1200


def test_a_preset_in_a_file_must_be_the_one_that_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "c.yaml").write_text("preset: mnist\n")
    assert run_command_line(["train", "digits", "--config", str(tmp_path / "c.yaml"), "--dry-run"]) == 2
    assert "`preset` is 'mnist' in" in capsys.readouterr().err
    (tmp_path / "c.yaml").write_text("preset: digits\n")
    assert run_command_line(["train", "digits", "--config", str(tmp_path / "c.yaml"), "--dry-run"]) == 0


def test_an_empty_group_that_is_not_known_is_refused(images_file: Path, tmp_path: Path):
    from thermograd.study.plan import plan_runs

    study = described(images_file, ["a"])
    study["overrides"] |= {"modle": {}, "model": {}}
    with pytest.raises(InputError, match="`modle` is not a setting; did you mean 'model'"):
        plan_runs(parse_study(study))
    study["overrides"].pop("modle")
    assert plan_runs(parse_study(study))[0].resolved.model.latent_dim == STUDY_TINY["model.latent_dim"]
