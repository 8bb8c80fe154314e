"""The weights that a run begins with where they are those of another run."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load

from thermograd.config.schema import RunConfig
from thermograd.config.start import START
from thermograd.errors import InputError, failure
from thermograd.files import hash_of
from thermograd.models.latent_ebm import LatentEBM


def load_start(config: RunConfig, model: LatentEBM, folder: Path) -> bytes | None:
    """Give a model the weights that its run begins with, from the copy in its folder or from the other run.

    Args:
        config: of the new run.
        model: as it was built.
        folder: of the new run.

    Returns:
        The file of the weights, to be kept; None where the run begins with weights of its own.

    Raises:
        InputError: the weights are gone, were changed, or are those of another network.
    """
    start = config.start_from
    if start is None:
        return None
    contents = (path.read_bytes() for path in (folder / START, start.file()) if path.is_file())
    content = next((each for each in contents if hash_of(each) == start.sha256), None)
    if content is None:
        raise InputError(f"`start_from` {start}: its weights are gone or were changed ({start.file()}).")
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise InputError(f"`start_from` {start} is damaged: {failure(error)}.") from None
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    there = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in own | there:
        if own.get(name) != there.get(name):
            raise InputError(
                f"`start_from` {start} is of another network: {name} has shape {there.get(name, 'none')} there, "
                f"{own.get(name, 'none')} here."
            )
    model.load_state_dict(tensors)
    return content
