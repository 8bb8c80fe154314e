"""Times that can be compared on a busy machine: CPU seconds of one thread, in interleaved rounds.

On a GPU they are seconds on a clock, read when the GPU has done its work.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch

Make = tuple[Callable[..., Callable[[], object]], tuple[object, ...]]
"""A function that prepares a contestant, and its arguments."""


@dataclass(frozen=True)
class Times:
    """CPU seconds of each contestant in each round.

    On one thread they equal seconds on a clock where the machine is quiet, and do not count other programs' turns.
    """

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, slow: str, fast: str) -> tuple[float, float, float]:
        """Return the median and the extremes of the ratio within rounds."""
        ratios = sorted(s / f for s, f in zip(self.seconds[slow], self.seconds[fast], strict=True))
        return statistics.median(ratios), ratios[0], ratios[-1]


def clock(device: str) -> float:
    """Return CPU seconds of this process, or seconds on a clock once a GPU is idle."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def race(contestants: Mapping[str, Callable[[], object]], num_rounds: int, device: str = "cpu") -> Times:
    """Time each contestant once a round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(num_rounds + 1):
        for name, run in contestants.items():
            begin = clock(device)
            run()
            if round_:
                seconds[name].append(clock(device) - begin)
    return Times(seconds)


def race_apart(contestants: Mapping[str, Make], num_rounds: int, device: str = "cpu") -> Times:
    """Race contestants in processes of their own, taking turns.

    The package changes how its process reuses memory, which would help the plain loop if they shared one.
    """
    context = get_context("spawn")
    workers, pipes = [], {}
    for name, make in contestants.items():
        pipes[name], theirs = context.Pipe()
        workers.append(context.Process(target=_work, args=(make, theirs, device)))
        workers[-1].start()
        theirs.close()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(num_rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            taken = pipe.recv()
            if round_:
                seconds[name].append(taken)
    for pipe in pipes.values():
        pipe.send(False)
    for worker in workers:
        worker.join()
    return Times(seconds)


def _work(make: Make, pipe: Connection, device: str) -> None:
    torch.set_num_threads(1)
    function, arguments = make
    run = function(*arguments)
    while pipe.recv():
        begin = clock(device)
        run()
        pipe.send(clock(device) - begin)


def matmul_rates(device: str = "cpu") -> dict[str, float]:
    """Return multiply-add rates of square products of 1024 numbers, in 1e9 operations a second (2 a multiply-add)."""
    a = torch.randn(1024, 1024, device=device)
    b = a.bfloat16()
    # oneDNN, which runs the convolutions, may be faster than the library behind `@`.
    linear = torch.ops.mkldnn._linear_pointwise
    contestants: dict[str, Callable[[], object]] = {
        "float32 (@)": lambda: a @ a,
        "bfloat16 (@)": lambda: b @ b,
    }
    if device == "cpu" and torch.backends.mkldnn.is_available():
        contestants["float32 (oneDNN)"] = lambda: linear(a, a, None, "none", [], "")
    times = race(contestants, 9, device)
    return {name: 2 * 1024**3 / times.median(name) / 1e9 for name in contestants}
