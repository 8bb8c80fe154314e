"""Recorded evaluations: played here by a recorder that reads and fills the same tensors as a CUDA graph does."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import LADDER
from thermograd.cli import run as run_command_line
from thermograd.config.schema import RunConfig
from thermograd.ladders.ladder import sample_ladder
from thermograd.ladders.schedules import power_schedule
from thermograd.models.cuda_graphs import MAX_GRAPHS, GraphedModel, describe_cuda_graphs
from thermograd.models.latent_ebm import LatentEBM
from thermograd.samplers.langevin import ULA
from thermograd.samplers.mala import MALA
from thermograd.samplers.prior import sample_prior
from thermograd.training.builder import build_model
from thermograd.training.trainer import Trainer

MakeConfig = Callable[..., RunConfig]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def record(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> tuple[Any, Callable[[], None]]:
    """Read the inputs and fill the outputs of the first call at each replay, as a graph does.

    A graph also reads the weights where they stood; here it is checked that they still stand there.
    """
    outputs, weights = function(*inputs), addresses(function)

    def replay() -> None:
        assert addresses(function) == weights
        new = function(*inputs)
        for mine, theirs in [(outputs, new)] if isinstance(new, Tensor) else zip(outputs, new, strict=True):
            mine.copy_(theirs)

    return outputs, replay


def addresses(function: Any) -> list[int]:
    return [parameter.data_ptr() for parameter in function.__self__.parameters()]


@pytest.fixture
def model(tiny_config: MakeConfig) -> LatentEBM:
    return build_model(tiny_config({"compute.device": "cpu"}))


def chains(model: Any, x: Tensor) -> list[Tensor]:
    """Return what a ladder of MALA chains and prior chains of both kernels end with."""
    prior = sample_prior(model, ULA(0.3), 5, torch.ones(6, model.latent_dim), seeded(1))
    again = sample_prior(model, MALA(0.3), 5, prior.latents, seeded(2))
    t = power_schedule(4, 2.0)
    ladder = sample_ladder(
        model, x, t, MALA(0.1), 2, 5, "annealed", seeded(3), exchange_rungs=True, chunk_size=7
    )
    return [prior.latents, again.latents, ladder.latents, ladder.log_likelihood, ladder.energy]


def test_chains_of_replayed_evaluations_are_those_of_the_model(model: LatentEBM):
    x = torch.rand(5, *model.image_shape, generator=seeded(0)) * 2 - 1
    graphed = GraphedModel(model, record)
    for found, wanted in zip(chains(graphed, x), chains(model, x), strict=True):
        assert torch.equal(found, wanted)
    names = {key[0] for key in graphed.graphs}
    assert names == {"prior_score", "evaluate_prior", "evaluate"}
    assert all(graph is not None for graph in graphed.graphs.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16-mixed"])
@pytest.mark.parametrize("settings", [{}, LADDER])
def test_training_on_replayed_evaluations_changes_no_weight(
    settings: dict[str, Any], precision: str, tiny_config: MakeConfig
):
    """Weights move in place, and the bfloat16 copy with them; a graph of old weights would be found here."""
    config = tiny_config({**settings, "compute.precision": precision})
    weights = []
    for graphed in (False, True):
        trainer = Trainer(config, build_model(config), 36)
        if graphed:
            trainer.chain_model = GraphedModel(trainer.chain_model, record)
        size = config.training.batch_size
        x = torch.rand(size, *config.model.image_shape, generator=seeded(0)) * 2 - 1
        for step in range(4):
            trainer.step(x, torch.arange(size), step, 0)
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert torch.equal(*weights)


def test_a_call_that_can_not_be_recorded_goes_on_without(model: LatentEBM):
    def refuse(function: Any, inputs: Any) -> Any:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    graphed, z = GraphedModel(model, refuse), torch.ones(3, model.latent_dim)
    with pytest.warns(UserWarning, match="no CUDA graph of prior_score, went on without: operation not per"):
        found = graphed.prior_score(z)
    assert torch.equal(found, model.prior_score(z))
    assert torch.equal(graphed.prior_score(z), found)  # told once


def test_a_graph_that_does_nothing_is_not_used(model: LatentEBM):
    """Its outputs are right as recorded, and would stay the same for ever."""
    graphed = GraphedModel(model, lambda function, inputs: (function(*inputs), lambda: None))
    z = torch.ones(3, model.latent_dim)
    with pytest.warns(UserWarning, match="prior_score does not give what the model gives"):
        graphed.prior_score(z)
    assert torch.equal(graphed.prior_score(2 * z), model.prior_score(2 * z))


@pytest.mark.parametrize("wrong", [1.1, float("nan")])
def test_a_graph_that_gives_other_numbers_is_not_used(wrong: float, model: LatentEBM):
    def mistaken(function: Any, inputs: Any) -> Any:
        outputs, replay = record(function, inputs)
        return outputs, lambda: (replay(), outputs.mul_(wrong))

    graphed, z = GraphedModel(model, mistaken), torch.ones(3, model.latent_dim)
    with pytest.warns(UserWarning, match="prior_score does not give what the model gives"):
        found = graphed.prior_score(z)
    assert torch.equal(found, model.prior_score(z))


def test_shapes_beyond_the_bound_are_evaluated_without(model: LatentEBM):
    graphed = GraphedModel(model, record)
    for size in range(1, MAX_GRAPHS + 3):
        z = torch.ones(size, model.latent_dim)
        assert torch.equal(graphed.prior_score(z), model.prior_score(z))
    assert sum(graph is not None for graph in graphed.graphs.values()) == MAX_GRAPHS


def test_without_a_gpu_the_setting_changes_nothing(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]
):
    config = tiny_config({"compute.cuda_graphs": True, "compute.device": "cpu"})
    trainer = Trainer(config, build_model(config), 36)
    assert trainer.chain_model is trainer.model
    assert run_command_line(["doctor", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)["cuda_graphs"]
    assert known == ("no GPU" if not torch.cuda.is_available() else "yes")


def test_graphs_do_not_change_the_identity(tiny_config: MakeConfig):
    with_graphs = tiny_config({"compute.cuda_graphs": True})
    assert with_graphs.identity == tiny_config({}).identity
    assert with_graphs.identity != tiny_config({"compute.precision": "auto"}).identity


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recording_that_fails_on_a_gpu_leaves_the_stream_as_it_was(tiny_config: MakeConfig):
    model = build_model(tiny_config({"compute.device": "cuda"}))
    model.prior_score = lambda z: z * z.sum().item()  # type: ignore[method-assign]
    z, stream = torch.ones(3, model.latent_dim, device="cuda"), torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="no CUDA graph"):
        found = GraphedModel(model).prior_score(z)
    assert torch.cuda.current_stream() == stream
    assert torch.equal(found, model.prior_score(z))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphs_on_a_gpu(tiny_config: MakeConfig):
    model = build_model(tiny_config({"compute.device": "cuda"}))
    x = torch.rand(5, *model.image_shape, device="cuda") * 2 - 1
    assert describe_cuda_graphs(model, x) == "yes"
    z = torch.ones(5, model.latent_dim, device="cuda")
    for found, wanted in zip(GraphedModel(model).evaluate(x, z), model.evaluate(x, z), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
