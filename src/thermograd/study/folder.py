"""The study folder, in which files are the only truth.

study.json      the study file with its versions, and for each run: identity, arm, seed, the version it came with
study.yaml      the study file once more, for people
plugins/        copies of the files that bring algorithms, from which its runs load them
runs/ARM-seedN/  a run folder each, as `thermograd train` makes them
attempts/ARM-seedN/0001.json ...  who worked on it, and how that ended;  log.txt  what it printed
results.parquet, results.csv     the table, written at the end of every `study run`
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from thermograd.config.plugins import PLUGINS, copy_plugin
from thermograd.errors import InputError, failure
from thermograd.files import begun_writing, read_json, write_atomically
from thermograd.study.file import StudyFile, parse_study
from thermograd.study.plan import check_metrics, check_weights, plan_runs
from thermograd.study.run import StudyRun

FROZEN = ("name", "preset", "equal", "contrasts")
"""What a study cannot change once it has begun: contrasts are only worth something if they were named before."""
RUNS = ("overrides", "arms", "grid", "plugins")
"""What may change as far as the runs stay the same: settings that change no trained number."""


@dataclass(frozen=True)
class StudyFolder:
    """A study on disk: its folder, what is measured, and its runs."""

    path: Path
    study: StudyFile
    runs: tuple[StudyRun, ...]

    def run_folder(self, identity: str) -> Path:
        """Return the folder of a run."""
        return self.path / "runs" / (self.run(identity).folder or identity)

    def attempts_folder(self, identity: str) -> Path:
        """Return the folder of the attempts at a run."""
        return self.path / "attempts" / (self.run(identity).folder or identity)

    def run(self, identity: str) -> StudyRun:
        """Return a run by its identity."""
        return self._by_identity[identity]

    @cached_property
    def _by_identity(self) -> dict[str, StudyRun]:
        return {run.identity: run for run in self.runs}


def make_study(file: StudyFile, path: Path) -> StudyFolder:
    """Make a study folder, or open it where it holds the same study.

    Raises:
        InputError: the folder holds something else, or another version of the study; or a new study cannot measure
            what it compares.
    """
    planned = named(plan_runs(file))
    check_metrics(file, planned)
    if (path / "study.json").is_file():
        held = open_study(path)
        changed = [name for name in _changes(held.study, file) if name != "measure"]
        if set(changed) - set(RUNS) or (changed and _keys(planned) != _keys(held.runs)):
            raise InputError(
                f"`out` {path} holds another version of study {held.study.name!r} (changed: {', '.join(changed)}); "
                f"extend it with `study add`, or choose another --out."
            )
        if held.study != file:
            _write(path, file, _kept(held, planned), read_json(path / "study.json", "study")["versions"])
        return open_study(path)
    if path.exists() and (not path.is_dir() or set(path.iterdir()) - _begun(path)):
        raise InputError(f"`out` {path} is not empty and holds no study.")
    check_weights(file)  # a study that is under way may do without them here
    _write(path, file, planned, [{"time": time.time(), "version": 0}])
    return open_study(path)


def extend_study(file: StudyFile, path: Path) -> tuple[StudyFolder, int]:
    """Add the arms, seeds and cells of a larger study file to a study folder; return it and how many runs are new.

    Raises:
        InputError: the file changes what was named before the first run, or lacks a run that the study has.
    """
    held = open_study(path)
    for name in FROZEN:
        if getattr(held.study, name) != getattr(file, name):
            raise InputError(f"`{name}` cannot change once a study has begun; start another study.")
    began = {plugin.file.name: plugin for plugin in held.study.plugins}
    for plugin in file.plugins:
        if began.get(plugin.file.name, plugin) != plugin:
            raise InputError(
                f"`plugins` {plugin.file} has changed since the study began; give the new version another name."
            )
    planned = plan_runs(file)
    check_metrics(file, planned)
    known = {run.identity for run in held.runs}
    lacking = known - {run.identity for run in planned}
    if lacking:
        run = held.run(min(lacking))
        raise InputError(
            f"`{'overrides' if file.overrides != held.study.overrides else 'arms'}` of the file lack a run of the "
            f"study: {run.arm}, seed {run.seed}; only add to it."
        )
    versions = read_json(path / "study.json", "study")["versions"]
    new = named(
        [replace(run, added=len(versions)) for run in planned if run.identity not in known], held.runs
    )
    if new:
        versions.append({"time": time.time(), "version": len(versions)})
    if new or held.study != file:
        _write(path, file, [*_kept(held, planned), *new], versions)
    return open_study(path), len(new)


def larger_study(
    file: StudyFile, seeds: Any = None, arms: Mapping[str, Any] | None = None, path: Path | None = None
) -> StudyFile:
    """Return a study with more seeds and arms.

    Args:
        file: the study.
        seeds: a count or a list, which must hold those of the study; None to leave them.
        arms: further arms by name, as a study file has them.
        path: the folder of the study, whose copies of plugins are loaded; None to load the files themselves.

    Raises:
        InputError: an arm of a name that the study has, or settings at fault.
    """
    values = file.model_dump(mode="json", exclude_unset=True)
    for name in arms or {}:
        if name in file.arms:
            raise InputError(f"`arm` {name!r} is one of the study already; give the new one another name.")
    changed = {"arms": {**values["arms"], **(arms or {})}} | ({} if seeds is None else {"seeds": seeds})
    if path is not None and file.plugins:
        values["plugins"] = [str((path / PLUGINS / plugin.file.name).absolute()) for plugin in file.plugins]
    return parse_study({**values, **changed})


def named(runs: Sequence[StudyRun], before: Sequence[StudyRun] = ()) -> list[StudyRun]:
    """Return runs with folders of different names, none of them that of a run before."""
    taken, done = [run.folder for run in before], []
    for run in runs:
        done.append(run.named(taken))
        taken.append(done[-1].folder)
    return done


def _kept(held: StudyFolder, planned: Sequence[StudyRun]) -> list[StudyRun]:
    """Return the runs of a study with the settings that its file has now, in their folders."""
    now = {run.identity: run for run in planned}
    return [replace(now[run.identity], added=run.added, folder=run.folder) for run in held.runs]


def _keys(runs: Sequence[StudyRun]) -> set[tuple[str, str]]:
    return {(run.identity, run.arm) for run in runs}


def open_study(path: Path) -> StudyFolder:
    """Open a study folder.

    Raises:
        InputError: it is none.
    """
    if not (path / "study.json").is_file():
        raise InputError(f"`study` {path} is not a study folder: it has no study.json.")
    held = read_json(path / "study.json", "study")
    try:
        runs = TypeAdapter(tuple[StudyRun, ...]).validate_python(held["runs"], strict=False)
        study = held["study"]
    except (ValidationError, KeyError, TypeError) as error:
        problem = failure(error) if not isinstance(error, ValidationError) else error.errors()[0]["msg"]
        raise InputError(f"`study` {path} is damaged: study.json holds no study ({problem}).") from None
    if len({run.identity for run in runs}) < len(runs) or not runs:
        raise InputError(f"`study` {path} is damaged: study.json must hold different runs, at least one.")
    return StudyFolder(path, parse_study(study, checked_before=True), runs)


def _begun(path: Path) -> set[Path]:
    """Return what a process that died while it made the folder may have left."""
    return {path / "study.yaml", path / PLUGINS, *begun_writing(path)}


def _write(path: Path, file: StudyFile, runs: Sequence[StudyRun], versions: list[dict[str, Any]]) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"`out` {path} cannot be made: {error.strerror}.") from None
    for plugin in file.plugins:
        copy_plugin(plugin.sha256, path)
    study = file.model_dump(mode="json")
    write_atomically(path / "study.yaml", yaml.safe_dump(study, sort_keys=False))
    # Written last, and in one piece: while it is there, the folder is a study's.
    whole = {"study": study, "versions": versions, "runs": [run.plain() for run in runs]}
    write_atomically(path / "study.json", json.dumps(whole, indent=1))


def _changes(old: StudyFile, new: StudyFile) -> list[str]:
    return [name for name in StudyFile.model_fields if getattr(old, name) != getattr(new, name)]
