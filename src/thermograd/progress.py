"""How far long work is, and how long it will take: told by loops, shown by whoever listens, and by nobody otherwise.

A loop says `for batch in steps(batches, "batches")`; loops inside it count as parts of one of its steps. Whoever wants
to see it says `with shown():`, and sees a bar in a terminal or a notebook, and elsewhere, as in a log, a line now and
then without control characters.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")
EVERY = 10.0
"""Seconds between lines where there is neither a terminal nor a notebook."""


def steps(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Yield the items, and tell how many are done.

    Example:
        >>> list(steps("ab", "letters"))
        ['a', 'b']
    """
    try:
        for done, item in enumerate(items):
            tell(what, done, len(items))
            yield item
    finally:  # a loop that is left early is at its end, too
        tell(what, len(items), len(items))


def tell(what: str, done: int, total: int, note: str = "", seconds_left: float | None = None) -> None:
    """Tell whoever listens how far a loop is; arguments are those of `Meter.tell`."""
    meter = _listening.get()
    if meter is not None:
        meter.tell(what, done, total, note, seconds_left)


@dataclass(frozen=True)
class _Level:
    what: str
    done: int
    total: int
    note: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.done}/{self.total}"


class Meter:
    """Loops inside loops as one fraction, and the time that is left.

    Args:
        show: called with the meter at each step.
        clock: of the seconds; None for the system's.
    """

    def __init__(self, show: Callable[["Meter"], None], clock: Callable[[], float] | None = None):
        self.show, self.clock = show, clock or time.monotonic
        self.levels: list[_Level] = []
        self.seconds_left: float | None = None
        self._begun, self._first = self.clock(), 0.0

    def tell(
        self, what: str, done: int, total: int, note: str = "", seconds_left: float | None = None
    ) -> None:
        """Say how far a loop is; a loop of another name is inside those that are not at their end.

        Args:
            what: the loop.
            done: its steps done.
            total: its steps in all.
            note: shown behind it.
            seconds_left: where it is known better than from the pace so far.
        """
        names = [level.what for level in self.levels]
        self.levels = self.levels[: names.index(what) if what in names else len(names)]
        while self.levels and self.levels[-1].done >= self.levels[-1].total:
            self.levels.pop()
        self.levels.append(_Level(what, done, max(total, 1), note))
        if len(self.levels) == 1 and what not in names[:1]:
            self._begun, self._first = self.clock(), self.fraction
        gone = self.fraction - self._first
        left = (self.clock() - self._begun) * (1 - self.fraction) / gone if gone > 0 else None
        self.seconds_left = left if seconds_left is None else seconds_left
        self.show(self)

    @property
    def fraction(self) -> float:
        """Return the share of all that is done: that of the outermost loop, with the steps of inner ones as parts."""
        fraction, share = 0.0, 1.0
        for level in self.levels:
            fraction += share * level.done / level.total
            share /= level.total
        return min(fraction, 1.0)

    def __str__(self) -> str:
        """Return "training 120/300, batches 2/4, 9 s left, note"."""
        left = (
            [] if self.seconds_left is None or self.fraction >= 1 else [f"{in_words(self.seconds_left)} left"]
        )
        notes = [level.note for level in self.levels[:1] if level.note]
        return ", ".join([*map(str, self.levels), *left, *notes])


_listening: ContextVar[Meter | None] = ContextVar("listening", default=None)


@contextmanager
def shown(*, only_live: bool = False) -> Iterator[Callable[[str], None]]:
    """Show what loops tell on standard error, and yield what prints a line beside it.

    Args:
        only_live: show nothing where there is neither a terminal nor a notebook.
    """
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if console.is_jupyter or not console.is_terminal:
        show = _Cell() if console.is_jupyter else _nothing if only_live else _Lines()
        with _listen(Meter(show)):
            yield _print
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(bar_width=20), TimeElapsedColumn(), TextColumn("{task.fields[told]}", markup=False))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0, told="")
        with _listen(Meter(lambda meter: bar.update(task, completed=meter.fraction, told=str(meter)))):
            yield lambda line: console.print(line, markup=False, soft_wrap=True)


@contextmanager
def _listen(meter: Meter) -> Iterator[None]:
    token = _listening.set(meter)
    try:
        yield
    finally:
        _listening.reset(token)


def _nothing(meter: Meter) -> None:
    """Show nothing."""


class _Cell:
    """One line below a notebook's cell, which follows the meter."""

    def __init__(self) -> None:
        from IPython.display import display

        self._handle = display({"text/plain": ""}, raw=True, display_id=True)
        self._next = 0.0

    def __call__(self, meter: Meter) -> None:
        now = time.monotonic()
        if self._handle is not None and (now >= self._next or meter.fraction >= 1):
            self._next = now + 0.5
            self._handle.update({"text/plain": str(meter)}, raw=True)


class _Lines:
    """Prints a line now and then, and at the end of what took that long."""

    def __init__(self) -> None:
        self._next = time.monotonic() + EVERY
        self._has_printed = False

    def __call__(self, meter: Meter) -> None:
        is_end = self._has_printed and meter.fraction >= 1
        if time.monotonic() >= self._next or is_end:
            self._next, self._has_printed = time.monotonic() + EVERY, not is_end
            _print(str(meter))


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def in_words(seconds: float) -> str:
    """Return a time in one or two units.

    Example:
        >>> in_words(9.4), in_words(200), in_words(8000)
        ('9 s', '3 min', '2 h 13 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
