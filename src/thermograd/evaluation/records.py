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
from thermograd.files import append_line, read_text

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
        return json.dumps({**vars(self), "values": None}, sort_keys=True)


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
    text = read_text(file, "measurements") if file.exists() else ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line:
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            torn.append(number)
            continue
        if not _is_record(values):
            raise InputError(f"`measurements` {file}, line {number}, is not a measurement of this version.")
        record = Record(**values)
        found[record.key] = record
    if torn:
        lines = ", ".join(map(str, torn))
        warnings.warn(f"{file}: torn lines are left out: {lines}.", stacklevel=2)
    return [
        record for record in found.values() if kind in (None, record.kind) and source in (None, record.source)
    ]


def _is_record(values: Any) -> bool:
    types: dict[str, type] = {name: str for name in (field.name for field in fields(Record))}
    types |= {"step": int, "epoch": int, "seed": int, "settings": dict, "values": dict}
    return (
        isinstance(values, dict)
        and set(values) == set(types)
        and all(isinstance(values[name], kind) for name, kind in types.items())
    )


def measured_steps(folder: Path) -> set[int]:
    """Return the steps at which a run's own clock has measured all: both kinds on both splits."""
    found: dict[int, set[tuple[str, str]]] = {}
    for record in read_records(folder, source="clock"):
        found.setdefault(record.step, set()).add((record.kind, record.split))
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
