"""A whole study, and a check of the installation, by one call each."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thermograd.errors import RunError
from thermograd.progress import shown
from thermograd.study import clusters, engine, load_study, read_study_file, write_tables
from thermograd.study.folder import make_study
from thermograd.study.status import StudyMeter, is_done
from thermograd.study.work import prepare_features
from thermograd.validation import Settings, Validation, validate

if TYPE_CHECKING:
    import pandas as pd


def validate_installation(**settings: Any) -> Validation:
    """Check every kernel, evidence method and estimator against exact values, on this machine.

    Args:
        settings: size of the closed-form model and number of draws, as `thermograd validate` takes them.

    Returns:
        Tables of bias, chance and error, and the checks that failed.

    Raises:
        InputError: a setting out of range.

    Example:
        >>> small = {"latent_dim": 3, "num_pixels": 8, "noise_std": 0.5, "weight_scale": 0.5, "num_images": 8}
        >>> tg.validate_installation(**small, num_repeats=10).failures
        []
    """
    return validate(Settings(**settings))


def run_study(
    file: Path | str,
    out: Path | str | None = None,
    *,
    num_workers: int | None = None,
    max_attempts: int = 2,
    show_progress: bool | None = None,
    on_event: Callable[[str], None] = lambda line: None,
) -> "pd.DataFrame":
    """Run every run of a study file on this machine, and return the table.

    Args:
        file: a study file, or the name of a ready one.
        out: the study folder; None for studies/NAME.
        num_workers: number of processes; None for as many as the cores allow.
        max_attempts: how often a run may fail before it is given up.
        show_progress: on standard error; None to show it where that is a terminal or a notebook.
        on_event: called with a line for the user.

    Returns:
        One row per run, step and split, as `load_study` gives it.

    Raises:
        InputError: a study file at fault, or a folder of another study.
        RunError: runs that failed for good; the others are done.

    Example:
        >>> table = tg.run_study("quick", "studies/example", num_workers=1)  # doctest: +SKIP
    """
    clusters.import_distributed()  # before anything is written
    described = read_study_file(Path(file))
    folder = make_study(described, Path("studies") / described.name if out is None else Path(out))
    if not all(is_done(folder.run_folder(each.identity)) for each in folder.runs):
        prepare_features(folder)
        with (
            nullcontext() if show_progress is False else shown(only_live=show_progress is None),
            clusters.local_client(num_workers or clusters.default_num_workers(folder, 0)) as (client, _),
        ):
            causes = engine.run_study(
                folder, client, max_attempts=max_attempts, on_event=on_event, on_look=StudyMeter(folder)
            )
        if causes:
            raise RunError(f"{len(causes)} runs failed: {'; '.join(causes.values())}")
    write_tables(folder.path)
    return load_study(folder.path)
