"""`thermograd study plan | run | status | add | query`."""

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thermograd.cli.common import emit, folder_argument, json_option, print_table
from thermograd.errors import InputError, one_line

if TYPE_CHECKING:
    from thermograd.study.folder import StudyFolder

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


def where_it_runs(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the file, folder and workers that `run` and `add` share."""
    return reduce(lambda wrapped, option: option(wrapped), reversed(WHERE), command)


@click.group()
def study() -> None:
    """Many runs from one file: plan them, run them anywhere, read them as one table.

    FILE is a YAML file, or the name of one that comes ready: quick, demo, variance-and-quality.
    """


@study.command()
@file_argument
@click.option("--workers", default=1, type=positive, show_default=True, help="That would share the runs.")
@json_option
def plan(file: Path, workers: int, as_json: bool) -> None:
    """Print the runs of FILE and what each costs; starts nothing but a few steps to time them."""
    planned, text = _plan(file, workers)
    emit(planned, as_json, text)


def _plan(file: Path, workers: int) -> tuple[dict[str, Any], Any]:
    from thermograd.study.file import read_study_file
    from thermograd.study.outlook import outlook
    from thermograd.study.plan import (
        check_metrics,
        check_weights,
        describe_plan,
        one_config_per_data_set,
        plan_runs,
        time_steps,
    )

    described = read_study_file(file)
    runs = plan_runs(described)
    check_metrics(described, runs)
    check_weights(described)
    planned = describe_plan(described, runs, time_steps(runs))
    planned["notes"] = outlook(described, one_config_per_data_set(runs))
    planned["workers"] = workers
    planned["hours"] = planned["hours_on_one_worker"] / workers

    def text() -> None:
        arms: dict[str, list[dict[str, Any]]] = {}
        for run in planned["runs"]:
            arms.setdefault(run["arm"], []).append(run)
        columns = (
            "arm",
            "seeds",
            "epochs",
            "steps",
            "chains",
            "rungs",
            "evaluations per run",
            "hours per run",
        )
        rows = [
            [
                arm,
                ", ".join(str(run["seed"]) for run in of_arm),
                *(of_arm[0][name] for name in ("epochs", "steps", "chains", "rungs")),
                f"{of_arm[0]['evaluations']:.3g}",
                f"{of_arm[0]['hours']:.3f}",
            ]
            for arm, of_arm in arms.items()
        ]
        print_table(f"{described.name}: {planned['num_runs']} runs, equal {described.equal}", columns, rows)
        click.echo(
            f"{planned['evaluations']:.3g} generator evaluations, {planned['hours']:.2f} hours of training on "
            f"{workers} worker(s); what is measured on the way comes on top."
        )
        for line in planned["notes"]:
            click.echo(line)

    return planned, text


@study.command()
@where_it_runs
def run(
    file: Path,
    out: Path | None,
    workers: int | None,
    scheduler: str | None,
    cluster: Path | None,
    attempts: int,
    stalled: int,
    wait: int,
    as_json: bool,
) -> None:
    """Bring every run of FILE to its end, on this machine or a cluster.

    The same command again goes on: done runs are not done again, others go on from their last checkpoint.
    """
    from thermograd.study.file import read_study_file
    from thermograd.study.folder import make_study

    _check_where(workers, scheduler, cluster)
    described = read_study_file(file)
    folder = make_study(described, out or Path("studies") / described.name)
    _run(folder, workers, scheduler, cluster, attempts, (stalled, wait), as_json)


@study.command()
@where_it_runs
def add(
    file: Path,
    out: Path | None,
    workers: int | None,
    scheduler: str | None,
    cluster: Path | None,
    attempts: int,
    stalled: int,
    wait: int,
    as_json: bool,
) -> None:
    """Extend a study by the arms, seeds and cells that FILE has more, and run them.

    What was named before the first run stays: contrasts, and every run there is.
    """
    from thermograd.study.file import read_study_file
    from thermograd.study.folder import extend_study

    _check_where(workers, scheduler, cluster)
    described = read_study_file(file)
    folder, num_new = extend_study(described, out or Path("studies") / described.name)
    click.echo(f"{num_new} new runs.", err=True)
    _run(folder, workers, scheduler, cluster, attempts, (stalled, wait), as_json)


def _check_where(workers: int | None, scheduler: str | None, cluster: Path | None) -> None:
    if sum(choice is not None for choice in (workers, scheduler, cluster)) > 1:
        raise InputError("`--workers`, `--scheduler` and `--cluster` exclude each other.")
    if cluster is not None:
        from thermograd.study.clusters import read_cluster_file

        read_cluster_file(cluster)  # a mistake in it is found before the study folder is made


def _run(
    folder: "StudyFolder",
    workers: int | None,
    scheduler: str | None,
    cluster: Path | None,
    attempts: int,
    patience: tuple[int, int],
    as_json: bool,
) -> None:
    import torch

    from thermograd.study.clusters import cluster_client, default_num_workers, local_client, remote_client
    from thermograd.study.engine import Patience, run_study
    from thermograd.study.folder import needs_work
    from thermograd.study.results import write_tables
    from thermograd.study.work import prepare_features

    num_gpus = 0
    causes: dict[str, str] = {}
    if not any(needs_work(folder, each) for each in folder.runs):
        click.echo("All runs are done.", err=True)
    else:
        prepare_features(folder)
        where: AbstractContextManager[Any]
        if scheduler is not None:
            where = remote_client(scheduler)
        elif cluster is not None:
            where = cluster_client(cluster, folder)
        else:
            num_gpus = torch.cuda.device_count()
            where = local_client(workers or default_num_workers(folder, num_gpus))
        with where as (client, watched):
            causes = run_study(
                folder,
                client,
                max_attempts=attempts,
                num_gpus=num_gpus,
                on_event=lambda line: click.echo(one_line(line), err=True),
                workers=watched,
                patience=Patience(*patience),
            )
    files = write_tables(folder.path)
    record = {
        "folder": str(folder.path),
        "num_runs": len(folder.runs),
        "num_done": len(folder.runs) - len(causes),
        "failed": causes,
        "files": [str(file) for file in files],
    }
    lines = [f"{record['num_done']} of {record['num_runs']} runs done: {folder.path}"]
    lines += [f"  failed {identity}: {one_line(cause)}" for identity, cause in causes.items()]
    emit(record, as_json, "\n".join([*lines, *(f"  {file}" for file in files)]))
    if causes:
        raise click.exceptions.Exit(1)


@study.command()
@folder_argument
@click.option("--watch", is_flag=True, help="Look again every two seconds until no run is at work.")
@json_option
def status(folder: Path, watch: bool, as_json: bool) -> None:
    """Show where each run of the study in DIR stands, and the time left."""
    from thermograd.study.folder import open_study, study_status

    opened = open_study(folder)
    while True:
        record = study_status(opened)
        if watch and not as_json:
            click.clear()
        emit(record, as_json, partial(_print_status, record))
        counts = record["counts"]
        if not watch or not counts["running"]:
            return
        time.sleep(2)


MOST_ROWS = 200
"""Runs that `status` lists one by one; of more, those that failed or are damaged, and a line for each arm."""


def _print_status(record: dict[str, Any]) -> None:
    listed = record["runs"]
    if len(listed) > MOST_ROWS:
        _print_arms(record)
        listed = [run for run in listed if run["state"] in ("failed", "damaged")][:MOST_ROWS]
    rows = [
        (
            run["arm"],
            run["seed"],
            run["state"],
            f"{run['step']}/{run['num_steps']}",
            run["attempts"],
            run["cause"] or "",
        )
        for run in listed
    ]
    columns = ("arm", "seed", "state", "steps", "attempts", "cause")
    if rows or not record["runs"]:
        print_table(record["study"], columns, rows)
    left = record["seconds_left"]
    counts = ", ".join(f"{count} {state}" for state, count in record["counts"].items() if count)
    click.echo(counts + ("" if not left else f"; about {left / 60:.1f} minutes of training left"))


def _print_arms(record: dict[str, Any]) -> None:
    counts: dict[str, Counter[str]] = {}
    for run in record["runs"]:
        counts.setdefault(run["arm"], Counter())[run["state"]] += 1
    states = [state for state, count in record["counts"].items() if count]
    rows = [(arm, *(of_arm[state] for state in states)) for arm, of_arm in counts.items()]
    print_table(record["study"], ("arm", *states), rows[:MOST_ROWS])


@study.command()
@folder_argument
@click.argument("sql")
@click.option("--out", type=path, help="Write the answer as .csv or .parquet.")
@json_option
def query(folder: Path, sql: str, out: Path | None, as_json: bool) -> None:
    """Answer SQL over the study in DIR with DuckDB; `results` and `metrics` are its tables."""
    from thermograd.files import write_atomically, written_whole
    from thermograd.study.results import csv_text, query_study

    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise InputError(f"`--out` must end in .csv or .parquet, got {out}.")
    frame = query_study(folder, sql)
    if out is not None and not out.parent.is_dir():
        raise InputError(f"`--out` {out}: the folder {out.parent} does not exist.")
    if out is None:
        rows = json.loads(frame.to_json(orient="records"))
        emit({"rows": rows}, as_json, frame.to_string(index=False))
    elif out.suffix == ".csv":
        write_atomically(out, csv_text(frame))
    else:
        with written_whole(out) as aside:
            frame.to_parquet(aside, index=False)


@study.command(hidden=True)
@folder_argument
@click.argument("identity")
def work(folder: Path, identity: str) -> None:
    """Do one run of a study; started by a Dask worker, which holds its standard input open."""
    from thermograd.study.work import work_in_this_process

    raise click.exceptions.Exit(work_in_this_process(folder, identity))
