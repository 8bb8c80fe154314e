"""Who works on a run: claims that exclude each other, heartbeats, and takeovers from the dead.

An attempt is a file `attempts/ARM-seedN/0001.json`, claimed by making it where none may be: of several processes that
claim the same number exactly one succeeds, on any file system that links or creates exclusively. Its end is written
into it. The next number may be claimed when the last attempt has ended, its process is gone (seen on the same machine
only) or its heart stopped. Its heart beats by touching the file: whoever waits sees the time of the file change, and
measures by a clock of its own for how long it does not, so that no two clocks need to agree. No file is ever removed or
handed on, so two processes cannot both believe that a claim is theirs, and the files are the history of the run.
"""

import json
import os
import secrets
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thermograd.errors import InputError
from thermograd.files import is_running, read_json, this_process, write_atomically

HEARTBEAT = 5.0
"""Seconds between heartbeats."""
STALE = 120.0
"""Seconds without a heartbeat after which an attempt counts as dead."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run.

    Attributes:
        file: its claim.
        number: counted from 1.
        facts: host, pid, worker and time of the start; and of the end the state and cause.
    """

    file: Path
    number: int
    facts: dict[str, Any]

    @property
    def ended(self) -> str | None:
        """Return how it ended: "done", "stopped" or "failed"; None while it runs, or if it died."""
        return self.facts.get("ended")

    def is_alive(self) -> bool:
        """Return whether it may still be at work; one elsewhere is taken to be, until its heart was seen to stand."""
        return not self.ended and is_running(self.facts) is not False and seconds_still(self.file) < STALE

    def beat_lately(self) -> bool:
        """Return whether its heart seems to have beaten lately, by clocks that may not agree: for display alone."""
        return is_running(self.facts) is True or abs(time.time() - self.file.stat().st_mtime) < STALE

    @property
    def died(self) -> bool:
        """Return whether it ended without a word."""
        return not self.ended and not self.is_alive()


_SEEN: dict[Path, tuple[int, float]] = {}


def seconds_still(file: Path) -> float:
    """Return for how many seconds this process has seen the time of a file stand still, 0 at first sight."""
    beat, now = file.stat().st_mtime_ns, time.monotonic()
    if _SEEN.get(file, (None, now))[0] != beat:
        _SEEN[file] = beat, now
    return now - _SEEN[file][1]


def read_attempts(folder: Path) -> list[Attempt]:
    """Return the attempts of a run, oldest first."""
    return [read_attempt(folder, number) for number in attempt_numbers(folder)]


def attempt_numbers(folder: Path) -> list[int]:
    """Return the numbers of the attempts at a run, oldest first, from one list of names."""
    try:
        names = [name.partition(".") for name in os.listdir(folder)]
    except OSError:
        return []
    return sorted(
        int(stem) for stem, _, kind in names if kind == "json" and stem.isascii() and stem.isdigit()
    )


def read_attempt(folder: Path, number: int) -> Attempt:
    """Return an attempt at a run."""
    file = _file(folder, number)
    try:
        facts = read_json(file, "attempt")
    except InputError:
        facts = {}  # claimed this moment, or by a process that died then: its heartbeat tells
    return Attempt(file, number, facts if isinstance(facts, dict) else {})


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:04d}.json"


class Claim:
    """A claim of this process on a run, kept alive by a thread until it is ended."""

    def __init__(self, file: Path, facts: dict[str, Any]):
        self.file, self.facts = file, facts
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT):
            try:
                # After a long sleep (a suspended machine) another may have taken over; two must not write on.
                if self._was_taken_over():
                    os._exit(1)
                os.utime(self.file)
            except OSError:  # a network file system does not answer for a moment; the next beat asks again
                continue

    def _was_taken_over(self) -> bool:
        return max(attempt_numbers(self.file.parent), default=0) > int(self.file.stem)

    def end(self, state: str, cause: str | None = None) -> None:
        """Write how it ended."""
        self._over.set()
        self._thread.join()
        facts = {**self.facts, "ended": state, "ended_at": time.time()}
        write_atomically(self.file, json.dumps(facts if cause is None else {**facts, "cause": cause}))


def claim(folder: Path) -> Claim | None:
    """Claim the next attempt at a run, or return None where another process may be at work."""
    folder.mkdir(parents=True, exist_ok=True)
    attempts = read_attempts(folder)
    if attempts and attempts[-1].is_alive():
        return None
    if attempts and not attempts[-1].ended and is_running(attempts[-1].facts):
        os.kill(attempts[-1].facts["pid"], signal.SIGKILL)  # it stands still here, and could wake up later
    number = attempts[-1].number + 1 if attempts else 1
    facts = {**this_process(), "worker": os.getppid(), "started": time.time()}
    file = _file(folder, number)
    aside = folder / f".claiming_{secrets.token_hex(8)}"
    aside.write_text(json.dumps(facts))
    try:
        os.link(aside, file)  # with its content or not at all, and never over another
    except FileExistsError:
        return None
    finally:
        aside.unlink()
    return Claim(file, facts)
