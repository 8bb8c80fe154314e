"""`thermograd data list | fetch NAME | verify NAME`."""

from typing import Any

import click

from thermograd.cli.common import emit, json_option, print_table
from thermograd.errors import RunError


@click.group()
def data() -> None:
    """List, fetch and verify data sets."""


@data.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the data sets and where each was found on this machine."""
    from thermograd.data import list_datasets

    records = list_datasets()
    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "title": entry.title,
            "shape": list(entry.shape),
            "counts": dict(entry.counts),
            "licence": entry.licence,
            "found": None if found is None else str(found),
        }
        for entry, found in records
    ]

    def text() -> None:
        cells = [
            (
                row["name"],
                "x".join(map(str, row["shape"])),
                " + ".join(str(count) for count in row["counts"].values()),
                row["licence"],
                row["found"] or "not here",
            )
            for row in rows
        ]
        print_table(None, ("name", "pixels", "train + test", "licence", "found in"), cells)

    emit({"datasets": rows}, as_json, text)


@data.command()
@click.argument("name")
@json_option
def fetch(name: str, as_json: bool) -> None:
    """Find the data set NAME on this machine, or download it."""
    from thermograd.data import fetch_dataset

    path = fetch_dataset(name)
    emit({"name": name, "path": str(path)}, as_json, f"{name} is in {path}")


@data.command()
@click.argument("name")
@json_option
def verify(name: str, as_json: bool) -> None:
    """Check the sha256 of every file of the data set NAME."""
    from thermograd.data import verify_dataset

    checks = verify_dataset(name)
    files = [{"file": str(c.file), "expected": c.expected, "found": c.found, "ok": c.ok} for c in checks]
    lines = [f"{'ok     ' if check.ok else 'DAMAGED'} {check.file}" for check in checks]
    emit({"name": name, "files": files}, as_json, "\n".join(lines))
    damaged = [str(check.file) for check in checks if not check.ok]
    if damaged:
        raise RunError(f"{name}: {', '.join(damaged)} differ from the published bytes.")
