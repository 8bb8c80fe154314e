"""One run of a study: what is planned, written to study.json and read back is the same thing."""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from thermograd.config.resolve import validate
from thermograd.config.schema import RunConfig, evaluations_per_image
from thermograd.study.file import check_name

LONGEST = 80
"""Characters of an arm in the name of a folder."""


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        identity: hash of its config.
        arm: name of its arm, with its parameter and cell.
        ready: kind of arm that came ready, or None.
        cell: settings of its cell of the grid, by dotted name.
        seed: its seed.
        config: resolved, as plain data; `resolved` is the same, typed.
        requested: on top of the preset, as plain data.
        num_steps: training steps.
        num_images: training images.
        evaluations: generator evaluations that training spends on chains.
        added: version of the study it came with, 0 for the first.
        folder: name of its folder, made of arm and seed; "" for its identity.
    """

    # Identity and folder are names of folders, so they must not lead out of the study.
    identity: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
    arm: Annotated[str, AfterValidator(check_name)]
    ready: str | None
    cell: dict[str, Any]
    seed: int
    config: dict[str, Any]
    requested: dict[str, Any]
    num_steps: Annotated[int, Field(ge=1)]
    num_images: Annotated[int, Field(ge=1)]
    evaluations: int
    added: int = 0
    folder: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._=,+-]*)?$")] = ""

    @classmethod
    def plan(
        cls,
        arm: str,
        ready: str | None,
        cell: dict[str, Any],
        config: RunConfig,
        requested: dict[str, Any],
        num_images: int,
    ) -> "StudyRun":
        """Return the run of a config on a training set; the incomplete last batch of an epoch sits out."""
        size = config.training.batch_size
        num_steps = num_images // size * config.training.num_epochs
        return cls(
            identity=config.identity,
            arm=arm,
            ready=ready,
            cell=cell,
            seed=config.seed,
            config=config.model_dump(mode="json"),
            requested=json.loads(json.dumps(requested, default=str)),
            num_steps=num_steps,
            num_images=num_images,
            evaluations=num_steps * size * evaluations_per_image(config),
        )

    def named(self, taken: Collection[str]) -> "StudyRun":
        """Return the run with a folder named by arm and seed, by its identity as well where that name is taken."""
        word = "".join(
            each if (each.isascii() and each.isalnum()) or each in "._=,+" else "-" for each in self.arm
        )
        name = f"{word.strip('-._=,+')[:LONGEST]}-seed{self.seed}".lstrip("-")
        is_taken = name.lower() in {each.lower() for each in taken}  # some file systems know no capitals
        return replace(self, folder=f"{name}-{self.identity}" if is_taken else name)

    @cached_property
    def resolved(self) -> RunConfig:
        """Return the config, typed; it was checked when the run was planned, and no plugin is loaded."""
        return validate(RunConfig, self.config, checked_before=True)

    def plain(self) -> dict[str, Any]:
        """Return the run as JSON holds it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
