"""Settings told by their types, each with name, type, default and description: for options, tables and docs."""

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from thermograd.config.fields import Named
from thermograd.config.tables import Table


class NoDefault(Enum):
    """The default of a setting that must be given."""

    REQUIRED = "required"


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: dotted.
        kind: bool, int, float, str or Path.
        choices: the only values there are; empty where any will do.
        table: of names, which plugins can add to, where it is a name.
        bounds: constraints of numbers, as pydantic has them.
        many: whether it takes several values.
        optional: whether None is a value.
        default: its default, or `NoDefault.REQUIRED`.
        description: what it does.
    """

    name: str
    kind: type
    choices: tuple[str, ...]
    table: Table[Any] | None
    bounds: tuple[Any, ...]
    many: bool
    optional: bool
    default: Any
    description: str

    @property
    def type(self) -> str:
        """Return the type and range in words: "integer ≥ 1", "a | b", "numbers"."""
        if self.choices:
            words = " | ".join(self.choices)
        else:
            known = {int: "integer", float: "number", bool: "true | false", Path: "path", dict: "mapping"}
            words = known.get(self.kind, "text")
            words = " ".join([f"{words}s" if self.many else words, *map(_bound, self.bounds)])
        return f"{words} or none" if self.optional else words


def settings_of(
    kind: type[BaseModel], prefix: str = "", defaults: BaseModel | None = None
) -> Iterator[Setting]:
    """Yield every setting of a group, those of groups inside it under dotted names.

    Args:
        kind: the group.
        prefix: of the names.
        defaults: the group where it holds other defaults than its own.
    """
    for name, info in kind.model_fields.items():
        default = info.default if defaults is None else getattr(defaults, name)
        inner = _group(info)
        if inner is not None:
            yield from settings_of(inner, f"{prefix}{name}.", None if info.is_required() else default)
        else:
            yield _setting(f"{prefix}{name}", info, NoDefault.REQUIRED if info.is_required() else default)


def settings_table(
    kind: type[BaseModel], values: Mapping[str, Any] | None = None
) -> list[tuple[str, str, str, str]]:
    """Return (setting, type, default, description) of every setting of a group.

    Args:
        kind: the group.
        values: of a run, nested, to be told in place of the defaults.
    """
    rows = []
    for setting in settings_of(kind):
        value = setting.default
        if values is not None:
            value = values
            for part in setting.name.split("."):
                value = value[part]
        rows.append((setting.name, setting.type, in_words(value), setting.description))
    return rows


def settings_like(kind: type[BaseModel], word: str) -> list[str]:
    """Return the dotted names of the settings that a user may mean by a word such as batch-size, lr or learning-rate.

    Those whose last part is the word, else those whose last part has its words, else whose description has them.

    Args:
        kind: the group of settings.
        word: without dashes in front.
    """
    words = set(word.lower().replace("-", "_").split("_"))
    every = [
        (each.name, each.name.rpartition(".")[2], each.description.lower()) for each in settings_of(kind)
    ]
    for found in (
        [name for name, last, _ in every if last == word.lower().replace("-", "_")],
        [name for name, last, _ in every if words <= set(last.split("_"))],
        [name for name, _, description in every if words <= set(description.split())],
    ):
        if found:
            return found
    return []


def in_words(value: Any) -> str:
    """Return a value as YAML has it, in one line."""
    if value is NoDefault.REQUIRED:
        return "must be given"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(in_words, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _group(info: FieldInfo) -> type[BaseModel] | None:
    found = info.annotation
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _setting(name: str, info: FieldInfo, default: Any) -> Setting:
    inner, bounds = _strip(info.annotation)
    bounds = (*info.metadata, *bounds)
    optional = many = False
    if get_origin(inner) in (Union, types.UnionType):
        parts = [part for part in get_args(inner) if part is not type(None)]
        optional = len(parts) < len(get_args(inner))
        inner, more = _strip(parts[0])
        bounds += more
    if get_origin(inner) is tuple:
        many = True
        inner, more = _strip([each for each in get_args(inner) if each is not Ellipsis][-1])
        bounds += more
    choices: tuple[str, ...] = ()
    table = next((each.func.table for each in bounds if _is_named(each)), None)
    if table is not None:
        choices = tuple(table)
    if get_origin(inner) is Literal:
        choices, inner = tuple(map(str, get_args(inner))), type(get_args(inner)[0])
    return Setting(
        name,
        _kind(inner),
        choices,
        table,
        tuple(bound for bound in bounds if isinstance(bound, Ge | Gt | Le | Lt)),
        many,
        optional,
        default,
        info.description or "",
    )


def _kind(inner: Any) -> type:
    found = get_origin(inner) or inner
    if not isinstance(found, type):
        return str
    return Path if issubclass(found, BaseModel) else found  # a plugin, of which a user writes the path alone


def _is_named(metadata: Any) -> bool:
    return isinstance(metadata, AfterValidator) and isinstance(metadata.func, Named)


def _strip(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without its annotations, and these."""
    found: tuple[Any, ...] = ()
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        for each in more:
            found += tuple(each.metadata) if isinstance(each, FieldInfo) else (each,)
    return annotation, found


def _bound(bound: Any) -> str:
    match bound:
        case Ge(ge=value):
            return f"≥ {value:g}"
        case Gt(gt=value):
            return f"> {value:g}"
        case Le(le=value):
            return f"≤ {value:g}"
        case Lt(lt=value):
            return f"< {value:g}"
    raise TypeError(f"no bound: {bound!r}")


def markdown_table(kind: type[BaseModel]) -> str:
    """Return the settings of a group as a table in Markdown, as docs/settings.md holds it."""
    rows = [
        f"| `{name}` | {type_.replace('|', '/')} | {default} | {description} |"
        for name, type_, default, description in settings_table(kind)
    ]
    return "\n".join(["| setting | type | default | what it is |", "|---|---|---|---|", *rows])
