"""The kinds of value that settings take, and the group of settings that all of them lie in."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from thermograd.config import names

PositiveInt = Annotated[int, Field(ge=1, strict=True)]


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):  # a float takes True for 1.0, and YAML reads "yes" as True
        raise ValueError(f"must be a number, got {value}")
    return value


Number = Annotated[float, BeforeValidator(_refuse_bool)]
PositiveFloat = Annotated[Number, Field(gt=0)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
Widths = tuple[PositiveInt, ...]


@dataclass(frozen=True, eq=False)
class Named:
    """Checks that a text is a name of a table; `table` is what help and options list."""

    table: names.Table[Any]

    def __call__(self, value: str, info: ValidationInfo) -> str:
        """Return the name, or raise an `InputError` with the nearest one.

        Settings that were checked before, as those of a run folder, may name what only a plugin knows.
        """
        return value if (info.context or {}).get("checked_before") else self.table.check(value)


EstimatorName = Annotated[str, AfterValidator(Named(names.ESTIMATORS))]
PriorRuleName = Annotated[str, AfterValidator(Named(names.PRIOR_RULES))]
KernelName = Annotated[str, AfterValidator(Named(names.KERNELS))]
ScheduleName = Annotated[str, AfterValidator(Named(names.SCHEDULES))]
PriorStart = Annotated[str, AfterValidator(Named(names.PRIOR_STARTS))]
PosteriorStart = Annotated[str, AfterValidator(Named(names.POSTERIOR_STARTS))]
GeneratorName = Annotated[str, AfterValidator(Named(names.GENERATORS))]
EnergyName = Annotated[str, AfterValidator(Named(names.ENERGIES))]
EvidenceMethodName = Annotated[str, AfterValidator(Named(names.EVIDENCE_METHODS))]
ExtractorName = Annotated[str, AfterValidator(Named(names.EXTRACTORS))]


class Section(BaseModel):
    """A frozen group of settings that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
