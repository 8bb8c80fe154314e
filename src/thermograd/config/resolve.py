"""Presets, files and single settings resolved into one config, with errors that name the field and the value.

A run is resolved once, in this order: preset, then a file, then what the command line says.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from thermograd.config.names import preset_names
from thermograd.config.plugins import load_plugins, with_whole_paths
from thermograd.config.schema import RunConfig
from thermograd.config.start import find_start
from thermograd.errors import InputError, nearest, shown
from thermograd.files import read_yaml

Kind = TypeVar("Kind", bound=BaseModel)


def load_preset(name: str) -> dict[str, Any]:
    """Return a preset as nested dictionaries.

    Raises:
        InputError: an unknown name; the message gives the nearest one.
    """
    if name not in preset_names():
        raise InputError(f"`preset` {name!r} is not known{nearest(name, preset_names())}")
    text = (resources.files("thermograd.config") / "presets" / f"{name}.yaml").read_text()
    return {"preset": name, **yaml.safe_load(text)}


def resolve(
    preset: str,
    *,
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    words: Mapping[str, str] | None = None,
) -> tuple[RunConfig, dict[str, Any]]:
    """Resolve a run: preset, then file, then dotted overrides such as {"optimiser.prior_lr": 1e-4}.

    Args:
        preset: its name.
        file: of settings on top of it.
        overrides: dotted settings on top of both.
        words: what a user called a setting, where not by its name.

    Returns:
        The config, and what was requested on top of the preset, as nested dictionaries.

    Raises:
        InputError: one line that names each field and value at fault.
    """
    requested: dict[str, Any] = {}
    if file is not None:
        requested = find_start(with_whole_paths(read_yaml(file), file.parent), file.parent)
    if requested.get("preset", preset) != preset:
        raise InputError(f"`preset` is {requested['preset']!r} in {file}, and {preset!r} was asked for.")
    requested = with_overrides(requested, overrides or {})
    return validate_config(_merge(load_preset(preset), requested), words=words), requested


def validate_config(
    values: Mapping[str, Any], copies: Path | None = None, words: Mapping[str, str] | None = None
) -> RunConfig:
    """Check nested dictionaries, load the plugins that they name, and return the config.

    Args:
        values: nested settings; relative paths of plugins begin where the process stands.
        copies: the folder that holds copies of the plugins, which are loaded in place of the files.
        words: what a user called a setting, where not by its name.

    Raises:
        InputError: one line that names each field and value at fault, or a plugin or run to begin with at fault.
    """
    here = Path.cwd()
    return validate(RunConfig, load_plugins(find_start(with_whole_paths(values, here), here), copies), words)


def settings_of(kind: type[Kind], base: Mapping[str, Any], overrides: Mapping[str, Any]) -> Kind:
    """Return settings of a kind: a base of nested dictionaries, then dotted overrides.

    Raises:
        InputError: one line that names each field and value at fault.
    """
    return validate(kind, _merge(base, with_overrides({}, overrides)))


def validate(
    kind: type[Kind],
    values: Mapping[str, Any],
    words: Mapping[str, str] | None = None,
    *,
    checked_before: bool = False,
) -> Kind:
    """Check nested dictionaries and return what they describe.

    Args:
        kind: the group of settings.
        values: nested dictionaries.
        words: what a user calls a setting, where it is not by its name.
        checked_before: take names of algorithms on trust, as those of a run that is only read: plugins are not loaded.

    Raises:
        InputError: one line that names each field and value at fault.
    """
    try:
        return kind.model_validate(values, context={"checked_before": checked_before})
    except ValidationError as error:
        raise InputError(shown(" ".join(_describe(error, kind, words or {})))) from None


def _describe(error: ValidationError, root: type[BaseModel], words: Mapping[str, str]) -> list[str]:
    """Return a sentence for each error, with the dotted field and the value."""
    sentences = []
    for item in error.errors():
        dotted = ".".join(str(part) for part in item["loc"] if part != "[key]")
        dotted = next((words[part] for part in map(str, item["loc"]) if part in words), dotted)
        if item["type"] == "extra_forbidden":
            *parents, last = [str(part) for part in item["loc"]]
            names = list(_section(root, parents).model_fields)
            hint = nearest(last, names, prefix="".join(f"{parent}." for parent in parents))
            sentences.append(f"`{dotted}` is not a setting{hint}")
        elif item["type"] == "value_error":
            sentence = str(item["ctx"]["error"])
            sentence += "" if sentence[-1] in ".?" else "."
            sentences.append(sentence if sentence.startswith("`") else f"`{dotted}` {sentence}")
        elif item["type"] == "missing":
            sentences.append(f"`{dotted}` must be given.")
        else:
            message = item["msg"].replace("Input should be", "must be")
            sentences.append(f"`{dotted}` {message[0].lower() + message[1:]}, got {item['input']!r}.")
    return sentences


def _section(root: type[BaseModel], parents: list[str]) -> type[BaseModel]:
    """Return the group of settings that a place lies in; places in lists and mappings are passed over."""
    for name in parents:
        annotation = root.model_fields[name].annotation if name in root.model_fields else None
        for inner in (annotation, *get_args(annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                root = inner
    return root


def with_overrides(values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Set dotted settings in nested dictionaries, and return these.

    Raises:
        InputError: a dotted name that leads through a value.
    """
    for dotted, value in overrides.items():
        _set(values, dotted, value)
    return values


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for name in parents:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            raise InputError(f"`{dotted}` is not a setting: `{name}` is a value, {inner!r}.")
        values = inner
    before = values.get(last)
    values[last] = _merge(before, value) if isinstance(before, dict) and isinstance(value, Mapping) else value


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in top.items():
        inner = merged.get(name)
        merged[name] = (
            _merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
        )
    return merged
