"""`thermograd export` and `push`."""

from pathlib import Path

import click

from thermograd.cli.common import emit, folder_argument, json_option

licence_option = click.option("--licence", help='Of the weights, as the hub names it, e.g. "apache-2.0".')
checkpoint_option = click.option("--checkpoint", help="Name of a checkpoint [default: the last].")


@click.command()
@folder_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@licence_option
@checkpoint_option
@json_option
def export(folder: Path, out: Path, licence: str | None, checkpoint: str | None, as_json: bool) -> None:
    """Write the model of the run in DIR for others: config, weights, samples and a model card.

    In Python `tg.load_pretrained(OUT)` reads it.
    """
    from thermograd.runs.run import load_run
    from thermograd.sharing import save_pretrained

    made = save_pretrained(load_run(folder, checkpoint), out, licence=licence)
    emit({"folder": str(made)}, as_json, str(made))


@click.command()
@folder_argument
@click.argument("name", metavar="OWNER/NAME")
@licence_option
@checkpoint_option
@click.option("--private", is_flag=True, help="Make a repository that nobody else sees.")
@json_option
def push(
    folder: Path, name: str, licence: str | None, checkpoint: str | None, private: bool, as_json: bool
) -> None:
    """Share the model of the run in DIR on the Hugging Face hub; log in once by `hf auth login`."""
    from thermograd.runs.run import load_run
    from thermograd.sharing import push as push_run

    address = push_run(load_run(folder, checkpoint), name, licence=licence, private=private)
    emit({"address": address}, as_json, address)
