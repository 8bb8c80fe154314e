"""What the verbs share: options, overrides, and output for people and for machines."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import click

from thermograd.config import names
from thermograd.errors import InputError, nearest, one_line, shown
from thermograd.files import hold, parse_yaml

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
plugins_option = click.option(
    "--plugins",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A Python file, or a folder with __init__.py, that brings algorithms or networks of your own; may be "
    "repeated.",
)
folder_argument = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
OVERRIDES = {"ignore_unknown_options": True, "allow_extra_args": True}
"""Context settings of a verb that takes dotted overrides."""


class NameOf(click.ParamType):
    """A name of a table. Help lists those of the package; a run's plugins may know others, so it is checked later."""

    name = "name"

    def __init__(self, table: names.Table[Any]):
        self.table = table

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return the names between brackets, as help shows a choice."""
        return f"[{'|'.join(self.table)}]"


def load_more_plugins(plugins: Sequence[Path]) -> None:
    """Load plugins that a run was begun without, for the names that they bring."""
    from thermograd.config.plugins import load_plugins, with_whole_paths

    load_plugins(with_whole_paths({"plugins": [str(plugin) for plugin in plugins]}, Path.cwd()))


def parse_overrides(words: Sequence[str], options: Sequence[str]) -> dict[str, Any]:
    """Turn words such as `--optimiser.prior_lr 1e-4` or `--a.b=c` into {"optimiser.prior_lr": 0.0001}.

    Raises:
        InputError: a word that is no dotted option, or an option without a value.
    """
    overrides: dict[str, Any] = {}
    words = list(words)
    while words:
        word = words.pop(0)
        name, has_value, value = word.partition("=")
        if not name.startswith("--"):
            raise InputError(f"`{word}` is not expected: settings are given as --group.name value.")
        if "." not in name:
            raise InputError(f"`{name}` is not an option{_hint(name, list(options))}")
        if not has_value:
            if not words:
                raise InputError(f"`{name}` must be followed by a value.")
            value = words.pop(0)
        overrides[name[2:]] = parse_value(value, name)
    return overrides


MOST_HINTS = 4
"""Settings that a hint names at most."""


def _hint(name: str, options: list[str]) -> str:
    """Return what a user may have meant by an option: one spelt nearly so, else a setting of that name."""
    from thermograd.config.describe import settings_like
    from thermograd.config.schema import RunConfig

    word = name.removeprefix("--")
    found = get_close_matches(name, options, n=1, cutoff=0.8)
    found = found or [f"--{each}" for each in settings_like(RunConfig, word)[:MOST_HINTS]]
    if found:
        return f"; did you mean {' or '.join(map(repr, found))}?"
    if word in RunConfig.model_fields:
        return f": it is a group of settings, --{word}.NAME; `thermograd settings {word}` prints them."
    return nearest(name, options)


def parse_value(text: str, name: str = "value") -> Any:
    """Return the text as YAML reads it; what is not YAML stays a string."""
    return parse_yaml(text, name)


@contextmanager
def working(as_json: bool, goes_on: str = "") -> Iterator[Callable[[str], None]]:
    """Show how far the work is, and yield what prints a line of it; machines get the lines alone.

    Args:
        as_json: whether a machine reads.
        goes_on: what Ctrl-C says: how to go on.
    """
    from thermograd.progress import shown

    try:
        if as_json:
            yield partial(click.echo, err=True)
        else:
            with shown() as say:
                yield lambda line: say(one_line(line))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(goes_on) from None


out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for what is measured, where DIR cannot be written to.",
)


@contextmanager
def holding(folder: Path, verb: str, out: Path | None = None) -> Iterator[Path]:
    """Hold the folder that is written to for this process alone, and yield it: `out`, or the run folder.

    What is no run folder is left to whoever reads it.

    Raises:
        InputError: another process trains or measures this run, or the folder cannot be written to.
    """
    if out is None and not (folder / "config.yaml").is_file():
        yield folder
        return
    if out is None and not os.access(folder, os.W_OK):
        raise InputError(
            f"`run` {folder} cannot be written to; name another folder for what is measured by --out."
        )
    with hold(out or folder, verb, "out"):
        yield out or folder


def emit(record: dict[str, Any], as_json: bool, text: str | Callable[[], None]) -> None:
    """Print a result: one JSON object for machines, text for people."""
    if as_json:
        click.echo(json.dumps(_finite(record), default=str, allow_nan=False))
    elif callable(text):
        text()
    else:
        click.echo(text)


def _finite(value: Any) -> Any:
    """Return plain data with None for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table that fits the terminal; figures are aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # As text, in which [/red] is a name and no colour.
    heading = None if title is None else Text(shown(title))
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[i]) for row in rows)
        table.add_column(Text(shown(column)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(str(cell))) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, 160))
    console.print(table)


def _is_number(cell: Any) -> bool:
    first = str(cell).split(" ")[0].rstrip("%") or "x"
    try:
        float(first)
    except ValueError:
        return first == "-"
    return True
