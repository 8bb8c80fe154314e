"""`thermograd sample` and `thermograd evaluate`."""

from pathlib import Path

import click

from thermograd.cli.common import emit, folder_argument, json_option, print_table

positive = click.IntRange(min=1)


@click.command()
@folder_argument
@click.option("--num", default=64, type=positive, show_default=True, help="Images to draw.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="PNG file [default: DIR/samples/samples.png].",
)
@click.option("--seed", default=0, type=click.IntRange(min=0), show_default=True)
@click.option("--checkpoint", help="Name of a checkpoint [default: the last].")
@json_option
def sample(
    folder: Path, num: int, out: Path | None, seed: int, checkpoint: str | None, as_json: bool
) -> None:
    """Draw images from the model in DIR."""
    from thermograd.generation import sample_images
    from thermograd.pictures import image_grid, save_png
    from thermograd.run import load_run

    run = load_run(folder, checkpoint)
    samples = sample_images(run.model, run.config.prior_chains, num, seed)
    file = out or folder / "samples" / "samples.png"
    save_png(image_grid(samples.images), file)
    record = {"file": str(file), "num": num, "seed": seed, "checkpoint": run.checkpoint.path.name}
    emit(record, as_json, str(file))


@click.command()
@folder_argument
@click.option("--split", default="test", type=click.Choice(["train", "test"]), show_default=True)
@click.option("--num", type=positive, help="Images to use [default: all of the split, at most 1,000].")
@click.option("--seed", default=0, type=click.IntRange(min=0), show_default=True)
@json_option
def evaluate(folder: Path, split: str, num: int | None, seed: int, as_json: bool) -> None:
    """Score the model in DIR on a split: reconstruction, and energies of posterior against prior draws."""
    from thermograd.evaluation import evaluate_run
    from thermograd.run import load_run

    record = evaluate_run(load_run(folder), split=split, num_images=num, seed=seed)
    rows = []
    for name, value in record["values"].items():
        error = "-" if value["standard_error"] is None else f"{value['standard_error']:.2g}"
        rows.append((name.replace("_", " "), f"{value['mean']:.5g}", error, value["unit"]))
    title = f"{record['dataset']}:{split}, {record['num_images']} images, {record['checkpoint']}"
    emit(record, as_json, lambda: print_table(title, ("quantity", "mean", "standard error", "unit"), rows))
