"""`thermograd report DIR`."""

from pathlib import Path

import click

from thermograd.cli.common import emit, folder_argument, json_option


@click.command()
@folder_argument
@json_option
def report(folder: Path, as_json: bool) -> None:
    """Write the report of the study or run in DIR: DIR/report/report.html, its figures and its tables.

    Reads the folder and nothing else. What still runs gives a report of what was measured so far.
    """
    from thermograd.reports import write_report

    page = write_report(folder)
    emit({"page": str(page)}, as_json, f"{page}  (figures and tables beside it)")
