"""Options made from settings: a field is an option, with its type, range, default and description."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from thermograd.cli.common import NameOf
from thermograd.config.describe import NoDefault, Setting, in_words, settings_of
from thermograd.config.fields import Section
from thermograd.config.measure import MeasureConfig
from thermograd.config.resolve import validate
from thermograd.evaluation.settings import (
    CompareSettings,
    EvaluationSettings,
    RunEvidenceSettings,
    SampleSettings,
    VarianceSettings,
)

VERBS: dict[str, tuple[type[Section], dict[str, str]]] = {
    "evaluate": (
        EvaluationSettings,
        {"num_images": "num", "num_evidence": "evidence", "extractor": "distance"},
    ),
    "variance": (
        VarianceSettings,
        {"estimators": "estimator", "num_batches": "batches", "num_repeats": "repeats"},
    ),
    "evidence": (
        RunEvidenceSettings,
        {"num_images": "num", "num_evaluations": "evaluations", "num_replicates": "replicates"},
    ),
    "compare": (
        CompareSettings,
        {
            "num_images": "num",
            "num_evidence": "evidence",
            "num_evaluations": "evaluations",
            "num_replicates": "replicates",
        },
    ),
    "sample": (SampleSettings, {"num_images": "num"}),
    "measure": (
        MeasureConfig,
        {
            "estimators": "estimator",
            "num_batches": "batches",
            "num_repeats": "repeats",
            "extractor": "distance",
        },
    ),
}
"""Verb -> its settings, and short names of options where they are not those of the fields."""
WITHOUT = {
    "evaluate": {"source", "batch_size"},
    "variance": {"reference"},
    "measure": {"every", "keep"},
}
"""Settings that are no options of a verb, or that it words for itself."""


_HISTORY = " The others are history, kept for comparison."


def options_of(verb: str) -> list[click.Option]:
    """Return the options of a verb."""
    kind, words = VERBS[verb]
    return [
        _option(setting, words)
        for setting in settings_of(kind)
        if setting.name not in WITHOUT.get(verb, set())
    ]


def given(verb: str, options: Mapping[str, Any], **more: Any) -> Any:
    """Return the settings of a verb from its options; what was not given has its default.

    Raises:
        InputError: one line that names each setting and value at fault.
    """
    kind, words = VERBS[verb]
    values: dict[str, Any] = dict(more)
    for setting in settings_of(kind):
        value = options.get(_parameter(setting.name))
        if value is None or value == ():
            continue
        group = values
        *parents, last = setting.name.split(".")
        for parent in parents:
            if parent not in group:
                held = kind.model_fields[parent].default
                group[parent] = held.model_dump() if isinstance(held, BaseModel) else {}
            group = group[parent]
        group[last] = tuple(dict.fromkeys(value)) if setting.many else value
    return validate(kind, values, {name: f"--{word}" for name, word in words.items()})


def _parameter(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _option(setting: Setting, words: Mapping[str, str]) -> click.Option:
    name = _parameter(setting.name)
    word = words.get(name, name).replace("_", "-")
    default = in_words(setting.default)
    if setting.many and setting.default:
        default = ", ".join(map(str, setting.default))
    elif setting.default is None or setting.many:
        default = ""  # the description says what none means
    flag = setting.kind is bool
    return click.Option(
        [f"--{word}/--no-{word}" if flag else f"--{word}", name],
        type=None if flag else _type(setting),
        multiple=setting.many,
        default=None,
        required=setting.default is NoDefault.REQUIRED,
        help=f"{setting.description[:1].upper()}{setting.description[1:]}"
        + ("; may be repeated." if setting.many else ".")
        + (f" [default: {default}]" if default else "")
        + (_HISTORY if setting.table is not None and len(setting.table.current) < len(setting.table) else ""),
    )


def _type(setting: Setting) -> Any:
    if setting.table is not None:
        return NameOf(setting.table)
    if setting.choices:
        return click.Choice(setting.choices)
    if setting.kind is Path:
        return click.Path(path_type=Path)
    if setting.kind not in (int, float):
        return setting.kind
    limits: dict[str, Any] = {}
    for bound in setting.bounds:
        for name, key, is_open in (
            ("ge", "min", False),
            ("gt", "min", True),
            ("le", "max", False),
            ("lt", "max", True),
        ):
            if hasattr(bound, name):
                limits |= {key: getattr(bound, name), f"{key}_open": is_open}
    return (click.IntRange if setting.kind is int else click.FloatRange)(**limits)
