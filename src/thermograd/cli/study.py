"""`thermograd study plan | run | status | add | query`."""

import json
import time
from collections import Counter
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thermograd.cli.common import emit, folder_argument, json_option, parse_value, print_table, working
from thermograd.cli.where import Where, file_argument, path, positive, where_it_runs
from thermograd.errors import InputError, import_extra, one_line
from thermograd.progress import in_words

if TYPE_CHECKING:
    from thermograd.study.folder import StudyFolder


@click.group()
def study() -> None:
    """Many runs from one file: plan them, run them anywhere, read them as one table.

    FILE is a YAML file, or the name of one that comes ready: quick, demo, variance-and-quality.
    """


@study.command()
@click.argument("name")
@click.option("--out", type=path, help="File to write [default: NAME.yaml].")
@json_option
def init(name: str, out: Path | None, as_json: bool) -> None:
    """Copy the ready study NAME into a file of your own, to be changed: quick, demo or variance-and-quality."""
    from thermograd.files import write_atomically
    from thermograd.study.file import ready_text

    text, file = ready_text(name), out or Path(f"{name}.yaml")
    if file.exists():
        raise InputError(f"`out` {file} exists already; choose another --out.")
    write_atomically(file, text)
    emit({"file": str(file)}, as_json, f"{file}\nNext: thermograd study plan {file}")


@study.command()
@file_argument
@click.option("--workers", default=1, type=positive, show_default=True, help="That would share the runs.")
@json_option
def plan(file: Path, workers: int, as_json: bool) -> None:
    """Print the runs of FILE and what each costs; starts nothing but a few steps to time them."""
    planned, text = _plan(file, workers)
    emit(planned, as_json, text)


def _plan(file: Path, workers: int) -> tuple[dict[str, Any], Any]:
    from thermograd.study.costs import time_arms
    from thermograd.study.file import read_study_file
    from thermograd.study.outlook import outlook
    from thermograd.study.plan import (
        check_metrics,
        check_weights,
        describe_plan,
        one_config_per_data_set,
        plan_runs,
    )

    described = read_study_file(file)
    runs = plan_runs(described)
    check_metrics(described, runs)
    check_weights(described)
    planned = describe_plan(described, runs, time_arms(runs))
    planned["notes"] = outlook(described, one_config_per_data_set(runs))
    planned["workers"] = workers
    planned["hours"] = planned["hours_on_one_worker"] / workers

    measuring = sum(run["hours_measuring"] for run in planned["runs"]) / planned["hours_on_one_worker"]

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
            "of them measuring",
        )
        rows = [
            [
                arm,
                ", ".join(str(run["seed"]) for run in of_arm),
                *(of_arm[0][name] for name in ("epochs", "steps", "chains", "rungs")),
                f"{of_arm[0]['evaluations']:.3g}",
                f"{of_arm[0]['hours']:.3f}",
                f"{of_arm[0]['hours_measuring']:.3f}",
            ]
            for arm, of_arm in arms.items()
        ]
        print_table(f"{described.name}: {planned['num_runs']} runs, equal {described.equal}", columns, rows)
        click.echo(
            f"{planned['evaluations']:.3g} generator evaluations, {planned['hours']:.2f} hours on {workers} "
            f"worker(s), {measuring:.0%} of them for what is measured (distances not counted)."
        )
        for line in planned["notes"]:
            click.echo(line)

    return planned, text


@study.command()
@where_it_runs
def run(file: Path, out: Path | None, as_json: bool, **where: Any) -> None:
    """Bring every run of FILE to its end, on this machine or a cluster.

    The same command again goes on: done runs are not done again, others go on from their last checkpoint.
    """
    from thermograd.study.file import read_study_file
    from thermograd.study.folder import make_study

    place = Where(**where)
    place.check()
    import_extra("distributed")  # before anything is written
    described = read_study_file(file)
    folder = make_study(described, out or Path("studies") / described.name)
    _run(folder, place, as_json, f"run {file} --out {folder.path}")


@study.command()
@where_it_runs
@click.option(
    "--seeds", metavar="SEEDS", help="A count, or a list such as [0, 1, 5], those of the study among them."
)
@click.option(
    "--arm",
    "arms",
    multiple=True,
    metavar="YAML",
    help="An arm, 'NAME: {ready: complete, powers: [5]}'; may be repeated.",
)
def add(
    file: Path,
    out: Path | None,
    seeds: str | None,
    arms: tuple[str, ...],
    as_json: bool,
    **where: Any,
) -> None:
    """Extend a study by seeds and arms, and run them; FILE is its folder, or a file that has more than the study.

    What was named before the first run stays: contrasts, and every run there is.
    """
    from thermograd.study.file import read_study_file
    from thermograd.study.folder import extend_study, larger_study, open_study

    place = Where(**where)
    place.check()
    is_folder = (file / "study.json").is_file()
    if is_folder and out is not None:
        raise InputError(f"`--out` is for a study file, got {out} with the study folder {file}.")
    if is_folder and seeds is None and not arms:
        raise InputError(f"`study add` {file} needs --seeds or --arm.")
    described = open_study(file).study if is_folder else read_study_file(file)
    more = None if seeds is None else parse_value(seeds, "--seeds")
    described = larger_study(described, more, dict(map(_arm, arms)), file if is_folder else None)
    folder, num_new = extend_study(described, file if is_folder else out or Path("studies") / described.name)
    click.echo(f"{num_new} new runs.", err=True)
    _run(folder, place, as_json, f"run {folder.path / 'study.yaml'} --out {folder.path}")


def _arm(text: str) -> tuple[str, Any]:
    found = parse_value(text, "--arm")
    if not isinstance(found, dict) or len(found) != 1:
        raise InputError(
            f"`--arm` must be one arm such as 'late: {{ready: complete, powers: [5]}}', got {text!r}."
        )
    return next(iter(found.items()))


def _run(folder: "StudyFolder", where: Where, as_json: bool, goes_on_with: str) -> None:
    """Run a study; `goes_on_with` are the words of the command that goes on with it."""
    import torch

    from thermograd.study.clusters import cluster_client, default_num_workers, local_client, remote_client
    from thermograd.study.engine import Patience, run_study
    from thermograd.study.results import write_tables
    from thermograd.study.status import StudyMeter, needs_work
    from thermograd.study.work import measured_otherwise, prepare_features

    num_gpus = 0
    causes: dict[str, str] = {}
    if num_other := len(measured_otherwise(folder)):
        click.echo(
            f"{num_other} runs were measured by earlier settings; `thermograd measure {folder.path}` does it anew.",
            err=True,
        )
    if not any(needs_work(folder, each) for each in folder.runs):
        click.echo("All runs are done.", err=True)
    else:
        prepare_features(folder)
        client_of: AbstractContextManager[Any]
        if where.scheduler is not None:
            client_of = remote_client(where.scheduler)
        elif where.cluster is not None:
            client_of = cluster_client(where.cluster, folder)
        else:
            num_gpus = torch.cuda.device_count()
            client_of = local_client(where.workers or default_num_workers(folder, num_gpus))
        goes_on = f"What was done is kept; go on with: thermograd study {goes_on_with}"
        with client_of as (client, watched), working(as_json, goes_on) as say:
            say(f"Dask's dashboard: {client.dashboard_link}{'' if find_spec('bokeh') else ' (needs bokeh)'}")
            causes = run_study(
                folder,
                client,
                max_attempts=where.attempts,
                num_gpus=num_gpus,
                on_event=say,
                on_look=StudyMeter(folder),
                workers=watched,
                patience=Patience(where.stalled, where.wait),
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
    from thermograd.study.folder import open_study
    from thermograd.study.status import study_status

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
    click.echo(counts + ("" if not left else f"; about {in_words(left)} left"))


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
