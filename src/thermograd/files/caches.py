"""The one folder of caches."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return $THERMOGRAD_CACHE, or the user's cache folder for thermograd. Creates nothing."""
    chosen = os.environ.get("THERMOGRAD_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("thermograd"))
