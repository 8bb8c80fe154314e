"""The memory of a config is told before it is allocated, and what it counts is what is there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import thermograd as tg
from thermograd.config.resolve import resolve
from thermograd.config.schema import RunConfig
from thermograd.errors import InputError
from thermograd.runs.train import train_run
from thermograd.training import memory
from thermograd.training.builder import build_model
from thermograd.training.memory import check_memory, estimated_memory, network_sizes, unknown_sizes
from thermograd.training.trainer import Trainer

CPU = torch.device("cpu")
MakeConfig = Callable[..., RunConfig]


@pytest.mark.parametrize("preset", ["digits", "mnist", "svhn", "celeba-64"])
@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_weights_and_outputs_are_counted_exactly(preset: str, kind: str):
    overrides: dict[str, Any] = {"model.generator.kind": kind, "compute.device": "cpu"}
    if kind == "dense" or preset == "digits":
        overrides["model.generator.widths"] = [7, 5] if kind == "dense" else [7]
    config, _ = resolve(preset, overrides=overrides)
    model = build_model(config)
    sizes = network_sizes(config)
    assert sum(size.num_weights or 0 for size in sizes.values()) == sum(p.numel() for p in model.parameters())
    counted: list[int] = []

    def count(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        counted.append(output[0].numel())

    generator = model.generator
    layers = [each for each in generator.modules() if list(each.parameters(recurse=False))]
    for layer in layers:
        layer.register_forward_hook(count)
    model.decode(torch.zeros(1, config.model.latent_dim))
    assert tuple(counted) == sizes["generator"].outputs


class Thrifty(torch.nn.Module):
    """A network of the user's, which one meta tensor after another can follow."""

    def __init__(self, latent_dim: int, image_shape: tuple[int, ...]):
        super().__init__()
        self.layer = torch.nn.Linear(latent_dim, 64)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layer(z).tanh().view(-1, 1, 8, 8)


class Opaque(Thrifty):
    """A network whose making reads the values of a tensor."""

    def __init__(self, latent_dim: int, image_shape: tuple[int, ...]):
        super().__init__(latent_dim, image_shape)
        self.scale = float(self.layer.weight.detach().abs().max())


def test_a_network_of_the_users_is_counted_where_it_can_be_and_named_where_not(tiny_config: MakeConfig):
    for network in (Thrifty, Opaque):
        tg.register(network, role="generator", replace=True)
    config = tiny_config({"model.generator.kind": "Thrifty"})
    generator = network_sizes(config)["generator"]
    assert generator.num_weights == (config.model.latent_dim + 1) * 64
    assert generator.outputs == (64,)
    assert unknown_sizes(config) is None
    config = tiny_config({"model.generator.kind": "Opaque"})
    assert network_sizes(config)["generator"].num_weights is None
    assert str(unknown_sizes(config)).startswith("note: the memory of `model.generator.kind` is not known")
    assert check_memory(config, 36, CPU) is None
    assert build_model(config).generator.layer.out_features == 64  # type: ignore[union-attr]


def test_stored_chains_are_counted_exactly(tiny_config: MakeConfig):
    ladder = {
        "gradient.estimator": "thermodynamic-complete",
        "gradient.num_rungs": 4,
        "gradient.num_chains": 2,
    }
    config = tiny_config(
        {**ladder, "posterior_chains.start": "persistent", "posterior_chains.exchange": True}
    )
    stored = Trainer(config, build_model(config), 36).tensors()["stored"]
    assert estimated_memory(config, 36).stored_chains == stored.numel() * stored.element_size()


def test_what_a_device_does_not_have_is_refused_before_it_is_allocated(
    tiny_config: MakeConfig, tmp_path: Path
):
    config = tiny_config({"model.generator.kind": "dense", "model.generator.widths": [1_000_000, 1_000_000]})
    with pytest.raises(
        InputError, match=r"need about 1\.49e\+04 GiB of memory .* and this device has .* smaller"
    ):
        train_run(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_less_than_is_free_is_a_warning(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch):
    config = tiny_config()
    assert check_memory(config, 36, CPU) is None
    needed = estimated_memory(config, 36).total
    monkeypatch.setattr(memory, "available_memory", lambda device: needed - 1)
    assert str(check_memory(config, 36, CPU)).startswith("warning: this run needs about")
    monkeypatch.setattr(memory, "total_memory", lambda device: needed - 1)
    with pytest.raises(InputError):
        check_memory(config, 36, CPU)


@pytest.mark.parametrize(
    ("changes", "part", "factor"),
    [
        ({"training.batch_size": 16}, "step", 2.0),
        (
            {"compute.chunk_size": 4, "gradient.num_chains": 8},
            "step",
            (5 * 4 * 92 + 512) / (5 * 8 * 92 + 512),
        ),
        ({"optimiser.ema_decay": 0.9}, "weights", 1.25),
    ],
)
def test_what_needs_more_is_told_to(
    changes: dict[str, Any], part: str, factor: float, tiny_config: MakeConfig
):
    plain = {"optimiser.ema_decay": None}
    before, after = (estimated_memory(tiny_config({**plain, **each}), 36) for each in ({}, changes))
    assert getattr(after, part) / getattr(before, part) == pytest.approx(factor, rel=0.1)
