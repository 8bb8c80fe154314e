"""A verb whose options are made from its settings."""

from typing import Any

import click


class SettingsCommand(click.Command):
    """A verb whose options are made from its settings when they are first needed, so that `--help` of all is quick."""

    def __init__(self, *args: Any, verb: str, **options: Any):
        super().__init__(*args, **options)
        self.verb, self._complete = verb, False

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return arguments and options, those of the settings behind those of the verb."""
        if not self._complete:
            from thermograd.cli.options import options_of

            self.params += options_of(self.verb)
            self._complete = True
        return super().get_params(ctx)
