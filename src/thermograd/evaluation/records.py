"""The measurements of a run: one record format, one file that only grows, one reader.

`measurements.jsonl` in the run folder has one line per measurement, whatever made it:

| field | holds |
|---|---|
| `kind` | `evaluation` (images, energies, distances), `variance` (of the learning gradient) or `evidence` |
| `source` | `clock`: measured as the run's own settings say; `command`: what somebody asked for beside them |
| `dataset`, `split` | what it was measured on |
| `checkpoint`, `step`, `epoch` | of which state of the model |
| `seed`, `settings` | of the measurement, with the counts that were really used |
| `values` | what was found |

A measurement that is repeated has another line; of lines with one key the last one counts.
"""

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from thermograd.errors import InputError
from thermograd.files import append_line, parse_json, read_text

if TYPE_CHECKING:
    from thermograd.data import ImageDataset
    from thermograd.runs.run import Run

Kind = Literal["evaluation", "variance", "evidence"]
Source = Literal["clock", "command"]

FILE = "measurements.jsonl"


@dataclass(frozen=True)
class Record:
    """One measurement of one checkpoint; the fields are those of a line of `measurements.jsonl`."""

    kind: Kind
    source: Source
    dataset: str
    split: str
    checkpoint: str
    step: int
    epoch: int
    seed: int
    settings: dict[str, Any]
    values: dict[str, Any]

    @property
    def key(self) -> str:
        """Return all but what was found; a later record of the same key replaces an earlier one."""
        return json.dumps({**vars(self), "values": None})


def record_of(
    run: "Run",
    kind: Kind,
    data: "ImageDataset",
    split: str,
    *,
    source: Source,
    seed: int,
    settings: Mapping[str, Any],
    values: Mapping[str, Any],
) -> Record:
    """Return the record of a measurement of a run's checkpoint, as plain data that JSON can hold."""
    checkpoint = run.checkpoint
    return Record(
        kind=kind,
        source=source,
        dataset=data.name,
        split=split,
        checkpoint=checkpoint.path.name,
        step=checkpoint.step,
        epoch=checkpoint.state["epoch"] + 1,
        seed=seed,
        settings=plain(settings),
        values=plain(values),
    )


def add_record(folder: Path, record: Record) -> None:
    """Add a line to a run folder's `measurements.jsonl`; writers wait for each other."""
    with _waiting(folder / FILE):
        append_line(folder / FILE, json.dumps(asdict(record), allow_nan=False))


def read_records(folder: Path, kind: Kind | None = None, source: Source | None = None) -> list[Record]:
    """Return the measurements of a run, in the order in which their keys were first measured.

    Args:
        folder: the run folder.
        kind: of which kind alone; None for all.
        source: of which source alone; None for all.

    Warns:
        UserWarning: lines that are torn, as a crash leaves them; they are left out.

    Raises:
        InputError: a line that is whole and is no measurement.
    """
    file = folder / FILE
    found: dict[str, Record] = {}
    torn = []
    for number, line in _lines(file):
        try:
            values = parse_json(line)
        except ValueError:
            torn.append(number)
            continue
        if not _is_record(values):
            raise _foreign(file, number)
        record = Record(**values)
        found[record.key] = record
    if torn:
        lines = ", ".join(map(str, torn))
        warnings.warn(f"{file}: torn lines are left out: {lines}.", stacklevel=2)
    return [
        record for record in found.values() if kind in (None, record.kind) and source in (None, record.source)
    ]


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file with their numbers, none where it is missing."""
    text = read_text(file, "measurements") if file.exists() else ""
    yield from ((number, line) for number, line in enumerate(text.splitlines(), 1) if line)


_TYPES: dict[str, type] = {field.name: str for field in fields(Record)}
_TYPES |= {"step": int, "epoch": int, "seed": int, "settings": dict, "values": dict}


def _is_record(values: Any) -> bool:
    return (
        isinstance(values, dict)
        and values.keys() == _TYPES.keys()
        and all(isinstance(values[name], kind) for name, kind in _TYPES.items())
    )


def _foreign(file: Path, number: int) -> InputError:
    return InputError(f"`measurements` {file}, line {number}, is not a measurement of this version.")


_HEAD_ENDS = ', "settings": '
"""Before it a line says what was measured; JSON has a backslash before each quote inside of a text."""


def measured_steps(folder: Path) -> set[int]:
    """Return the steps at which a run's own clock has measured all: both kinds on both splits.

    Of each line no more is read than its head, so that thousands of runs can be asked.

    Raises:
        InputError: a line that is whole and is no measurement.
    """
    found: dict[int, set[tuple[str, str]]] = {}
    for number, line in _lines(folder / FILE):
        head, ends, _ = line.partition(_HEAD_ENDS)
        if not line.endswith("}"):
            continue  # torn
        try:
            record = parse_json(head + "}" if ends else line)
            source, step, what = record["source"], record["step"], (record["kind"], record["split"])
        except (ValueError, KeyError, TypeError):
            raise _foreign(folder / FILE, number) from None
        if source == "clock":
            found.setdefault(step, set()).add(what)
    whole = {(kind, split) for kind in ("variance", "evaluation") for split in ("train", "test")}
    return {step for step, kinds in found.items() if whole <= kinds}


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: None for numbers that are not finite, paths as text."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


@contextmanager
def _waiting(file: Path) -> Iterator[None]:
    """Wait until no other process writes to a file. File systems without locks are not held."""
    with file.open("ab") as held:
        try:
            import fcntl

            fcntl.flock(held, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass
        yield
