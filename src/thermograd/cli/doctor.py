"""`thermograd doctor`: what this machine offers."""

import click

from thermograd.cli.common import emit, json_option, print_table


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show versions, devices, caches and the data found on this machine."""
    import os
    import warnings

    import torch

    from thermograd.data import list_datasets
    from thermograd.files import cache_folder
    from thermograd.machine import environment, resolve_device
    from thermograd.models.generator import BFLOAT16_WIDTH, has_bfloat16

    device = resolve_device("auto")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver that is missing is what the table says
        facts = environment(device)
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found = {entry.name: None if path is None else str(path) for entry, path in list_datasets()}
    gains = has_bfloat16() and device.type == "cpu"
    precision = (
        f"bfloat16-mixed for generators of width {BFLOAT16_WIDTH} or more, else float32"
        if gains
        else "float32"
    )
    record = {
        **facts,
        "gpus": gpus,
        "cores": os.cpu_count(),
        "bfloat16_in_hardware": has_bfloat16(),
        "precision_auto": precision,
        "cache": str(cache_folder()),
        "THERMOGRAD_DATA": os.environ.get("THERMOGRAD_DATA"),
        "data": found,
    }
    rows = [
        ("thermograd", facts["thermograd"]),
        ("python", facts["python"]),
        *facts["packages"].items(),
        ("processor", f"{facts['processor']}, {os.cpu_count()} cores, {facts['num_threads']} threads used"),
        ("bfloat16 in hardware", "yes" if record["bfloat16_in_hardware"] else "no"),
        ("precision auto", precision),
        ("GPUs", ", ".join(gpus) or "none"),
        ("device used", device),
        ("cache", record["cache"]),
        ("THERMOGRAD_DATA", record["THERMOGRAD_DATA"] or "not set"),
        *((f"data {name}", path or "not here") for name, path in found.items()),
    ]
    emit(record, as_json, lambda: print_table(None, ("what", "found"), rows))
