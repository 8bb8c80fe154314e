"""`thermograd variance`: how noisy is the learning gradient, and where does the noise come from?"""

import math
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

if TYPE_CHECKING:
    from thermograd.evaluation.records import Record

NOTE = (
    "Variances and the mean square error are means over parameters, with 95 % intervals over batches. Bias, sd (root "
    "of the chain variance) and root mean square error are relative to the length of the gradient of log p(x) of the "
    "same batch, as long chains give it: an estimator that aims elsewhere has that aim counted as bias, and of chains "
    "that go on from stored ones the noise of where these stood: compare the error with the sd of exact draws, and "
    "read the chains' own bias off `bias, all data` and l - E_1[l]. cosine is that of the mean estimate, `of "
    "one` that of a single one."
)


@click.command(cls=SettingsCommand, verb="variance")
@folder_argument
@click.option(
    "--reference/--no-reference", default=True, show_default=True, help="Run long chains, for bias and error."
)
@click.option(
    "--reference-steps",
    default=200,
    type=click.IntRange(min=20),
    show_default=True,
    help="Steps of the long chains.",
)
@click.option("--checkpoint", help="Name of a checkpoint [default: the last].")
@out_option
@plugins_option
@json_option
def variance(
    folder: Path,
    reference: bool,
    reference_steps: int,
    checkpoint: str | None,
    out: Path | None,
    plugins: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Measure the variance of the learning gradient of the run in DIR, at its checkpoint.

    All estimators see the same parameters and batches. The variance is split into the part of the Markov chains and
    that of the mini-batch; a reference gradient from long chains gives the bias. The record is added to
    DIR/measurements.jsonl.
    """
    from thermograd.cli.options import given
    from thermograd.config.measure import ReferenceSettings
    from thermograd.evaluation.records import FILE
    from thermograd.evaluation.variance import rows_of, variance_of_run
    from thermograd.runs.run import load_run

    long = ReferenceSettings(num_burn_in=reference_steps // 2, num_steps=reference_steps)
    with holding(folder, "variance", out) as kept, working(as_json) as say:
        # The run first, since its plugins know estimators that options may name.
        run = replace(load_run(folder, checkpoint), folder=kept)
        load_more_plugins(plugins)
        settings = given("variance", options, reference=long if reference else None)
        record = variance_of_run(run, settings, say)

    def text() -> None:
        _print_table(record, rows_of(record))
        click.echo(NOTE)
        click.echo(f"Kept, with every layer and rung, in {kept / FILE}")

    emit(vars(record), as_json, text)


def _print_table(record: "Record", rows: list[dict[str, Any]]) -> None:
    asked, reference = record.settings, record.values["reference"]
    title = (
        f"{record.dataset}:{record.split}, {record.checkpoint}, {asked['num_batches']} batches of "
        f"{asked['batch_size']} images x {asked['num_repeats']} repeats"
    )
    sources = (
        "estimator",
        "part",
        "K x M",
        "evaluations",
        "chain variance",
        "batch variance",
        "normalised",
        "signal/noise",
    )
    cells = [
        (
            row["estimator"],
            row["block"],
            f"{row['num_rungs']} x {row['num_chains']}",
            f"{row['num_evaluations_per_image']:.0f}",
            *(
                _with_interval(row[key])
                for key in ("chain_variance", "batch_variance", "normalised_variance")
            ),
            _number(row["signal_to_noise"]["value"]),
        )
        for row in rows
    ]
    print_table(title, sources, cells)
    if reference is not None:
        columns = (
            "estimator",
            "part",
            "bias",
            "bias, all data",
            "sd",
            "root mean square error",
            "mean square error",
            "cosine",
            "of one",
        )
        print_table("Against the reference", columns, [_against_reference(row) for row in rows])
        click.echo(
            f"reference: {reference['num_evaluations']:.0f} evaluations per image, R-hat median "
            f"{reference['r_hat_median']:.3f}, largest {reference['r_hat_largest']:.3f}; "
            f"standard error relative to the gradient: {_roots(rows, 'reference_relative_squared_error')}; "
            f"sd of one exact draw per image: {_roots(rows, 'relative_draw_variance')}"
        )
        for caution in reference["warnings"]:
            click.echo(f"warning: {caution['text']}", err=True)
    for name, each in record.values["estimators"].items():
        for caution in each["cautions"]:
            click.echo(f"warning: {name}: {caution['text']}", err=True)
    spread = [
        (
            name,
            _with_interval(each["log_likelihood_variance"][-1]),
            "-" if each["log_likelihood_bias"] is None else _with_interval(each["log_likelihood_bias"]),
        )
        for name, each in record.values["estimators"].items()
    ]
    print_table(
        "Draws at t = 1, mean over images", ("estimator", "Var(l), nats^2", "l - E_1[l], nats"), spread
    )


def _against_reference(row: dict[str, Any]) -> tuple[str, ...]:
    length = row["reference_mean_square"]["value"]
    chain = row["chain_variance"]["value"]
    return (
        row["estimator"],
        row["block"],
        _root(row["relative_squared_bias"]),
        _root(row["relative_squared_bias_of_all_data"]),
        "-" if length is None or length <= 0 else f"{math.sqrt(chain / length):.3g}",
        _root(row["relative_mean_square_error"]),
        _with_interval(row["mean_square_error"]),
        _with_interval(row["cosine"]),
        _number(row["cosine_of_one"]["value"]),
    )


def _roots(rows: list[dict[str, Any]], name: str) -> str:
    """Return roots of a square that belongs to the references, by network: it is the same for all estimators."""
    squares = {row["block"]: row[name]["value"] for row in rows}
    known = {block: math.sqrt(square) for block, square in squares.items() if square is not None}
    return ", ".join(f"{block} {root:.2g}" for block, root in known.items()) or "longer than it"


def _root(square: dict[str, float | None]) -> str:
    """Return the root of a square with its interval; a square that is not above 0 gives its upper limit alone."""
    value, low, high = square["value"], square["low"], square["high"]
    if value is None or high is None or low is None:
        return "-"
    if value <= 0:
        return f"< {math.sqrt(high):.2g}" if high > 0 else "0"
    return f"{math.sqrt(value):.3g} [{math.sqrt(max(low, 0.0)):.2g}, {math.sqrt(high):.2g}]"


def _with_interval(estimate: dict[str, float | None]) -> str:
    if estimate["low"] is None or estimate["high"] is None:
        return _number(estimate["value"])
    return f"{_number(estimate['value'])} [{estimate['low']:.2g}, {estimate['high']:.2g}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
