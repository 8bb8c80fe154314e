"""Evaluations of a model as CUDA graphs: recorded once for each shape, replayed at every step of a chain.

Chains of small networks are bound by the launch of kernels, not by their work: an evaluation with its scores takes some
sixty, a graph of it one and seven copies. A graph holds the addresses of the weights, so it follows weights that are
moved in place, as the optimisers move them. Draws stay outside, so chains read the same streams with and without.

Whatever can not be recorded, or does not give what the model itself gives, is evaluated by the model itself.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thermograd.models.latent_model import Evaluation, LatentModel

MAX_GRAPHS = 16
"""Shapes of inputs that are recorded; each holds memory of its own. Others are evaluated without a graph."""
TOLERANCE = 0.01
"""Largest difference of a first replay from the model, over the largest number; rounding is far below it."""

Function = Callable[..., Any]
Record = Callable[[Function, tuple[Tensor, ...]], tuple[Any, Callable[[], None]]]
"""From a function and its inputs to its outputs and a replay, which reads those inputs and fills those outputs."""


def record_cuda_graph(function: Function, inputs: tuple[Tensor, ...]) -> tuple[Any, Callable[[], None]]:
    """Record a call as a CUDA graph; return its outputs and what replays it into them.

    Raises:
        RuntimeError: something in the call can not be recorded, e.g. it waits for the device.
    """
    with torch.cuda.device(inputs[0].device):
        # Libraries choose algorithms and workspaces at their first calls, which must not fall into the recording.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                function(*inputs)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # A recording that fails stays on its stream; the outer block comes back from it.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
            outputs = function(*inputs)
    return outputs, graph.replay


class GraphedModel(LatentModel):
    """A model whose evaluations for chains are replayed from CUDA graphs; its numbers are the model's.

    Args:
        model: any model on a GPU, whose weights are only ever changed in place.
        record: what records a call, `record_cuda_graph`.
    """

    def __init__(self, model: LatentModel, record: Record = record_cuda_graph):
        super().__init__()
        self.model, self.record = model, record
        self.latent_dim, self.base_std, self.image_shape = model.latent_dim, model.base_std, model.image_shape
        self.graphs: dict[Any, Callable[..., Any] | None] = {}

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the model's log p(x|z), without a graph."""
        return self.model.log_likelihood(x, z)

    def energy(self, z: Tensor) -> Tensor:
        """Return the model's E(z), without a graph."""
        return self.model.energy(z)

    def parameter_groups(self) -> dict[str, list[str]]:
        """Return the model's groups, by the names that its parameters have here."""
        groups = self.model.parameter_groups()
        return {group: [f"model.{name}" for name in names] for group, names in groups.items()}

    def prior_score(self, z: Tensor) -> Tensor:
        """Return the gradient of `log_prior` in z, (..., d)."""
        return self._replay(self.model.prior_score, z)[0]

    def evaluate_prior(self, z: Tensor) -> Evaluation:
        """Evaluate the prior alone."""
        return Evaluation(*self._replay(self.model.evaluate_prior, z))

    def evaluate(self, x: Tensor, z: Tensor) -> Evaluation:
        """Evaluate likelihood, prior and both scores at z."""
        return Evaluation(*self._replay(self.model.evaluate, x, z))

    def _replay(self, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        key = (function.__name__, *((each.shape, each.dtype) for each in inputs))
        if key not in self.graphs:
            self.graphs[key] = self._graph(function, inputs) if len(self.graphs) < MAX_GRAPHS else None
        graph = self.graphs[key]
        return _as_tuple(function(*inputs)) if graph is None else graph(*inputs)

    def _graph(
        self, function: Function, inputs: tuple[Tensor, ...]
    ) -> Callable[..., tuple[Tensor, ...]] | None:
        """Return what replays a call, or None where that can not be had."""
        own = tuple(each.detach().clone(memory_format=torch.contiguous_format) for each in inputs)
        try:
            outputs, replay = self.record(function, own)
        except RuntimeError as error:
            warnings.warn(
                f"no CUDA graph of {function.__name__}, went on without: {' '.join(str(error).split())[:200]}",
                stacklevel=2,
            )
            return None
        filled = _as_tuple(outputs)

        def graph(*new: Tensor) -> tuple[Tensor, ...]:
            for mine, theirs in zip(own, new, strict=True):
                mine.copy_(theirs)
            replay()
            return tuple(each.clone() for each in filled)  # the next replay fills them anew

        for each in filled:
            each.fill_(torch.nan)  # so that a replay that does nothing shows
        for found, wanted in zip(graph(*inputs), _as_tuple(function(*inputs)), strict=True):
            if not (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max():
                warnings.warn(
                    f"a CUDA graph of {function.__name__} does not give what the model gives, went on without",
                    stacklevel=2,
                )
                return None
        return graph


def describe_cuda_graphs(model: LatentModel, x: Tensor) -> str:
    """Return "yes", or why a model's evaluations can not be replayed."""
    graphed = GraphedModel(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graphed.evaluate(x, torch.zeros(len(x), model.latent_dim, device=x.device))
    if None not in graphed.graphs.values():
        return "yes"
    return next(str(each.message) for each in caught if "CUDA graph" in str(each.message))


def _as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
