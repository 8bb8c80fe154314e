"""A run that begins with the weights of another: named by its folder and checkpoint, known by their sha256.

The sha256 belongs to the identity of the new run, wherever the other one lies; the new run folder keeps a copy.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from thermograd.config.fields import Section
from thermograd.errors import InputError
from thermograd.files import read_json

START = "start.safetensors"
"""The copy of the weights in the folder of the run that begins with them."""
PARTS = ("ema.safetensors", "model.safetensors")
"""Files of a checkpoint that hold the weights for samples and evaluation: averaged ones where there are any."""


class StartConfig(Section):
    """The weights that training begins with."""

    run: Path = Field(description="the folder of the run that they come from")
    checkpoint: str = Field(description="of that run")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    def __eq__(self, other: object) -> bool:
        """Return whether the weights are the same, wherever their run lies."""
        return isinstance(other, StartConfig) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        """Return a hash of the weights."""
        return hash(self.sha256)

    def __str__(self) -> str:
        """Return RUN@CHECKPOINT."""
        return f"{self.run}@{self.checkpoint}"

    def file(self) -> Path:
        """Return the file of the weights in the folder of their run."""
        return _file(self.run / "checkpoints" / self.checkpoint)


def find_start(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return settings whose `start_from`, "RUN" or "RUN@CHECKPOINT", is a `StartConfig`; one that is found stays.

    Args:
        values: nested settings of a run, or a part of them.
        folder: where a relative path begins.

    Raises:
        InputError: no run there, no checkpoint of that name, or a damaged one.
    """
    values, named = dict(values), values.get("start_from")
    if not isinstance(named, str | Path):
        return values
    text = str(named)
    run, _, name = text.rpartition("@") if "@" in text and not Path(text).is_dir() else (text, "", "")
    run_folder = (folder / Path(run).expanduser()).absolute()
    if not (run_folder / "config.yaml").is_file():
        raise InputError(f"`start_from` {run or text} is not a run folder: it has no config.yaml.")
    checkpoints = run_folder / "checkpoints"
    name = name or (checkpoints / "last").resolve().name
    if not (checkpoints / name / "state.json").is_file():
        there = ", ".join(sorted(path.name for path in checkpoints.glob("step_*"))) or "none"
        raise InputError(f"`start_from` {run} has no checkpoint {name!r}; it has {there}.")
    state = read_json(checkpoints / name / "state.json", "start_from")
    try:
        sha256 = state["sha256"][_file(checkpoints / name).name]
    except (KeyError, TypeError):
        raise InputError(
            f"`start_from` {checkpoints / name} is damaged: its state.json names no weights."
        ) from None
    return values | {"start_from": {"run": str(run_folder), "checkpoint": name, "sha256": sha256}}


def _file(checkpoint: Path) -> Path:
    return next(
        (checkpoint / part for part in PARTS if (checkpoint / part).is_file()), checkpoint / PARTS[-1]
    )
