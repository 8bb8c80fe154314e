"""What `evaluate`, `variance`, `evidence` and `sample` do, and on how much; a run's clock has `measure`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from thermograd.config import names
from thermograd.config.fields import EstimatorName, ExtractorName, PositiveInt, Section
from thermograd.config.measure import Changes, EvidenceSettings, ReferenceSettings
from thermograd.evaluation.records import Source

Split = Literal["train", "test"]
Seed = Annotated[int, Field(ge=0, strict=True)]


class EvaluationSettings(Section):
    """What `evaluate` measures."""

    split: Split = Field(
        "test", description="images that are reconstructed and that samples are compared with"
    )
    num_images: PositiveInt = Field(1000, description="images to reconstruct, at most")
    num_samples: PositiveInt | None = Field(
        None, description="images to draw; None for as many as the test split has, at most 10,000"
    )
    num_evidence: Annotated[int, Field(ge=0, strict=True)] = Field(
        50, description="images whose log p(x) is estimated"
    )
    extractor: ExtractorName = Field(
        "auto", description="feature network of the distances; auto: a classifier of labels"
    )
    weights: Path | None = Field(None, description="file with the weights of the Inception or EfficientNet")
    variant: Literal["full", "quick"] = Field(
        "full", description="of the distances; quick: from 1,000 images"
    )
    prior: bool = Field(
        True, description="follow the prior's chains on, and measure the two parts of the distance"
    )
    seed: Seed = Field(0, description="of every random stream of the evaluation")
    batch_size: PositiveInt = Field(250, description="images at once")
    source: Source = Field("command", description="clock: what the run's own settings ask for")


class VarianceSettings(Section):
    """What `variance` measures."""

    estimators: tuple[EstimatorName, ...] = Field(
        tuple(names.ESTIMATORS.current), description="estimators, at the same weights and batches"
    )
    num_batches: Annotated[int, Field(ge=3, strict=True)] = Field(8, description="independent batches")
    num_repeats: Annotated[int, Field(ge=2, strict=True)] = Field(8, description="gradients of each batch")
    changes: Changes = Field(Changes(batch_size=16), description="how estimators are sampled")
    equal_cost: bool = Field(
        False,
        description="give cheap estimators more chains, up to the evaluations of the one that costs most",
    )
    reference: ReferenceSettings | None = Field(
        ReferenceSettings(), description="long chains, for bias and error; None for none"
    )
    split: Split = Field("train", description="images that batches are drawn from")
    seed: Seed = Field(0, description="of batches and chains")


class RunEvidenceSettings(EvidenceSettings):
    """What `evidence` estimates."""

    split: Split = Field("test", description="where the images come from")
    num_images: PositiveInt = Field(100, description="first images of the split, at most")
    seed: Seed = Field(0, description="of every random stream of the estimate")


class SampleSettings(Section):
    """What `sample` draws."""

    num_images: PositiveInt = Field(64, description="images to draw")
    seed: Seed = Field(0, description="the same seed gives the same images")
