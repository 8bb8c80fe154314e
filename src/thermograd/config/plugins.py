"""Plugins: files of the user's that bring algorithms and networks of their own.

A plugin is one Python file, or a folder with `__init__.py` whose modules import each other relatively. It calls
`thermograd.register(...)` for each algorithm, and may hold networks that `model.generator.kind: mine.py:Decoder` or
`model.energy.kind: mine.py:Energy` name. It is known by the sha256 of all its files, which belongs to a run's
identity; a run folder holds a copy, and a run that is opened again loads that copy.

One process holds one version of a name: Python cannot take back what a file has defined.
"""

import inspect
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from thermograd.config import names
from thermograd.config.tables import Facts, Table
from thermograd.errors import InputError, nearest, one_line
from thermograd.files import hash_of, write_atomically

Thing = TypeVar("Thing")
INIT = "__init__.py"
PLUGINS = "plugins"
"""Folder of the copies of plugins in the folder of a run or a study."""
NETWORKS: dict[str, Table[Facts]] = {"generator": names.GENERATORS, "energy": names.ENERGIES}
"""Group of the model's settings -> the table of its kinds."""

_loading: ContextVar[str] = ContextVar("loading", default="")


LARGEST = 64 * 2**20
"""Bytes of a plugin beyond which it is refused, since each run keeps a copy."""


@dataclass(frozen=True)
class Plugin:
    """A file or folder that was loaded.

    Attributes:
        file: where it lies.
        sha256: of the file, or of the names and hashes of all files of the folder.
        files: the bytes that were hashed and run, by the name inside the folder; "" for a single file.
        module: what they define.
    """

    file: Path
    sha256: str
    files: Mapping[str, bytes]
    module: ModuleType


class _Modules(MetaPathFinder, Loader):
    """Finds the modules inside a plugin that is a folder, in the bytes that were hashed."""

    def __init__(self, name: str, folder: Path, files: Mapping[str, bytes]):
        self.name, self.folder, self.files = name, folder, files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module of a name inside the plugin."""
        parent, *inner = fullname.split(".")
        if parent != self.name:
            return None
        for last, is_package in ((".py", False), ("/__init__.py", True)):
            place = "/".join(inner) + last
            if place in self.files:
                return spec_from_loader(
                    fullname, self, origin=str(self.folder / place), is_package=is_package
                )
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Run a module."""
        assert module.__spec__ is not None
        assert module.__spec__.origin is not None
        file = Path(module.__spec__.origin)
        module.__file__ = str(file)
        _run(module, self.files[file.relative_to(self.folder).as_posix()])


def _run(module: ModuleType, source: bytes) -> None:
    exec(compile(source, str(module.__file__), "exec"), module.__dict__)


_loaded: dict[str, Plugin] = {}


def register(
    thing: Thing, *, role: Literal["generator", "energy"] | None = None, replace: bool = False
) -> Thing:
    """Register an algorithm or a network under its name, for configs, commands, probes, studies and `validate`.

    Args:
        thing: an `Estimator`, `PriorRule` or `Schedule`, a class derived from `Kernel`, or a `torch.nn.Module` class.
        role: of a network: "generator" or "energy". Its name is that of the class.
        replace: replace what Python code registered under this name before, e.g. in a notebook.

    Returns:
        The thing, so that `register` may decorate a class.

    Raises:
        InputError: a thing of another kind, or a name that is taken.

    Example:
        >>> @tg.register
        ... class Slow(tg.ULA):
        ...     name = "slow"
        >>> tg.load_config("digits", posterior_chains={"kernel": "slow"}).posterior_chains.kernel
        'slow'
    """
    if role is not None:
        names_known = list(NETWORKS)
        if role not in NETWORKS:
            raise InputError(f"`role` {role!r} is not known{nearest(str(role), names_known)}")
        table, facts = NETWORKS[role], Facts(getattr(thing, "__name__", ""), summary=_first_line(thing))
    else:
        table = getattr(thing, "table", None)  # type: ignore[assignment]
        if not isinstance(table, Table):
            raise InputError(
                "`register` takes an Estimator, a PriorRule, a Schedule, a class derived from Kernel, or a network "
                f"with its role, got {one_line(repr(thing))}."
            )
        facts = thing if isinstance(thing, Facts) else thing.facts()  # type: ignore[attr-defined]
    table.add(facts, thing, _loading.get(), replace)
    return thing


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


# --- settings ---


def with_whole_paths(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return settings whose plugins are whole paths: those of `plugins`, and those that kinds of networks name.

    Args:
        values: nested settings of a run, or a part of them.
        folder: where relative paths begin.
    """
    values = dict(values)
    entries = values.get("plugins") or []
    if not isinstance(entries, list | tuple) or not all(isinstance(e, str | Path | Mapping) for e in entries):
        return values  # which is refused later
    whole = [dict(e) if isinstance(e, Mapping) else {"file": _whole(str(e), folder)} for e in entries]
    for group, section in _networks(values):
        file, _, name = str(section["kind"]).rpartition(":")
        if not file:
            continue
        if file not in [Path(str(each.get("file"))).name for each in whole]:
            path = _whole(file, folder)
            if path not in [each.get("file") for each in whole]:
                whole.append({"file": path})
        values["model"] = {**values["model"], group: {**section, "kind": f"{Path(file).name}:{name}"}}
    return values | {"plugins": whole} if whole else values


def _whole(file: str, folder: Path) -> str:
    return str((folder / Path(file).expanduser()).absolute())


def _networks(values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the group and the settings of each network whose kind is given as a text."""
    model = values.get("model")
    for group in NETWORKS if isinstance(model, Mapping) else ():
        section = model.get(group)  # type: ignore[union-attr]
        if isinstance(section, Mapping) and isinstance(section.get("kind"), str):
            yield group, section


def load_plugins(values: Mapping[str, Any], copies: Path | None = None) -> dict[str, Any]:
    """Load the plugins that settings name, and return the settings with the sha256 of each.

    Args:
        values: nested settings of a run, from `with_whole_paths`.
        copies: the folder of a run or study that holds copies of the plugins, which are loaded in place of the files.

    Raises:
        InputError: a plugin that is missing, has changed, raises at import, or registers a name that is taken; or that
            does not define the network which a kind names.
    """
    entries = values.get("plugins") or []
    if not isinstance(entries, list | tuple) or not all(isinstance(e, Mapping) for e in entries):
        return dict(values)
    by_name: dict[str, Plugin] = {}
    for entry in entries:
        file, expected = Path(str(entry.get("file"))), entry.get("sha256")
        plugin = _load(file if copies is None else copies / file.name, expected, is_copy=copies is not None)
        if by_name.setdefault(file.name, plugin).sha256 != plugin.sha256:
            raise InputError(f"`plugins` names two files {file.name}; a run keeps one of each name.")
    for group, section in _networks(values):
        file_name, _, name = section["kind"].rpartition(":")
        if file_name in by_name:
            _register_network(group, by_name[file_name], section["kind"], name)
    hashes = [
        {"file": str(each["file"]), "sha256": by_name[Path(str(each["file"])).name].sha256}
        for each in entries
    ]
    return {**values, "plugins": hashes} if hashes else dict(values)


def copy_plugin(sha256: str, folder: Path) -> None:
    """Write a plugin, as it was loaded, into the folder `PLUGINS` of the folder of a run or a study."""
    plugin = _loaded[sha256]
    copy = folder / PLUGINS / plugin.file.name
    if copy.is_dir():
        shutil.rmtree(copy)  # what a process that was killed has begun
    for name, content in plugin.files.items():
        write_atomically(copy / name if name else copy, content)


def plugins_of(names_used: Sequence[tuple[Table[Any], str]]) -> list[dict[str, str]]:
    """Return the plugins that names come from, as settings have them."""
    origins = dict.fromkeys(table.origin(name) for table, name in names_used)
    return [{"file": str(_loaded[each].file), "sha256": each} for each in origins if each]


def plugin_at_fault(error: BaseException) -> str | None:
    """Return "FILE, line N" where an exception came out of a plugin, or None."""
    files = {
        str(each.file / name) if name else str(each.file) for each in _loaded.values() for name in each.files
    }
    frame, found = error.__traceback__, None
    while frame is not None:
        if frame.tb_frame.f_code.co_filename in files:
            found = f"{frame.tb_frame.f_code.co_filename}, line {frame.tb_lineno}"
        frame = frame.tb_next
    return found


def _load(file: Path, expected: str | None, is_copy: bool) -> Plugin:
    """Load a plugin, or return it where it was loaded before; its bytes are read, hashed and run once, as one."""
    files = _read(file)
    sha256 = _hash(files)
    if expected is not None and sha256 != expected:
        what = "is damaged or was changed" if is_copy else "has changed"
        raise InputError(
            f"`plugins` {file} {what} since the run began: its sha256 is {sha256[:12]}, not {str(expected)[:12]}."
        )
    if sha256 in _loaded:
        return _loaded[sha256]
    module = ModuleType(f"thermograd_plugin_{sha256[:12]}_{file.stem}")
    first = "" if "" in files else INIT
    module.__file__ = str(file / first)
    if first:
        module.__path__, module.__package__ = [], module.__name__
        sys.meta_path.append(_Modules(module.__name__, file, files))
    sys.modules[module.__name__] = module  # dataclasses look their own module up
    token = _loading.set(sha256)
    try:
        _run(module, files[first])
    except (Exception, SystemExit) as error:
        _forget(module, sha256)
        words = one_line(str(error)).rstrip(".")
        reason = "" if isinstance(error, InputError) else f" raises {type(error).__name__} at import"
        raise InputError(f"`plugins` {file}{reason}{': ' * bool(words)}{words}.") from error
    finally:
        _loading.reset(token)
    return _loaded.setdefault(sha256, Plugin(file, sha256, files, module))


def _read(file: Path) -> dict[str, bytes]:
    """Return the bytes of a plugin by name: of one file under "", of a folder all but hidden and compiled files."""
    try:
        if not file.is_dir():
            return {"": file.read_bytes()}
        inner = sorted(path.relative_to(file) for path in file.rglob("*") if path.is_file())
        inner = [
            path for path in inner if not any(part[0] == "." or part == "__pycache__" for part in path.parts)
        ]
        size = sum((file / path).stat().st_size for path in inner)
        if size > LARGEST:
            raise InputError(
                f"`plugins` {file} must hold at most {LARGEST // 2**20} MiB, since each run keeps a copy, got "
                f"{size / 2**20:.0f}."
            )
        files = {path.as_posix(): (file / path).read_bytes() for path in inner}
    except OSError as error:
        raise InputError(f"`plugins` {file} cannot be read: {error.strerror}.") from None
    if INIT not in files:
        raise InputError(f"`plugins` {file} is a folder without {INIT}.")
    return files


def _hash(files: Mapping[str, bytes]) -> str:
    """Return the sha256 of one file, or of the names and hashes of all files of a folder."""
    if "" in files:
        return hash_of(files[""])
    return hash_of("".join(f"{hash_of(content)}  {name}\n" for name, content in files.items()).encode())


def _register_network(group: str, plugin: Plugin, kind: str, name: str) -> None:
    from torch import nn

    network, table = getattr(plugin.module, name, None), NETWORKS[group]
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        raise InputError(
            f"`model.{group}.kind` {kind!r} names no torch.nn.Module that {plugin.file} defines."
        )
    if not (kind in table and table.origin(kind) == plugin.sha256):
        table.add(Facts(kind, summary=_first_line(network)), network, plugin.sha256)


def forget_plugins() -> None:
    """Forget every plugin and all that was registered, for tests; configs that name them are of no use after it."""
    for plugin in list(_loaded.values()):
        del _loaded[plugin.sha256]
        _forget(plugin.module, plugin.sha256)
    _remove_from_tables("")


def _forget(module: ModuleType, sha256: str) -> None:
    """Take back what a plugin registered, and its modules."""
    for name in [name for name in sys.modules if name.split(".")[0] == module.__name__]:
        del sys.modules[name]
    sys.meta_path[:] = [
        each for each in sys.meta_path if not (isinstance(each, _Modules) and each.name == module.__name__)
    ]
    _remove_from_tables(sha256)


def _remove_from_tables(origin: str) -> None:
    for table in vars(names).values():
        if isinstance(table, Table):
            table.remove(origin)
