"""Tables of names: facts by name, and what computes by the same names; plugins add to them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Generic, TypeVar

from thermograd.errors import InputError, nearest


@dataclass(frozen=True)
class Facts:
    """What is known of an algorithm.

    Attributes:
        name: as users write it.
        summary: one line, for help.
        history: kept for its proofs and for comparison; new studies leave it out.
    """

    name: str
    _: KW_ONLY
    summary: str = ""
    history: bool = False

    @property
    def in_words(self) -> str:
        """Return the summary, marked where the algorithm is history."""
        return f"{self.summary}{' (history: kept for comparison)' * self.history}"


F = TypeVar("F", bound=Facts)
T = TypeVar("T")
NAME = re.compile(r"[^\s:]+(:[^\s:]+)?")


class Table(Mapping[str, F], Generic[F]):
    """Facts by name, in a fixed order: the package's own, then what was registered.

    Args:
        word: what an entry is, in messages, as "estimator".
        entries: the package's own facts.
        explained: what users call several entries at once -> a sentence that tells them apart.
    """

    def __init__(self, word: str, entries: Iterable[F], explained: Mapping[str, str] | None = None):
        self.word, self.explained = word, explained or {}
        self._entries = {facts.name: facts for facts in entries}
        self._things: dict[str, tuple[Any, str]] = {}

    def __getitem__(self, name: str) -> F:
        """Return the facts of a name."""
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def check(self, name: str, field: str = "") -> str:
        """Return the name if it is known.

        Args:
            name: what was written.
            field: where, for the message; "" where the caller puts it in front.

        Raises:
            InputError: it is not known; the message gives the nearest one.
        """
        if name not in self._entries:
            place = f"`{field}` " if field else ""
            hint = nearest(name, list(self))
            if name in self.explained:
                hint = f": {self.explained[name]}"
            raise InputError(f"{place}{name!r} is not a known {self.word}{hint}")
        return name

    def add(self, facts: F, thing: Any, origin: str = "", replace: bool = False) -> None:
        """Add an entry.

        Args:
            facts: what is known of it.
            thing: what computes.
            origin: sha256 of the plugin that brings it, or "" for what Python code registers.
            replace: take the place of an entry that Python code registered.

        Raises:
            InputError: no name, or one that is taken.
        """
        name, held = facts.name, self._things.get(facts.name)
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            raise InputError(f"`name` must be a word without spaces, got {name!r} ({self.word}).")
        if name in self and held is None:
            raise InputError(f"`name` {name!r} is taken by the package ({self.word}).")
        if held is not None and held[1] == origin and not (replace and not origin):
            raise InputError(f"`name` {name!r} is registered twice ({self.word}).")
        if held is not None and held[1] != origin:
            raise InputError(
                f"`name` {name!r} is taken in this process by another plugin, or another version of it ({self.word}); "
                f"start Python anew, or choose another name."
            )
        self._entries[name], self._things[name] = facts, (thing, origin)

    def remove(self, origin: str) -> None:
        """Remove what a plugin brought."""
        for name in [name for name, (_, each) in self._things.items() if each == origin]:
            del self._entries[name], self._things[name]

    def is_own(self, name: str) -> bool:
        """Return whether an entry is the package's own."""
        return name in self._entries and name not in self._things

    def thing(self, name: str) -> Any:
        """Return what computes, of an entry that was registered; None of the package's own."""
        return self._things.get(name, (None, ""))[0]

    def origin(self, name: str) -> str:
        """Return the sha256 of the plugin that an entry comes from, or ""."""
        return self._things.get(name, (None, ""))[1]

    @property
    def current(self) -> list[str]:
        """Return the names of those that are not history."""
        return [name for name, facts in self.items() if not facts.history]

    @property
    def help(self) -> str:
        """Return one line that says what each is."""
        return "; ".join(f"{name}: {facts.in_words}" for name, facts in self.items())


class Made(Mapping[str, T], Generic[T]):
    """What computes, by the names of a table: the package's own, and what was registered.

    Args:
        table: the names.
        own: what computes for each of the package's own.
    """

    def __init__(self, table: Table[Any], own: Mapping[str, T]):
        self._table, self._own = table, dict(own)

    def __getitem__(self, name: str) -> T:
        """Return what computes."""
        return self._own[name] if name in self._own else self._table.thing(self._table[name].name)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._table)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._table)
