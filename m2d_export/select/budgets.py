"""Budgets: the limits that a cell must meet, which of them it misses, and how far a limit must be relaxed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from m2d_export.errors import SpecError
from m2d_export.spec import BYTES_PER_FLOAT

DIGITS = 4  # significant digits of printed and suggested numbers
LIMITS = {  # by the budget's name: what it limits, and the unit
    "min_retention": ("retention", ""),
    "min_score": ("score", ""),
    "max_latency_ms": ("latency", " ms"),
    "min_throughput": ("throughput", " sentences/s"),
    "max_index_gb": ("index", " GB"),
}


@dataclass(frozen=True)
class Budgets:
    """The limits that a cell must meet; None sets no limit.

    Units: retention 0..1, score x 100, ms a batch, sentences a second, GB. The index holds ``vectors`` vectors of dim x
    ``bytes_per_value`` bytes (default 4). Raises SpecError for an impossible limit, for ``max_index_gb`` without
    ``vectors``, and for ``vectors`` or ``bytes_per_value`` without ``max_index_gb``.
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
                kind = "finite number" if field.name == "min_score" else "finite number above 0"
                raise SpecError(f"{field.name} must be a {kind}, got {value}")
        if self.min_retention is not None and self.min_retention > 1:
            raise SpecError(f"min_retention is a share of the full cell, such as 0.97, got {self.min_retention}")
        if self.min_score is not None and not -100 <= self.min_score <= 100:
            raise SpecError(f"min_score is a score x 100, from -100 to 100, got {self.min_score}")
        if self.max_index_gb is not None and self.vectors is None:
            raise SpecError("max_index_gb needs vectors, the number of vectors in the index")
        if self.max_index_gb is None and (self.vectors, self.bytes_per_value) != (None, None):
            raise SpecError("vectors and bytes_per_value need max_index_gb, the limit of the index: give it too")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}

    @property
    def bytes_per_number(self) -> float:
        """Bytes of one number in the index."""
        return BYTES_PER_FLOAT if self.bytes_per_value is None else self.bytes_per_value

    @property
    def bounds_quality(self) -> bool:
        """Whether quality has a limit. If it has, the fastest cell that meets it is picked, else the best cell."""
        return self.min_retention is not None or self.min_score is not None

    def misses(self, values: Mapping[str, float | None]) -> tuple["Miss", ...]:
        """The limits that ``values`` (by the budget's name) break; a value that was not measured breaks its limit."""
        return tuple(
            Miss(name, limit, values[name])
            for name, limit in self.limits.items()
            if not _within(values[name], limit, is_upper(name))
        )


@dataclass(frozen=True)
class Miss:
    """A limit that a candidate breaks; ``value`` is None where the quantity was not measured."""

    budget: str
    limit: float
    value: float | None

    def __str__(self) -> str:
        what, unit = LIMITS[self.budget]
        if self.value is None:
            return f"{what} not measured"
        # A narrow miss needs more digits, so that the two numbers differ.
        digits = next(n for n in range(DIGITS, 18) if format_number(self.value, n) != format_number(self.limit, n))
        bound = "at most" if is_upper(self.budget) else "at least"
        return f"{what} {format_number(self.value, digits)}{unit}, {bound} {format_number(self.limit, digits)}"

    @property
    def needed(self) -> float | None:
        """The nearest limit at four significant digits that this value meets."""
        if self.value is None:
            return None
        rounding = ROUND_CEILING if is_upper(self.budget) else ROUND_FLOOR
        return float(Context(prec=DIGITS, rounding=rounding).create_decimal(repr(self.value)))

    @property
    def change(self) -> float:
        """How far the limit must be relaxed, as a share of it; infinite where nothing was measured."""
        return math.inf if self.needed is None or not self.limit else abs(self.needed - self.limit) / abs(self.limit)


def format_number(value: float, digits: int = DIGITS) -> str:
    """``value`` with ``digits`` significant digits, with commas between thousands and without an exponent."""
    return f"{Decimal(f'{value:.{digits}g}'):,f}"


def is_upper(budget: str) -> bool:
    """Whether a budget is an upper limit."""
    return budget.startswith("max")


def _within(value: float | None, limit: float, upper: bool) -> bool:
    return value is not None and (value <= limit if upper else value >= limit)
