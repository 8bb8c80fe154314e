"""`thermograd validate`: is this install right?"""

from dataclasses import fields
from pathlib import Path

import click

from thermograd.cli.common import emit, json_option, load_more_plugins, plugins_option, print_table, working

NOTE = (
    "Gradients are relative to the length of the exact one. `chance` is the standard error of the bias; for gradients "
    "the length that a bias of 0 would show. `limit` is the distance of what the method aims at from the exact value."
)


@click.command()
@click.option("--latent", default=16, show_default=True, help="Latent numbers, d.")
@click.option("--pixels", default=256, show_default=True, help="Pixels of an image, D.")
@click.option("--noise", default=0.3, show_default=True, help="Standard deviation of the likelihood, s.")
@click.option("--weight-scale", default=0.08, show_default=True, help="Standard deviation of the weights.")
@click.option("--images", default=64, show_default=True, help="Images in the batch.")
@click.option("--repeats", default=60, show_default=True, help="Estimates of each gradient.")
@click.option(
    "--perturbation",
    default=0.5,
    show_default=True,
    help="Noise on the weights in the tables away from the truth, in units of --weight-scale.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of every random stream.")
@plugins_option
@json_option
def validate(
    latent: int,
    pixels: int,
    noise: float,
    weight_scale: float,
    images: int,
    repeats: int,
    perturbation: float,
    seed: int,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Check every kernel, evidence method and estimator against exact values.

    All run on a linear Gaussian model whose evidence and gradients are known in closed form. Exits with 1 if a
    check fails. The defaults take about a minute on one core.
    """
    from thermograd.errors import RunError
    from thermograd.validation import Settings, Validation
    from thermograd.validation import validate as run_validation

    load_more_plugins(plugins)
    settings = Settings(latent, pixels, noise, weight_scale, images, repeats, perturbation, seed)
    with working(as_json):
        result: Validation = run_validation(settings)

    def show() -> None:
        described = ", ".join(f"{f.name} {getattr(settings, f.name):g}" for f in fields(settings))
        click.echo(f"{described}\n")
        for title, rows in result.tables.items():
            unit = "nats" if title in ("kernels", "evidence") else "relative"
            columns = ("what", "evaluations", "bias", "chance", "sd", "rms", "limit", "verdict")
            cells = [
                (
                    row.name,
                    f"{row.num_evaluations:g}",
                    *(f"{v:.3f}" for v in (row.bias, row.bias_error, row.standard_deviation, row.error)),
                    "-" if row.limit_distance is None else f"{row.limit_distance:.3g}",
                    row.verdict,
                )
                for row in rows
            ]
            print_table(f"{title} ({unit})", columns, cells)
        click.echo(NOTE)
        for line in result.warnings:
            click.echo(f"warning: {line}")
        click.echo(f"{result.num_checks} checks, {len(result.failures)} failed, {result.seconds:.0f} s")

    emit(result.record(), as_json, show)
    if result.failures:
        raise RunError(f"{len(result.failures)} checks failed: {'; '.join(result.failures)}.")
