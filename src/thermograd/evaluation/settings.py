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

    split: Split = Field("test", description="split that is reconstructed and that samples are compared with")
    num_images: PositiveInt = Field(1000, description="images to reconstruct, at most")
    num_samples: PositiveInt | None = Field(
        None, description="samples to draw; None for as many as the test split has, at most 10,000"
    )
    num_evidence: Annotated[int, Field(ge=0, strict=True)] = Field(
        50, description="images whose log p(x) is estimated"
    )
    extractor: ExtractorName = Field(
        "auto", description="feature network of the distances; auto takes a classifier where there are labels"
    )
    weights: Path | None = Field(None, description="file with the weights of the Inception or EfficientNet")
    variant: Literal["full", "quick"] = Field(
        "full", description="how many images the distances use: full for all, quick for 1,000"
    )
    prior: bool = Field(
        True, description="run the prior's chains further and split the distance into two parts"
    )
    seed: Seed = Field(0, description="seed of every random stream of the evaluation")
    batch_size: PositiveInt = Field(250, description="images per batch")
    source: Source = Field("command", description="clock where the run's own settings ask for it")


class VarianceSettings(Section):
    """What `variance` measures."""

    estimators: tuple[EstimatorName, ...] = Field(
        tuple(names.ESTIMATORS.current), description="estimators to compare, at the same weights and batches"
    )
    num_batches: Annotated[int, Field(ge=3, strict=True)] = Field(8, description="independent batches")
    num_repeats: Annotated[int, Field(ge=2, strict=True)] = Field(8, description="gradients per batch")
    changes: Changes = Field(Changes(batch_size=16), description="how estimators are sampled")
    equal_cost: bool = Field(
        False,
        description="give cheaper estimators more chains, up to the evaluations of the most expensive one",
    )
    reference: ReferenceSettings | None = Field(
        ReferenceSettings(), description="long chains, for bias and error; None for none"
    )
    split: Split = Field("train", description="split that batches are drawn from")
    seed: Seed = Field(0, description="seed of batches and chains")


class RunEvidenceSettings(EvidenceSettings):
    """What `evidence` estimates."""

    split: Split = Field("test", description="split that the images come from")
    num_images: PositiveInt = Field(100, description="number of images, the first ones of the split")
    seed: Seed = Field(0, description="seed of every random stream of the estimate")


class CompareSettings(EvidenceSettings):
    """On what `compare` holds models against each other."""

    split: Split = Field("test", description="split that the images come from")
    num_images: PositiveInt = Field(
        200, description="most images to reconstruct, the first ones of the split"
    )
    num_evidence: Annotated[int, Field(ge=0, strict=True)] = Field(
        20, description="number of images, the first ones, for the log Bayes factor; 0 for none"
    )
    seed: Seed = Field(0, description="seed of every random stream of the comparison")


class SampleSettings(Section):
    """What `sample` draws."""

    num_images: PositiveInt = Field(64, description="images to draw")
    seed: Seed = Field(0, description="the same seed gives the same images")
