"""What is measured of a run, by whom and on how much."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thermograd.evaluation.records import Source


@dataclass(frozen=True)
class EvaluationSettings:
    """What to measure.

    Attributes:
        split: "train" or "test": of reconstruction, energies, evidence and the first of the distances.
        num_images: for reconstruction and energies, the first so many of the split.
        num_samples: images drawn from the model; None for as many as the test split has, at most 10,000.
        num_evidence: images whose log p(x) is estimated; 0 for none.
        extractor: feature network of the distances; "auto" takes a classifier of the data where there are labels.
        weights: file with the weights of the true Inception, for "inception".
        variant: "full" or "quick" distances.
        seed: of every random stream of the evaluation.
        batch_size: images at once.
        source: "command", or "clock", whose records are the run's own and no command replaces them.
    """

    split: str = "test"
    num_images: int = 1000
    num_samples: int | None = None
    num_evidence: int = 50
    extractor: str = "auto"
    weights: Path | None = None
    variant: Literal["full", "quick"] = "full"
    seed: int = 0
    batch_size: int = 250
    source: Source = "command"
