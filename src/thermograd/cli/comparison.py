"""`thermograd compare DIR DIR ...`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thermograd.cli.command import SettingsCommand
from thermograd.cli.common import emit, holding, json_option, print_table, working
from thermograd.cli.measure import interval_text, path

if TYPE_CHECKING:
    from thermograd.evaluation.compare import Comparison


@click.command(cls=SettingsCommand, verb="compare")
@click.argument("folders", metavar="DIR DIR ...", type=path, nargs=-1)
@click.option(
    "--out", type=path, help="Folder for table and picture [default: comparisons/ in the first DIR]."
)
@json_option
def compare(folders: tuple[Path, ...], out: Path | None, as_json: bool, **options: Any) -> None:
    """Hold the first model against each of the others: paired differences on the same images, log Bayes factor.

    What was measured of each on the split stands side by side.
    """
    from thermograd.cli.options import given
    from thermograd.evaluation.compare import compare_runs, write_factors
    from thermograd.reports.plots import write_bayes_factor

    settings = given("compare", options)
    with holding(folders[0] if folders else Path(), "compare", out), working(as_json):
        found = compare_runs(folders, settings)
        files = []
        for pair in found.pairs:
            if pair.bayes_factor is not None:
                aside = out or Path(pair.first) / "comparisons"
                stem = aside / f"{Path(pair.second).resolve().name}_{found.split}"
                files.append(write_factors(pair.bayes_factor, stem.with_suffix(".csv")))
                names = Path(pair.first).resolve().name, Path(pair.second).resolve().name
                files.append(write_bayes_factor(pair.bayes_factor, stem.with_suffix(".png"), *names))
    record = {**found.record(), "files": [str(file) for file in files]}

    def text() -> None:
        _print_comparison(found)
        for file in files:
            click.echo(file)

    emit(record, as_json, text)


def _print_comparison(found: "Comparison") -> None:
    if found.quantities:
        columns = ["quantity"] + [f"{run['folder']} ({run['estimator']})" for run in found.runs]
        rows = [
            [name.replace("_", " ")] + [interval_text(each) if each else "-" for each in row["runs"]]
            for name, row in found.quantities.items()
        ]
        print_table(f"{found.dataset}:{found.split}, value [95 % interval]", columns, rows)
    for pair in found.pairs:
        rows = [
            [name.replace("_", " "), interval_text(each), each["unit"]]
            for name, each in pair.differences.items()
        ]
        title = f"{pair.first} less {pair.second}, paired on {pair.num_images} images of {found.split}"
        print_table(title, ("quantity", "difference [95 % interval]", "unit"), rows)
        factor = pair.bayes_factor
        if factor is None:
            continue
        click.echo(
            f"log Bayes factor of {pair.first} against {pair.second}: {factor.total:.5g} ± {factor.error:.2g} nats on "
            f"{len(factor.status)} images, {factor.total / len(factor.status):.4g} per image (95 %)"
        )
        if (caution := factor.caution()) is not None:
            click.echo(f"warning: {caution}", err=True)
