"""thermograd: latent space energy-based prior models, trained and measured with proven gradients.

    import thermograd as tg

    run = tg.train("digits", "runs/first", training={"num_epochs": 5})
    run.sample(64).images                     # (64, 1, 8, 8) in [-1, 1]
    tg.estimate_evidence(run.model, run.images("test", 10))

Each name is imported when it is first used, so that `import thermograd` takes no time and brings no torch.
"""

from importlib import import_module
from typing import Any

from thermograd.version import __version__

_ROOMS: dict[str, tuple[str, ...]] = {
    "api.models": ("estimate_evidence", "ladder_gradient", "ladder_weights", "sample_ladder"),
    "api.runs": ("Run", "load_config", "load_dataset", "load_run", "train"),
    "api.studies": ("run_study", "validate_installation"),
    "config.plugins": ("register",),
    "errors": ("Caution", "InputError", "RunError"),
    "evaluation.compare": ("compare_runs",),
    "evidence": ("BayesFactor", "Evidence", "bayes_factor"),
    "gradients.limits": ("Limit",),
    "gradients.rules": ("Estimator", "PriorRule"),
    "ladders.ladder": ("Ladder",),
    "ladders.named": ("Schedule",),
    "ladders.sampler": ("LadderSampler",),
    "ladders.schedules": ("power_schedule",),
    "metrics": ("frechet_distance", "kernel_distance"),
    "models.check": ("check_model",),
    "models.grid": ("GridTwin",),
    "models.latent_ebm": ("LatentEBM",),
    "models.latent_model": ("LatentModel",),
    "models.linear_gaussian": ("LinearGaussian",),
    "reports": ("write_report",),
    "samplers.kernel": ("Kernel",),
    "samplers.langevin": ("ULA",),
    "samplers.mala": ("MALA",),
    "sharing": ("Pretrained", "load_pretrained"),
    "study": ("load_study", "query_study"),
    "training.fit": ("Fit", "fit"),
    "training.variance": ("GradientVariance", "gradient_variance"),
}
_MODULES = {"plots": "reports.plots", "quadrature": "ladders.quadrature", "testing": "testing"}
_PLACES = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = ["__version__", *sorted(_PLACES), *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    """Import a name of the door when it is first used (PEP 562)."""
    if name in _MODULES:
        found = import_module(f"thermograd.{_MODULES[name]}")
    elif name in _PLACES:
        found = getattr(import_module(f"thermograd.{_PLACES[name]}"), name)
    else:
        raise AttributeError(f"module 'thermograd' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
