"""Models that were shared: a folder, here or on the hub, with a config, weights and a model card. No pickle.

| file | holds |
|---|---|
| `config.json` | the settings of the run, where it stood, and the sha256 of each file beside it |
| `model.safetensors` | the weights, averaged ones where the run keeps them |
| `prior.safetensors` | step size and stored chains of the prior, from which samples begin |
| `plugins/NAME.py` | networks of the user's, run only with `trust_plugins=True` |
| `README.md`, `samples.png` | the model card |
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from thermograd.config.plugins import PLUGINS
from thermograd.config.resolve import validate_config
from thermograd.config.schema import RunConfig
from thermograd.errors import InputError, RunError, failure, import_extra, one_line
from thermograd.files import read_json, sha256

CONFIG, WEIGHTS, PRIOR = "config.json", "model.safetensors", "prior.safetensors"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""OWNER/NAME, as the hub has it."""


@dataclass(frozen=True)
class Shared:
    """What a shared folder holds.

    Attributes:
        folder: here; that of the hub's cache for a name on the hub.
        config: of the run.
        weights: of the model, by name.
        prior: step size and stored chains of the prior.
        step: training steps done.
    """

    folder: Path
    config: RunConfig
    weights: Mapping[str, Tensor]
    prior: Mapping[str, Tensor]
    step: int


def read_shared(source: Path | str, *, revision: str | None = None, trust_plugins: bool = False) -> Shared:
    """Read a shared model, and check each file.

    Args:
        source: a folder, or OWNER/NAME on the hub.
        revision: on the hub, a branch, tag or commit.
        trust_plugins: run the code of networks that are not of this package.

    Raises:
        InputError: no such folder or name, files that are missing or changed, or code that is not trusted.
        RunError: the hub cannot be reached.
    """
    folder = _find(source, revision)
    if not (folder / CONFIG).is_file():
        hint = (
            ": it is a run folder; `thermograd export` shares it"
            if (folder / "config.yaml").is_file()
            else ""
        )
        raise InputError(f"`source` {source} holds no shared model, it has no {CONFIG}{hint}.")
    files, content = _described(folder / CONFIG), read_json(folder / CONFIG, "source")
    for name in (WEIGHTS, PRIOR, *files):
        if not (folder / name).is_file():
            raise InputError(f"`source` {source} is not whole: {name} is missing.")
        if sha256(folder / name) != files.get(name):
            raise InputError(f"`source` {source} is damaged: {name} is not the file that {CONFIG} describes.")
    values, step = content["config"], content["step"]
    if values.get("plugins") and not trust_plugins:
        names = ", ".join(f"{PLUGINS}/{each['file']}" for each in values["plugins"])
        raise InputError(
            f"`source` {source} brings code of its own ({names}): read it, then pass `trust_plugins=True`."
        )
    config = validate_config(values, folder / PLUGINS)
    return Shared(folder, config, _tensors(folder / WEIGHTS), _tensors(folder / PRIOR), step)


def _described(file: Path) -> dict[str, str]:
    """Return the sha256 of each file that a config.json describes."""
    content = read_json(file, "source")
    whole = isinstance(content, dict) and isinstance(content.get("config"), dict)
    files = content.get("sha256") if whole else None
    if not (isinstance(files, dict) and isinstance(content.get("step"), int)):
        raise InputError(f"`source` {file} is not that of a shared model.")
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"`source` {file} names a file outside its folder, {name!r}.")
    return files


def _tensors(file: Path) -> Mapping[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise InputError(f"`source` {file} is damaged: {error}.") from None


def _find(source: Path | str, revision: str | None) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not (isinstance(source, str) and HUB_NAME.fullmatch(source)):
        raise InputError(f"`source` {source} does not exist; on the hub a model is OWNER/NAME.")
    return fetch(source, revision)


def fetch(name: str, revision: str | None = None) -> Path:
    """Bring a shared model from the hub into its cache, and return the folder.

    Raises:
        InputError: huggingface_hub is not installed, or the hub has no such model or revision.
        RunError: the hub cannot be reached.
    """
    hub, errors = import_extra("huggingface_hub"), import_extra("huggingface_hub.errors")
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        config = Path(hub.hf_hub_download(name, CONFIG, revision=revision, endpoint=endpoint))
        for file in _described(config):  # of the same commit, whose name the folder has
            hub.hf_hub_download(name, file, revision=config.parent.name, endpoint=endpoint)
        return config.parent
    except InputError:
        raise
    except errors.LocalEntryNotFoundError as error:  # how the hub's client says that nobody answers
        raise RunError(f"{name} could not be fetched from the hub: {one_line(failure(error))}.") from error
    except errors.EntryNotFoundError:
        raise InputError(f"`source` {name} on the hub is not a shared model: a file is missing.") from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        place = name if revision is None else f"{name} at {revision}"
        raise InputError(
            f"`source` {place} is neither a folder here nor a model that the hub shows you."
        ) from None
    except Exception as error:
        raise RunError(f"{name} could not be fetched from the hub: {one_line(failure(error))}.") from error


def check_fit(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Check that weights have the names and shapes of a model.

    Raises:
        InputError: they are of another model.
    """

    def shapes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    have, want = shapes(weights), shapes(wanted)
    wrong = sorted(name for name in have.keys() | want.keys() if have.get(name) != want.get(name))
    if wrong:
        name = wrong[0]
        shapes_of = f"{name} has shape {have.get(name)}, not {want.get(name)}"
        raise InputError(f"`source` {what} holds the weights of another model: {shapes_of}.")
