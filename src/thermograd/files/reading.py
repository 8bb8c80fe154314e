"""One reader each for text, YAML, JSON and lines of JSON; whatever a file holds, an error is one line that names it.

YAML is read as it is written: the core schema of YAML 1.2, in which `on`, `1:30`, `1_000`, `010` and `2001-01-01` are
text and 1e-4 is a number; keys are always text. Merge keys stay. A key given twice is refused, and so is a file that
is too large, too deep, or would grow too large through its aliases.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import from_json

from thermograd.errors import InputError

MAX_YAML_BYTES, MAX_JSON_BYTES, MAX_LINE_BYTES = 2**20, 2**29, 2**24
MAX_NODES = 50_000
"""Values in a YAML file, each alias counted as what it stands for."""
MAX_DEPTH = 50
MAX_DIGITS = 100


def read_text(file: Path, name: str, max_bytes: int = MAX_JSON_BYTES) -> str:
    """Read a text file in UTF-8.

    Args:
        file: what is read.
        name: of the setting that gave it, for messages.
        max_bytes: a larger file is refused.

    Raises:
        InputError: it is missing, not a file, too large, or not UTF-8.
    """
    if "\0" in str(file):
        raise InputError(f"`{name}` {str(file)!r} is not a file name.")
    try:
        # A pipe or a device has no size to check, and may never end.
        if not file.is_file():
            raise InputError(f"`{name}` {file} {'is not a file' if file.exists() else 'does not exist'}.")
        size = file.stat().st_size
        if size > max_bytes:
            raise InputError(f"`{name}` {file} must be at most {max_bytes:,} bytes, got {size:,}.")
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"`{name}` {file} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"`{name}` {file} is not UTF-8 text: byte {error.start} is wrong.") from None


# --- YAML ---


def read_yaml(file: Path, name: str = "config") -> dict[str, Any]:
    """Read a YAML file that holds a mapping; an empty one gives an empty mapping.

    Raises:
        InputError: it cannot be read, is not YAML, gives a key twice, is beyond a limit, or holds anything else.
    """
    values = _construct(read_text(file, name, MAX_YAML_BYTES), f"`{name}` {file}")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"`{name}` {file} must hold a mapping of settings, got {type(values).__name__}.")
    return values


def parse_yaml(text: str, name: str) -> Any:
    """Read one value in YAML, e.g. from a command line; what is not YAML stays text.

    Raises:
        InputError: a value beyond a limit, or with a key given twice.
    """
    try:
        return _Loader(text, f"`{name}`").value()
    except InputError:
        raise
    except (yaml.YAMLError, *_OF_VALUES):
        return text


def _construct(text: str, place: str) -> Any:
    try:
        return _Loader(text, place).value()
    except InputError:
        raise
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        raise InputError(f"{place} is not YAML: {line}{' '.join(str(problem or error).split())}.") from None
    except _OF_VALUES as error:
        raise InputError(
            f"{place} holds a value that cannot be read: {' '.join(str(error).split())}."
        ) from None


_OF_VALUES = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What PyYAML raises for a value that its own tag does not fit, such as `!!int x`."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with limits, unique keys and the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (as PyYAML has it)

    def __init__(self, text: str, place: str):
        self.place, self.depth = place, 0
        super().__init__(text)

    def value(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        self._count(node, {})
        return self.construct_document(node)

    def refuse(self, node: yaml.Node, problem: str) -> InputError:
        return InputError(f"{self.place} {problem} (line {node.start_mark.line + 1}).")

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            line = self.peek_event().start_mark.line + 1
            raise InputError(f"{self.place} is nested deeper than {MAX_DEPTH} levels (line {line}).")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _count(self, node: yaml.Node, known: dict[int, int]) -> int:
        """Return how many values a node holds, aliases counted as what they stand for."""
        if id(node) in known:
            if not known[id(node)]:
                raise self.refuse(node, "holds an alias of what it is itself a part of")
            return known[id(node)]
        known[id(node)] = 0
        if node.tag not in _TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise self.refuse(node, f"has a value with the tag {tag}, which is not read")
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            inner = [each for pair in node.value for each in pair]
        elif node.tag in _NUMBERS and len(node.value) > MAX_DIGITS:
            raise self.refuse(node, f"has a number of {len(node.value)} digits, more than {MAX_DIGITS}")
        known[id(node)] = 1 + sum(self._count(each, known) for each in inner)
        if known[id(node)] > MAX_NODES:
            raise self.refuse(node, f"holds more than {MAX_NODES:,} values")
        return known[id(node)]

    def _check_keys(self, node: yaml.MappingNode) -> None:
        """Make each key text, as it is written, and refuse one that is given twice."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.refuse(key, "has a key that is not a name")
            if key.tag == _MERGE:
                continue
            key.tag = _TEXT
            line = key.start_mark.line + 1
            if key.value in lines:
                places = (
                    f"lines {lines[key.value]} and {line}" if lines[key.value] != line else f"line {line}"
                )
                raise InputError(f"{self.place} gives `{key.value}` twice ({places}).")
            lines[key.value] = line


_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_TAGS = {_TEXT, _MERGE, *_NUMBERS} | {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "seq", "map")}
for _tag, _pattern, _first in (
    (_MERGE, r"<<", "<"),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (_NUMBERS[0], r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    (
        _NUMBERS[1],
        r"[-+]?(?:(?:[0-9]*\.[0-9]+|[0-9]+\.)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
        r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
):
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), list(_first))


# --- JSON ---


def parse_json(text: str | bytes) -> Any:
    """Return what JSON in UTF-8 holds.

    Raises:
        ValueError: it is not JSON, is nested deeper than 200 levels, or has a number of more than 4,300 digits.
    """
    return from_json(text)


def read_json(file: Path, name: str) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it cannot be read, or is not JSON.
    """
    text = read_text(file, name)
    try:
        return parse_json(text)
    except ValueError as error:
        raise InputError(f"`{name}` {file} is damaged: it is not JSON ({error}).") from None


def read_json_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file with one on each line, none where it is missing; damaged lines are passed over.

    A line can be torn by a crash while it was written; who must know of others compares hashes.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            while line := stream.readline(MAX_LINE_BYTES):
                try:
                    record = parse_json(line)
                except ValueError:
                    continue
                if isinstance(record, dict):
                    yield record
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from None
