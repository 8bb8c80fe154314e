"""metrics.jsonl: one record on each line, added by one writer, and tied to the checkpoints.

Each checkpoint keeps the length and the sha256 that the file had when it was saved, and the file is on the disk before
the checkpoint is. So a file that is shorter or was damaged is noticed, and what follows a checkpoint is cut off before
its steps are done again.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from thermograd.errors import InputError
from thermograd.files import read_json_lines, sync, write_atomically


class Extent(TypedDict):
    """How far metrics.jsonl reached when a checkpoint was saved: its bytes and their sha256."""

    length: int
    sha256: str


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl: one record for each step and kind, the last written wins; damaged lines are left out."""
    records = {
        (record["kind"], record["step"]): record
        for record in read_json_lines(folder / "metrics.jsonl")
        if is_record(record)
    }
    return sorted(records.values(), key=lambda record: record["step"])


class MetricsFile:
    """metrics.jsonl, open for its one writer."""

    def __init__(self, file: Path):
        self.file = file
        is_new = not file.exists()
        self._stream = file.open("ab")
        if is_new:
            sync(file.parent)
        content = file.read_bytes()
        self._length, self._hash = len(content), hashlib.sha256(content)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record; a reader sees it at once."""
        line = json.dumps(record).encode() + b"\n"
        self._stream.write(line)
        self._stream.flush()
        self._length += len(line)
        self._hash.update(line)

    def save(self) -> Extent:
        """Wait until the records are on the disk, and return how far they reach."""
        os.fsync(self._stream.fileno())
        return {"length": self._length, "sha256": self._hash.hexdigest()}

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def reaches(file: Path, extent: Extent | None) -> bool:
    """Return whether a file begins with the very bytes that a checkpoint was saved with."""
    if extent is None:
        return False
    content = _beginning(file, extent["length"])
    return len(content) == extent["length"] and hashlib.sha256(content).hexdigest() == extent["sha256"]


def cut_after(file: Path, extent: Extent) -> int:
    """Cut a file off where a checkpoint was saved; return how many later lines, whole or torn, went."""
    if not file.exists():
        return 0
    with file.open("rb+") as stream:
        stream.seek(extent["length"])
        later = stream.read()
        stream.truncate(extent["length"])
        os.fsync(stream.fileno())
    return len(later.splitlines())


def mark_gap(file: Path, step: int) -> int:
    """Keep the readable records up to a step, mark after them that others are lost, and return how many were kept.

    The mark is a record of kind "gap" at that step.
    """
    kept = [record for record in read_json_lines(file) if is_record(record) and record["step"] <= step]
    kept = [record for record in kept if (record["kind"], record["step"]) != ("gap", step)]
    gap = {"kind": "gap", "step": step, "num_records_before": len(kept)}
    write_atomically(file, "".join(f"{json.dumps(record)}\n" for record in (*kept, gap)))
    return len(kept)


def is_record(record: Mapping[str, Any]) -> bool:
    """Return whether an object is a record: it says its kind and its step."""
    step = record.get("step")
    return isinstance(record.get("kind"), str) and isinstance(step, int) and not isinstance(step, bool)


def _beginning(file: Path, length: int) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(length)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from None
