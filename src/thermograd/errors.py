"""The two kinds of failure that a user sees as one line, and what their messages share."""

import difflib
from collections.abc import Sequence


class InputError(ValueError):
    """Bad input: the message names the field and the value. The command line exits with 2."""


class RunError(RuntimeError):
    """Work that was well specified failed while running. The command line exits with 1."""


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
