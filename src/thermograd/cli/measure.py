"""`thermograd sample`, `evaluate`, `measure` and `evidence`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thermograd.cli.command import SettingsCommand
from thermograd.cli.common import (
    emit,
    folder_argument,
    holding,
    json_option,
    load_more_plugins,
    out_option,
    plugins_option,
    print_table,
    working,
)
from thermograd.errors import InputError

if TYPE_CHECKING:
    from thermograd.evaluation.records import Record

path = click.Path(path_type=Path)


@click.command(cls=SettingsCommand, verb="sample")
@folder_argument
@click.option(
    "--out",
    help="File that ends in .npz, .npy (arrays) or .png (a grid), or a folder (single PNG files) "
    "[default: DIR/samples/samples.png].",
)
@click.option("--checkpoint", help="Name of a checkpoint [default: the last].")
@json_option
def sample(folder: Path, out: str | None, checkpoint: str | None, as_json: bool, **options: Any) -> None:
    """Draw images from the model in DIR."""
    from thermograd.cli.options import given
    from thermograd.runs.exports import export_form, export_images
    from thermograd.runs.run import load_run
    from thermograd.training.samples import sample_images

    settings = given("sample", options)
    target = out or folder / "samples" / "samples.png"
    export_form(target)
    run = load_run(folder, checkpoint)
    with working(as_json):
        samples = sample_images(run.model, run.prior_chains, settings.num_images, settings.seed)
    file = export_images(samples.images, target)
    record = {"file": str(file), **settings.model_dump(), "checkpoint": run.checkpoint.path.name}
    emit(record, as_json, str(file))


@click.command(cls=SettingsCommand, verb="evaluate")
@click.argument("folder", metavar="[DIR]", type=path, required=False)
@click.option("--checkpoint", default="last", show_default=True, help="Name of a checkpoint, last, or all.")
@click.option("--quick", is_flag=True, help="The same as --variant quick.")
@click.option("--images", type=path, help="Score these images instead of a run.")
@click.option(
    "--range",
    "value_range",
    type=(float, float),
    help="Pixel values of black and white in --images, e.g. 0 16 [default: recognised].",
)
@click.option(
    "--reference", help="Data set, or path of images, and split to score --images against, e.g. mnist:test."
)
@out_option
@json_option
def evaluate(
    folder: Path | None,
    checkpoint: str,
    quick: bool,
    images: Path | None,
    value_range: tuple[float, float] | None,
    reference: str | None,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Score the model in DIR on a split, or any folder of images by --images and --reference.

    Reconstruction, energies, log p(x) with its error, distances of samples to the split with their floor, and the
    nearest training images. Everything is added to DIR/measurements.jsonl.
    """
    from thermograd.cli.options import given
    from thermograd.evaluation.distances import score_folder
    from thermograd.evaluation.evaluate import evaluate_run
    from thermograd.evaluation.records import FILE
    from thermograd.progress import steps
    from thermograd.runs.run import load_run

    settings = given("evaluate", options, **({"variant": "quick"} if quick else {}))
    if (folder is None) == (images is None):
        raise InputError("`evaluate` takes either a run folder or --images with --reference.")
    if images is not None and out is not None:
        raise InputError(f"`--out` is for what is measured of a run, got {out} with --images.")
    if images is not None:
        if reference is None:
            raise InputError("`--reference` must be given with --images, e.g. mnist:test.")
        if value_range is not None and value_range[0] >= value_range[1]:
            raise InputError(f"`--range` must rise, got {value_range[0]:g} {value_range[1]:g}.")
        with working(as_json):
            record = score_folder(images, reference, settings, value_range)
        for line in [*record["notes"], *(f"left out: {line}" for line in record["left_out"])]:
            click.echo(line, err=True)
        emit(record, as_json, lambda: _print_distances(record["distances"]))
        return
    assert folder is not None  # for the type checker: one of the two is given
    with holding(folder, "evaluate", out) as kept, working(as_json, "What was measured is kept."):
        records = [
            evaluate_run(replace(load_run(folder, name), folder=kept), settings)
            for name in steps(_checkpoints(folder, checkpoint), "checkpoints")
        ]

    def text() -> None:
        for record in records:
            print_record(record)
        click.echo(f"Kept in {kept / FILE}; pictures in {kept / 'samples'}")

    emit({"records": [vars(record) for record in records]}, as_json, text)


@click.command(cls=SettingsCommand, verb="measure")
@folder_argument
@click.option(
    "--all", "again", is_flag=True, help="Measure every kept checkpoint again, e.g. by another distance."
)
@plugins_option
@json_option
def measure(folder: Path, again: bool, plugins: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Measure the checkpoints of the run in DIR that are due and were not measured, or whose measurement failed.

    The gradient's variance, images, energies and distances, on training and test images, as the run's own settings say;
    options change them. The training itself is not touched. In the folder of a study, all
    runs are measured as its file says now.
    """
    from thermograd.cli.options import given
    from thermograd.evaluation.clock import measure_run
    from thermograd.evaluation.records import FILE
    from thermograd.runs.folder import open_config

    changed = {name: value for name, value in options.items() if value not in (None, ())}
    again_words = f"What was measured is kept; go on with: thermograd measure {folder}"
    if (folder / "study.json").is_file():
        from thermograd.study.folder import open_study
        from thermograd.study.work import measure_study

        if changed:
            raise InputError(
                f"`{min(changed)}` is for a run; a study is measured as its file says: change `measure` there, "
                f"and `study run` it again."
            )
        with working(as_json, again_words) as say:
            records = measure_study(open_study(folder), again, say)
    else:
        own = open_config(folder)
        load_more_plugins(plugins)
        wanted = given("measure", {**own.measure.model_dump(), **changed})
        with holding(folder, "measure"), working(as_json, again_words) as say:
            records = measure_run(folder, wanted, again=again, on_message=say)

    def text() -> None:
        for record in records:
            print_record(record)
        kept = f"{len(records)} records in {FILE} of {folder}"
        click.echo(
            kept if records else "All breaks are measured; --all measures every kept checkpoint again."
        )

    emit({"records": [vars(record) for record in records]}, as_json, text)


def _checkpoints(folder: Path, which: str) -> list[str | None]:
    from thermograd.runs.checkpoint import list_checkpoints

    if which == "all":
        found = [path.name for path in list_checkpoints(folder / "checkpoints")]
        if not found:
            raise InputError(f"`run` {folder} has no checkpoint yet.")
        return list(found)
    return [None if which == "last" else which]


def print_record(record: "Record") -> None:
    """Print a measurement as tables."""
    (_print_variance if record.kind == "variance" else _print_evaluation)(record)


def _title(record: "Record") -> str:
    return f"{record.dataset}:{record.split}, {record.checkpoint} (epoch {record.epoch})"


def _print_evaluation(record: "Record") -> None:
    rows = []
    for name, value in record.values["quantities"].items():
        error = "-" if value["standard_error"] is None else f"{value['standard_error']:.2g}"
        rows.append((name.replace("_", " "), f"{value['value']:.5g}", error, value["unit"]))
    print_table(_title(record), ("quantity", "mean", "standard error", "unit"), rows)
    evidence = record.values["quantities"].get("log_evidence")
    for caution in evidence["warnings"] if evidence else []:
        click.echo(f"warning: {caution['text']}", err=True)
    for line in record.values["left_out"]:
        click.echo(f"left out: {line}", err=True)
    if record.values["distances"]:
        _print_distances(record.values["distances"])
    if record.values["prior"] is not None:
        _print_prior(record.values["prior"])


VERDICTS = {
    "settled": "The prior has settled: it is the density that its energy says.",
    "short-run": "The prior is a short-run sampler, not a density: run on, its chains go elsewhere, and log p(x) is "
    "about where they end.",
    "not-settled": "The prior's chains have not settled: run on, they go elsewhere.",
}


def _print_prior(prior: dict[str, Any]) -> None:
    """Print the energies of the prior's chains, and the distance in its two parts."""
    distances = {(each["images"], each["num_steps"]): each for each in prior["distances"]}

    def row(images: str, num_steps: int | None, energy: str) -> tuple[str, ...]:
        each = distances.get((images, num_steps))
        distance = "-" if each is None else f"{each['value']:.4g} ± {each['standard_error']:.2g}"
        name = images.replace("-", " draws, ") if num_steps is None else f"prior, {num_steps} steps"
        return name, energy, distance

    energy = prior["energy_posterior"]
    rows = [row("posterior-train", None, "-" if energy is None else f"{energy:.2f}")]
    if ("posterior-test", None) in distances:
        rows.append(row("posterior-test", None, "-"))
    rows += [
        row("prior", mark["num_steps"], f"{mark['energy']:.2f} ± {mark['standard_error']:.2g}")
        for mark in prior["marks"]
    ]
    title = "The prior's chains run on, and the two parts of the distance to the test images"
    print_table(title, ("images", "mean energy (nats)", "Fréchet distance"), rows)
    click.echo(VERDICTS[prior["verdict"]])


def _print_variance(record: "Record") -> None:
    names = ("chain_variance", "batch_variance", "normalised_variance")
    rows = [
        (estimator, part, *(interval_text(blocks[part][name]) for name in names))
        for estimator, each in record.values["estimators"].items()
        for blocks in [each["blocks"]]
        for part in ("generator", "prior", "total")
        if part in blocks
    ]
    title = (
        f"Variance of the learning gradient, {_title(record)}, {record.settings['num_batches']} batches of "
        f"{record.settings['batch_size']} images, value [95 % interval]"
    )
    print_table(title, ("estimator", "part", "chains", "mini-batch", "normalised"), rows)


def interval_text(estimate: dict[str, float | None]) -> str:
    """Return a value with its interval, where it has one, in three digits."""
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    return f"{value:.3g}" if low is None or high is None else f"{value:.3g} [{low:.3g}, {high:.3g}]"


def _print_distances(distances: list[dict[str, Any]]) -> None:
    """Print each distance with its floor beside it: two halves of the reference against each other."""
    floors = {(d["name"], d["reference"]): d for d in distances if d["is_floor"]}
    rows = []
    for d in distances:
        if d["is_floor"]:
            continue
        floor = floors.get((d["name"], d["reference"]))
        counts = "" if floor is None else f" ({floor['num_fake']} : {floor['num_reference']})"
        rows.append(
            (
                d["name"],
                d["reference"],
                f"{d['value']:.4g} ± {d['standard_error']:.2g}",
                "" if floor is None else f"{floor['value']:.4g} ± {floor['standard_error']:.2g}{counts}",
                f"{d['num_fake']} : {d['num_reference']}",
            )
        )
    columns = ("distance", "reference", "value ± standard error", "floor", "images : reference")
    print_table("Distances of samples; the floor is that of two halves of the reference", columns, rows)


@click.command(cls=SettingsCommand, verb="evidence")
@folder_argument
@click.option("--checkpoint", help="Name of a checkpoint [default: the last].")
@out_option
@json_option
def evidence(folder: Path, checkpoint: str | None, out: Path | None, as_json: bool, **options: Any) -> None:
    """Estimate log p(x) of images, with an interval, a range or a lower bound for each; writes a table."""
    from thermograd.cli.options import given
    from thermograd.evaluation.evidence import evidence_of_run
    from thermograd.runs.run import load_run

    settings = given("evidence", options)
    with holding(folder, "evidence", out) as kept, working(as_json):
        run = replace(load_run(folder, checkpoint), folder=kept)
        record = evidence_of_run(run, settings)
    rows = [
        (name.replace("_", " "), f"{value:.5g}" if isinstance(value, float) else value)
        for name, value in record.items()
        if name not in ("warnings", "files")
    ]

    def text() -> None:
        print_table("log p(x) in nats, mean over images", ("what", "value"), rows)
        for caution in record["warnings"]:
            click.echo(f"warning: {caution['text']}", err=True)
        click.echo("\n".join(record["files"]))

    emit(record, as_json, text)
