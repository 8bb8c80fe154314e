"""Draws in the form that ArviZ reads, for its summaries and plots.

    data = trace.to_arviz()
    arviz.summary(data, var_names=["latents"])
    arviz.plot_rank(data, var_names=["latents"], coords={"rung": [1.0], "image": [0]})

| group | holds |
|---|---|
| `posterior` | latents (chain, draw, rung, image, latent); of a trace without them, the log-likelihood |
| `sample_stats` | log-likelihood and energy (chain, draw, rung, image) |
"""

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thermograd.errors import import_extra

AXES = ("chain", "draw", "rung", "image")


def of_chains(
    inverse_temperatures: Tensor, log_likelihood: Tensor, energy: Tensor, latents: Tensor | None
) -> Any:
    """Return chains as an `arviz.InferenceData`, or as the `xarray.DataTree` that ArviZ reads from version 1 on.

    Args:
        inverse_temperatures: (K,), which become the coordinate `rung`, or (K, B), which stand beside it.
        log_likelihood: (S, K, M, B).
        energy: (S, K, M, B).
        latents: (S, K, M, B, d), or None.
    """

    def axes(values: Tensor) -> tuple[tuple[str, ...], Any]:
        return (*AXES, "latent")[: values.dim()], values.detach().movedim(2, 0).cpu().numpy()

    t = inverse_temperatures.cpu().numpy()
    alike = t.ndim == 1
    coordinates = {
        "rung": t if alike else range(len(t)),
        "inverse_temperature": ("rung", t) if alike else (("rung", "image"), t),
    }
    stats = {"log_likelihood": axes(log_likelihood), "energy": axes(energy)}
    posterior = {"log_likelihood": stats["log_likelihood"]} if latents is None else {"latents": axes(latents)}
    return groups({"posterior": posterior, "sample_stats": stats}, coordinates)


def groups(parts: Mapping[str, Mapping[str, Any]], coordinates: Mapping[str, Any]) -> Any:
    """Return groups of (axes, values) as ArviZ takes them.

    Raises:
        InputError: ArviZ is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # told at import by versions before 1
        arviz = import_extra("arviz")
    import xarray

    sets = {}
    for name, part in parts.items():
        sizes = {axis for axes, _ in part.values() for axis in ([axes] if isinstance(axes, str) else axes)}
        data = xarray.Dataset(dict(part))
        for axis in sorted(sizes):
            data = data.assign_coords({axis: range(data.sizes[axis])})
        sets[name] = data.assign_coords(dict(coordinates))
    if hasattr(arviz, "InferenceData"):
        return arviz.InferenceData(**sets)
    return xarray.DataTree.from_dict(sets)
