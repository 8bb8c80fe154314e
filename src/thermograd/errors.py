"""The two kinds of failure that a user sees as one line, what their messages share, and reasons for doubt."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace


class InputError(ValueError):
    """Bad input: the message names the field and the value. The command line exits with 2."""


class RunError(RuntimeError):
    """Work that was well specified failed while running. The command line exits with 1."""


@dataclass(frozen=True)
class Caution:
    """A reason to doubt a number. Programs decide by its kind, never by its text, which may be reworded.

    Attributes:
        kind: a short name of the reason, as "r-hat".
        text: one line for people, with figures and what to do.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        """Return the text."""
        return self.text

    def under(self, name: str) -> "Caution":
        """Return the caution with the name of what it is about in front of its text."""
        return replace(self, text=f"{name}: {self.text}")


def nearest(name: str, known: Sequence[str]) -> str:
    """Return "; did you mean ...?" with the nearest known name, or the list of all where none is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def check_positive(name: str, count: int) -> None:
    """Check that a count is at least 1.

    Raises:
        InputError: it is not.
    """
    if count < 1:
        raise InputError(f"`{name}` must be at least 1, got {count}.")
