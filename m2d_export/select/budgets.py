"""Budgets: what a cell must meet, what it means to miss one, and by how much one must give way."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from m2d_export.errors import SpecError
from m2d_export.spec import BYTES_PER_FLOAT

DIGITS = 4  # significant digits of what is printed or suggested
LIMITS = {  # what each budget bounds, and in which unit
    "min_retention": ("retention", ""),
    "min_score": ("score", ""),
    "max_latency_ms": ("latency", " ms"),
    "min_throughput": ("throughput", " sentences/s"),
    "max_index_gb": ("index", " GB"),
}


@dataclass(frozen=True)
class Budgets:
    """What a cell must meet: retention 0..1, quality x 100, ms a batch, sentences/s, GB of an index; None: no bound.

    The index holds ``vectors`` vectors of dim x ``bytes_per_value`` bytes, 4 unless told. Raises SpecError for
    impossible bounds, and for an index that is described and not bounded.
    """

    min_retention: float | None = None
    min_score: float | None = None
    max_latency_ms: float | None = None
    min_throughput: float | None = None
    max_index_gb: float | None = None
    vectors: float | None = None
    bytes_per_value: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if not math.isfinite(value) or (value <= 0 and field.name != "min_score"):
                raise SpecError(f"{field.name} must be a number above 0, got {value}")
        if self.min_retention is not None and self.min_retention > 1:
            raise SpecError(f"min_retention is a share of the full cell, such as 0.97, got {self.min_retention}")
        if self.min_score is not None and not -100 <= self.min_score <= 100:
            raise SpecError(f"min_score is a score x 100, from -100 to 100, got {self.min_score}")
        if self.max_index_gb is not None and self.vectors is None:
            raise SpecError("max_index_gb needs vectors: how many the index will hold")
        if self.max_index_gb is None and (self.vectors, self.bytes_per_value) != (None, None):
            raise SpecError("vectors and bytes_per_value describe an index that max_index_gb bounds: give that too")

    @property
    def limits(self) -> dict[str, float]:
        """The bounds that are set, by name."""
        return {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}

    @property
    def index_bytes(self) -> float:
        """Bytes of a number in the index."""
        return BYTES_PER_FLOAT if self.bytes_per_value is None else self.bytes_per_value

    @property
    def bounds_quality(self) -> bool:
        """Whether a least quality is asked for, so that speed decides among what has it."""
        return self.min_retention is not None or self.min_score is not None

    def misses(self, values: Mapping[str, float | None]) -> tuple["Miss", ...]:
        """The bounds that ``values``, by the budget's name, do not keep; what was not measured keeps none."""
        return tuple(
            Miss(name, limit, values[name])
            for name, limit in self.limits.items()
            if not _within(values[name], limit, is_upper(name))
        )


@dataclass(frozen=True)
class Miss:
    """A budget that a candidate does not meet; ``value`` is None where the quantity was not measured."""

    budget: str
    limit: float
    value: float | None

    def __str__(self) -> str:
        what, unit = LIMITS[self.budget]
        if self.value is None:
            return f"{what} not measured"
        # As many digits as it takes: a miss by little must not read as if it were none.
        digits = next(n for n in range(DIGITS, 18) if figure(self.value, n) != figure(self.limit, n))
        bound = "at most" if is_upper(self.budget) else "at least"
        return f"{what} {figure(self.value, digits)}{unit}, {bound} {figure(self.limit, digits)}"

    @property
    def needed(self) -> float | None:
        """The bound, at four significant digits, that would let this value through."""
        if self.value is None:
            return None
        rounding = ROUND_CEILING if is_upper(self.budget) else ROUND_FLOOR
        return float(Context(prec=DIGITS, rounding=rounding).create_decimal(repr(self.value)))

    @property
    def change(self) -> float:
        """By which share of the bound it must give way; infinite where nothing was measured."""
        return math.inf if self.needed is None or not self.limit else abs(self.needed - self.limit) / abs(self.limit)


def figure(value: float, digits: int = DIGITS) -> str:
    """A number at so many significant digits, thousands apart, never with an exponent."""
    return f"{Decimal(f'{value:.{digits}g}'):,f}"


def is_upper(budget: str) -> bool:
    """Whether a budget is an upper bound."""
    return budget.startswith("max")


def _within(value: float | None, limit: float, upper: bool) -> bool:
    return value is not None and (value <= limit if upper else value >= limit)
