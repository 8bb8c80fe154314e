"""The two kinds of failure that a user sees as one line, what their messages share, and reasons for doubt."""

import errno
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType


class InputError(ValueError):
    """Bad input: the message names the field and the value. The command line exits with 2.

    Example:
        >>> try:
        ...     tg.MALA(-0.1)
        ... except tg.InputError as error:
        ...     print(error)
        `step_size` must be positive, got -0.1.
    """


class RunError(RuntimeError):
    """Valid work failed while it ran. The command line exits with 1.

    Example:
        >>> issubclass(tg.RunError, RuntimeError)
        True
    """


@dataclass(frozen=True)
class Caution:
    """A reason to doubt a number. Code decides by its kind, never by its text, which may be reworded.

    Attributes:
        kind: a short name of the reason, such as "r-hat".
        text: one line for people, with figures and what to do.

    Example:
        >>> tg.Caution("acceptance", "acceptance 0.03 at t = 1: use a smaller step size.").kind
        'acceptance'
    """

    kind: str
    text: str

    def __str__(self) -> str:
        """Return the text."""
        return self.text

    def under(self, name: str) -> "Caution":
        """Return the caution with the name of what it is about in front of its text."""
        return replace(self, text=f"{name}: {self.text}")


def shown(text: str) -> str:
    """Return text for a terminal: what would move the cursor, change colours or turn the line is spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str, most: int = 1000) -> str:
    """Return a message as one line of bounded length that a terminal shows as it is."""
    line = shown(" ".join(text.split()))
    return line if len(line) <= most else f"{line[:most]} ... ({len(line) - most:,} more characters)"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out: Python's, a GPU's, or torch's on a CPU."""
    # Torch is not imported here; its error on a CPU is a RuntimeError that only its text tells from others.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error))
    )


def failure(error: BaseException) -> str:
    """Return what went wrong in one line without a full stop: memory and disks that are full as what they are."""
    text = " ".join(str(error).split()).rstrip(".")
    if is_out_of_memory(error):
        return (
            "out of memory: a smaller `training.batch_size` or `compute.chunk_size`, fewer chains or rungs need less"
            + (f" ({text})" if text else "")
        )
    if isinstance(error, OSError) and error.errno is not None:
        where = f" ({error.filename})" if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return ("the disk is full: make room and start again" if full else os.strerror(error.errno)) + where
    known = isinstance(error, InputError | RunError | OSError)
    return text if known and text else f"{type(error).__name__}{': ' * bool(text)}{text}"


def nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """Return the end of a sentence: "; did you mean ...?" with the nearest known name, or the list of all.

    Args:
        name: what was written.
        known: the names it may be.
        prefix: put before each of them.
    """
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {prefix + close[0]!r}?"
    return f"; known are {', '.join(prefix + each for each in known)}."


def check_positive(name: str, count: int) -> None:
    """Check that a count is at least 1.

    Raises:
        InputError: it is not.
    """
    if count < 1:
        raise InputError(f"`{name}` must be at least 1, got {count}.")


EXTRAS = {
    **{
        "pandas": "tables",
        "dask": "studies",
        "distributed": "studies",
        "duckdb": "studies",
        "pyarrow": "studies",
    },
    **{"h5py": "hdf5", "arviz": "arviz", "huggingface_hub": "hub"},
}
"""Packages that not every installation has, and the extra that brings each."""


def import_extra(module: str) -> ModuleType:
    """Import a package of `EXTRAS`, or a module of one.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        line = missing_extra(error)
        if line is None:
            raise
        raise InputError(line) from None


def missing_extra(error: BaseException) -> str | None:
    """Return what to install where an error says that a package of `EXTRAS` is not there; None for other errors."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    package = error.name.split(".")[0]
    if package not in EXTRAS:
        return None
    return f"{package} is not installed: pip install 'thermograd[{EXTRAS[package]}]'."
