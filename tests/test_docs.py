"""The documentation: its Python runs, the program takes its commands, and the reference has the whole door."""

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import thermograd as tg
from thermograd.cli import app, train
from thermograd.cli.common import parse_overrides
from thermograd.config.names import preset_names
from thermograd.config.resolve import resolve

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LESSONS = [ROOT / "docs" / "quickstart.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
FAST = {'run.images("test", 4))': 'run.images("test", 2), method="smc", num_evaluations=400)'}
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:    |\$ )thermograd (.+)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands() -> Iterator[tuple[str, str]]:
    """Yield the commands of all pages that are a line of their own, with the page."""
    for page in PAGES:
        for line in COMMAND.findall(page.read_text().replace("\\\n", " ")):
            yield name_of(page), line


@pytest.mark.filterwarnings("ignore:ArviZ is undergoing:FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("page", [p for p in LESSONS if BLOCK.search(p.read_text())], ids=name_of)
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    lesson = tmp_path / "lesson.py"
    source = "\n".join(BLOCK.findall(page.read_text()))
    for slow, fast in FAST.items():
        source = source.replace(slow, fast)
    lesson.write_text(source)
    runpy.run_path(str(lesson), run_name="__main__")


def parse(line: str) -> None:
    """Read a command as the program does, and run nothing.

    Raises:
        click.ClickException: a verb, option or value that the program refuses.
    """
    command: click.Command = app
    words = shlex.split(line, comments=True)
    while isinstance(command, click.Group):
        word, *words = words
        found = command.commands.get(word.rstrip(","))
        if found is None:
            raise click.UsageError(f"no verb {word}")
        command = found
    context = command.make_context("thermograd", words)
    if command is train.train and context.params["preset"] in preset_names() and "mine.py" not in line:
        resolve(context.params["preset"], overrides=parse_overrides(context.args, train.OPTIONS))


def test_there_are_commands():
    assert len(list(commands())) > 40


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_a_command_of_a_page_is_taken(page: str, line: str):
    parse(line)


@pytest.mark.parametrize(
    "line",
    ["trian digits", "evaluate x --num-sample 3", "study paln quick", "train digits --training.epochs 3"],
)
def test_a_command_that_is_not_there_is_seen(line: str):
    with pytest.raises((click.ClickException, tg.InputError)):
        parse(line)


def test_the_reference_has_the_whole_door():
    reference = (ROOT / "docs" / "reference.md").read_text()
    entries = set(re.findall(r"^\.\. auto(?:class|function):: thermograd\.(\w+)$", reference, re.MULTILINE))
    modules = {"plots", "quadrature", "testing", "__version__"}
    assert entries == set(tg.__all__) - modules
