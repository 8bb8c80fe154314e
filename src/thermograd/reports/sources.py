"""What a report is of: a study with its runs, or one run that stands alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thermograd.errors import InputError
from thermograd.evaluation.records import read_records
from thermograd.reports.contrasts import Contrast
from thermograd.runs.folder import read_config, read_environment, read_status
from thermograd.runs.metrics import read_metrics
from thermograd.study.file import READY
from thermograd.study.folder import StudyFolder, open_study
from thermograd.study.run import StudyRun
from thermograd.study.status import study_status


@dataclass(frozen=True)
class Source:
    """A study, or one run that stands alone, as the only arm of itself.

    Attributes:
        name: of the study, or of the run's folder.
        path: its folder.
        runs: each with its config, arm and seed.
        folders: of the runs, in their order.
        study: the study; None for a run.
    """

    name: str
    path: Path
    runs: tuple[StudyRun, ...]
    folders: tuple[Path, ...]
    study: StudyFolder | None

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """Return what was named before the first run."""
        named = () if self.study is None else self.study.study.contrasts
        return tuple(Contrast(each.name, each.a, each.b, each.metric) for each in named)

    def states(self, newest: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Return where each run stands: arm, seed, state, step, num_steps, cause.

        Args:
            newest: the last training record of each run, by its identity.
        """
        if self.study is not None:
            return study_status(self.study, newest)["runs"]
        status, run = read_status(self.path), self.runs[0]
        return [
            {"arm": run.arm, "seed": run.seed, "state": status.get("state", "damaged"), "step": run.num_steps}
            | {"num_steps": status.get("num_steps", run.num_steps), "cause": status.get("cause")}
        ]


def open_source(path: Path) -> Source:
    """Open the folder of a study or of a run.

    Raises:
        InputError: it is neither, or its files are damaged.
    """
    if (path / "study.json").is_file():
        study = open_study(path)
        folders = tuple(study.run_folder(run.identity) for run in study.runs)
        return Source(study.study.name, path, study.runs, folders, study)
    if not (path / "config.yaml").is_file():
        raise InputError(
            f"`folder` {path} is neither a run nor a study: it has no config.yaml and no study.json."
        )
    run = _lone_run(path)
    return Source(run.arm, path, (run,), (path,), None)


def _lone_run(path: Path) -> StudyRun:
    """Return a run as the only one of its arm; its end is the last step at which it was measured."""
    config = read_config(path)
    end = max((record.step for record in read_records(path, source="clock")), default=0)
    if not end:
        raise InputError(f"`run` {path} has no measured checkpoint yet: thermograd measure {path}")
    size, estimator = config.training.batch_size, config.gradient.estimator
    data = read_environment(path).get("data", {})
    # As recorded: what an estimator of a plugin costs is known where the plugin is, and a report executes none.
    spent = next(
        (record["num_evaluations"] for record in read_metrics(path) if "num_evaluations" in record), 0
    )
    kind = "noise-dial" if config.gradient.noise_multiplier else None
    return StudyRun(
        identity=config.identity,
        arm=path.resolve().name,
        ready=kind or next((arm.name for arm in READY.values() if arm.estimator == estimator), None),
        cell={},
        seed=config.seed,
        config=config.model_dump(mode="json"),
        requested={},
        num_steps=end,
        num_images=data.get("num_images", size),
        evaluations=end * size * spent,
    )
