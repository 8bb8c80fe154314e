"""Where a study runs: the options that `study run` and `study add` share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import click

from thermograd.cli.common import json_option
from thermograd.errors import InputError

path = click.Path(path_type=Path)
file_argument = click.argument("file", metavar="FILE", type=path)
positive = click.IntRange(min=1)
WHERE = (
    file_argument,
    click.option("--out", type=path, help="Study folder [default: studies/NAME]."),
    click.option(
        "--workers", type=positive, help="Processes on this machine [default: one per GPU, or by cores]."
    ),
    click.option(
        "--scheduler", metavar="ADDRESS", help="A Dask scheduler that runs already, e.g. tcp://host:8786."
    ),
    click.option(
        "--cluster", type=path, help="YAML file of a Dask cluster to start: class, num_workers, options."
    ),
    click.option("--attempts", default=2, type=positive, show_default=True, help="Times a run may fail."),
    click.option(
        "--stalled",
        default=600,
        type=positive,
        show_default=True,
        help="Seconds without progress after which the process of a run is killed and begun again.",
    ),
    click.option(
        "--wait",
        default=86_400,
        type=positive,
        show_default=True,
        help="Seconds without any worker after which the study ends.",
    ),
    json_option,
)


@dataclass(frozen=True)
class Where:
    """Where and how patiently a study runs, as its options say."""

    workers: int | None
    scheduler: str | None
    cluster: Path | None
    attempts: int
    stalled: int
    wait: int

    def check(self) -> None:
        """Refuse options that exclude each other, and a cluster file at fault, before a study folder is made."""
        if sum(choice is not None for choice in (self.workers, self.scheduler, self.cluster)) > 1:
            raise InputError("`--workers`, `--scheduler` and `--cluster` exclude each other.")
        if self.cluster is not None:
            from thermograd.study.clusters import read_cluster_file

            read_cluster_file(self.cluster)


def where_it_runs(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the file, folder and workers that `run` and `add` share."""
    return reduce(lambda wrapped, option: option(wrapped), reversed(WHERE), command)
