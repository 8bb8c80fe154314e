"""Files: written whole or not at all, read with errors that name them, and the one folder of caches."""

import hashlib
import os
from pathlib import Path
from typing import Any

import yaml

from thermograd.errors import InputError


def write_atomically(file: Path, text: str) -> None:
    """Write a small text file whole or not at all."""
    aside = file.with_name(f".writing_{file.name}")
    aside.write_text(text)
    sync(aside)
    aside.replace(file)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        InputError: it is missing, is not YAML, or holds anything else.
    """
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"`config` {file} can not be read: {error}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"`config` {file} is not YAML: {' '.join(str(error).split())}.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"`config` {file} must hold a mapping of settings, got {type(values).__name__}.")
    return values


def sha256(file: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return $THERMOGRAD_CACHE, or the user's cache folder for thermograd. Creates nothing."""
    chosen = os.environ.get("THERMOGRAD_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("thermograd"))
