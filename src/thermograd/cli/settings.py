"""`thermograd settings [NAME]` and `thermograd presets`: what can be set, and what comes ready."""

import click

from thermograd.cli.common import emit, json_option, print_table
from thermograd.errors import InputError, nearest


@click.command()
@click.argument("name", required=False)
@click.option("--markdown", is_flag=True, help="Print the settings of a run as docs/settings.md holds them.")
@json_option
def settings(name: str | None, markdown: bool, as_json: bool) -> None:
    """Print every setting of a run, of one group of them (training), of a verb (evaluate), or the names it can take.

    Settings of a run are given as --group.name VALUE to `train`, or in a file.
    """
    from thermograd.cli.options import VERBS, WITHOUT
    from thermograd.config.describe import markdown_table, settings_of, settings_table
    from thermograd.config.schema import RunConfig

    if markdown:
        click.echo(markdown_table(RunConfig))
        return
    named = {setting.name: setting.table for setting in settings_of(RunConfig) if setting.table is not None}
    if name in named:
        kinds = [(each, facts.in_words) for each, facts in named[name].items()]
        emit({"names": dict(kinds)}, as_json, lambda: print_table(name, ("name", "what it is"), kinds))
        return
    rows = settings_table(RunConfig)
    groups = list(dict.fromkeys(row[0].split(".")[0] for row in rows))
    if name in VERBS and name not in groups:
        kind, words = VERBS[name]
        rows = [
            ("--" + words.get(last, last).replace("_", "-"), *row[1:])
            for row in settings_table(kind)
            for last in [row[0].rsplit(".", 1)[-1]]
            if row[0] not in WITHOUT.get(name, set())
        ]
    elif name is not None:
        if name not in groups:
            raise InputError(f"`name` {name!r} has no settings{nearest(name, [*groups, *VERBS])}")
        rows = [row for row in rows if row[0].split(".")[0] == name]
    columns = ("setting", "type", "default", "description")
    record = {"settings": [dict(zip(columns, row, strict=True)) for row in rows]}
    emit(record, as_json, lambda: print_table(None, columns, rows))


@click.command()
@json_option
def presets(as_json: bool) -> None:
    """List the presets that `train` takes: the data, the network and how long each trains."""
    from thermograd.config.names import preset_names
    from thermograd.config.resolve import resolve

    rows = []
    for name in preset_names():
        config = resolve(name)[0]
        shape = "x".join(map(str, config.model.image_shape))
        chains = "a density" if not config.prior_chains.is_short_run else "short-run"
        rows.append(
            (name, config.data.name, shape, config.model.latent_dim, config.training.num_epochs, chains)
        )
    columns = ("preset", "data", "pixels", "latents", "epochs", "prior")
    record = {"presets": [dict(zip(columns, row, strict=True)) for row in rows]}
    emit(record, as_json, lambda: print_table(None, columns, rows))
