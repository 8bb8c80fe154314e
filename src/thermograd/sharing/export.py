"""Write a run's model for others, and push it to the hub."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from thermograd.config.plugins import copy_plugin
from thermograd.config.schema import RunConfig
from thermograd.errors import InputError, RunError, failure, import_extra, one_line
from thermograd.files import make_folder, sha256
from thermograd.models.pretrained import CONFIG, HUB_NAME, PRIOR, WEIGHTS
from thermograd.runs.pictures import image_grid, save_png
from thermograd.runs.run import Run
from thermograd.sharing.card import model_card
from thermograd.training.samples import sample_images
from thermograd.version import __version__

NUM_SAMPLES = 64


def save_pretrained(
    run: Run, folder: Path | str, *, licence: str | None = None, name: str | None = None
) -> Path:
    """Write a run's model into a folder for others, whole or not at all.

    Args:
        run: at the checkpoint that is shared.
        folder: a new one, an empty one, or an earlier export, which is replaced.
        licence: of the weights, as the hub names it, e.g. "apache-2.0".
        name: of the model in its card; None for the folder's.

    Raises:
        InputError: a folder that holds something else.
    """
    folder = Path(folder).expanduser()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not _is_export(folder)):
        raise InputError(f"`folder` {folder} holds something else; name a new or an empty one.")
    make_folder(folder.parent)
    aside = Path(tempfile.mkdtemp(prefix=".writing_", dir=folder.parent))
    try:
        _write(run, aside, licence, name or folder.name)
        aside.chmod(0o755)  # mkdtemp makes it private
        if folder.is_dir():
            shutil.rmtree(folder)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _is_export(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (CONFIG, WEIGHTS, PRIOR))


def _write(run: Run, folder: Path, licence: str | None, name: str) -> None:
    weights = {key: value.detach().cpu().contiguous() for key, value in run.model.state_dict().items()}
    source = run.prior_chains
    prior = {"prior_step_size": source.step_size.detach().cpu().contiguous()}
    if source.stored is not None:
        prior["stored_prior"] = source.stored.detach().cpu().contiguous()
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    save_file(prior, folder / PRIOR, metadata={"format": "pt"})
    for plugin in run.config.plugins:
        copy_plugin(plugin.sha256, folder)
    files = {
        path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()
    }
    content = {
        "library": "thermograd",
        "version": __version__,
        "identity": run.config.identity,
        "checkpoint": run.checkpoint.path.name,
        "step": run.checkpoint.step,
        "sha256": files,
        "config": without_paths(run.config),
    }
    (folder / CONFIG).write_text(json.dumps(content, indent=1))
    images = sample_images(run.model, source, NUM_SAMPLES, seed=0).images
    save_png(image_grid(images), folder / "samples.png")
    (folder / "README.md").write_text(model_card(run, name, licence))


def without_paths(config: RunConfig) -> dict[str, Any]:
    """Return a config as plain data without the paths of this machine."""
    values: dict[str, Any] = config.model_dump(mode="json")
    values["data"]["path"] = values["measure"]["weights"] = values["start_from"] = None
    values["plugins"] = [{**each, "file": Path(each["file"]).name} for each in values["plugins"]]
    return values


def push(
    run: Run,
    name: str,
    *,
    licence: str | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Share a run's model on the Hugging Face hub.

    Args:
        run: at the checkpoint that is shared.
        name: OWNER/NAME; the repository is made where it is missing.
        licence: of the weights, as the hub names it.
        private: make a repository that nobody else sees.
        token: with the right to write; None for the one that `hf auth login` keeps.

    Returns:
        The address of the commit.

    Raises:
        InputError: a name that is not OWNER/NAME, huggingface_hub is not installed, or the hub refuses.
        RunError: the hub cannot be reached.
    """
    if not HUB_NAME.fullmatch(name):
        raise InputError(f"`name` must be OWNER/NAME, got {name!r}.")
    hub, errors = import_extra("huggingface_hub"), import_extra("huggingface_hub.errors")
    with tempfile.TemporaryDirectory() as place:
        folder = save_pretrained(run, Path(place) / "model", licence=licence, name=name.split("/")[1])
        words = f"Step {run.checkpoint.step}, thermograd {__version__}"
        try:
            api = hub.HfApi(os.environ.get("HF_ENDPOINT"), token, "thermograd", __version__)
            api.create_repo(name, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=name, folder_path=folder, commit_message=words)
        except Exception as error:
            response = error.response if isinstance(error, errors.HfHubHTTPError) else None
            if response is not None and 400 <= response.status_code < 500:
                raise InputError(f"`name` {name} was refused by the hub: {one_line(str(error))}") from None
            raise RunError(f"{name} could not be pushed to the hub: {one_line(failure(error))}.") from error
    return str(commit.commit_url)
