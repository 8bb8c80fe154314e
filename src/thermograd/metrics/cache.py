"""Tensors kept on disk: written atomically, verified when read."""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 over names, types, shapes and bytes of `tensors`, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}/{tensor.dtype}/{tuple(tensor.shape)}/".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_fields(fields: Mapping[str, object]) -> str:
    """Return a key of 32 hex digits that changes with any of `fields`."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], fields: Mapping[str, object]) -> None:
    """Write `tensors` with the `fields` that they belong to; a reader sees all of the file or none of it.

    Warns:
        UserWarning: if the cache cannot be written (read-only, full or no folder): the next time computes anew.
    """
    try:
        _write(path, tensors, fields)
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or error
        warnings.warn(f"The cache {path.parent} cannot be written ({cause}); nothing is kept.", stacklevel=2)


def _write(path: Path, tensors: Mapping[str, Tensor], fields: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"fields": json.dumps(fields, sort_keys=True), "sha256": hash_tensors(tensors)}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, metadata)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_tensors(path: Path, fields: Mapping[str, object]) -> dict[str, Tensor] | None:
    """Return the tensors at `path`; None if there are none, or none that can be used for `fields`.

    Warns:
        UserWarning: if a file is there but cannot be used, so that the caller's recomputation is no surprise.
    """
    try:
        if not path.exists():
            return None
    except OSError:  # a folder that may not even be looked into; `write_tensors` says so
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        warnings.warn(f"Cache file {path} is damaged ({error}); computing it anew.", stacklevel=2)
        return None
    if metadata.get("fields") != json.dumps(fields, sort_keys=True) or metadata.get("sha256") != hash_tensors(
        tensors
    ):
        warnings.warn(f"Cache file {path} is not what its name says; computing it anew.", stacklevel=2)
        return None
    return tensors
