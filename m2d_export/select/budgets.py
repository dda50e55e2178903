"""Set the limits that a cell must meet, find the limits that it breaks, and tell how far to relax a limit."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from m2d_export.errors import SpecError
from m2d_export.spec import BYTES_PER_FLOAT

DIGITS = 4  # significant digits of numbers that are printed or suggested
LIMITS = {  # for each budget: what it limits, and the unit
    "min_retention": ("retention", ""),
    "min_score": ("score", ""),
    "max_latency_ms": ("latency", " ms"),
    "min_throughput": ("throughput", " sentences/s"),
    "max_index_gb": ("index", " GB"),
}
ABOVE_ZERO, ENDLESS = math.ulp(0.0), sys.float_info.max
RANGES = {  # for each field: the smallest and the largest value, the meaning; values in wrong units are out of range
    "min_retention": (ABOVE_ZERO, 1, "a share of the best quality, above 0 and up to 1, such as 0.97"),
    "min_score": (-100, 100, "a quality x 100, from -100 to 100, such as 85"),
    "max_latency_ms": (ABOVE_ZERO, ENDLESS, "milliseconds a batch, above 0"),
    "min_throughput": (ABOVE_ZERO, ENDLESS, "sentences a second, above 0"),
    "max_index_gb": (ABOVE_ZERO, 1e6, "GB (1e9 bytes), above 0 and up to 1,000,000"),
    "vectors": (1, ENDLESS, "how many vectors the index holds, 1 or more, such as 10e6"),
    "bytes_per_value": (1 / 8, 8, "bytes (not bits) of one number, from 0.125 (binary) to 8"),
}


@dataclass(frozen=True)
class Budgets:
    """The limits that a cell must meet; None sets no limit.

    ``RANGES`` has the units. The index holds ``vectors`` vectors of dim x ``bytes_per_value`` bytes (default 4). Raises
    SpecError for a value out of its range, for a ``min_score`` that looks like a fraction, for ``max_index_gb`` without
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
        for name, (least, most, meaning) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise SpecError(f"{name} is {meaning}; got {value:g}")
        if self.min_score is not None and is_fraction(self.min_score):
            raise SpecError(
                f"min_score is {RANGES['min_score'][2]}; got {self.min_score:g}: write {100 * self.min_score:g} for "
                f"that quality, or min_retention {self.min_score:g} for that share of the best quality"
            )
        if self.max_index_gb is not None and self.vectors is None:
            raise SpecError("max_index_gb needs vectors, the number of vectors in the index")
        if self.max_index_gb is None and (self.vectors, self.bytes_per_value) != (None, None):
            raise SpecError("vectors and bytes_per_value need max_index_gb, the limit of the index: give it too")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by their names."""
        return {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}

    @property
    def bytes_per_number(self) -> float:
        """Bytes of one number in the index."""
        return BYTES_PER_FLOAT if self.bytes_per_value is None else self.bytes_per_value

    @property
    def bounds_quality(self) -> bool:
        """Whether quality has a limit.

        If so, the fastest cell that meets all limits is picked. If not, the best cell is picked.
        """
        return self.min_retention is not None or self.min_score is not None

    def misses(self, values: Mapping[str, float | None]) -> tuple["Miss", ...]:
        """The limits that ``values`` break. Its keys are names of budgets. A value of None breaks its limit."""
        return tuple(
            Miss(name, limit, values[name])
            for name, limit in self.limits.items()
            if not _within(values[name], limit, is_upper(name))
        )


@dataclass(frozen=True)
class Miss:
    """A limit that a candidate breaks. ``value`` is None if the value was not measured."""

    budget: str
    limit: float
    value: float | None

    def __str__(self) -> str:
        what, unit = LIMITS[self.budget]
        if self.value is None:
            return f"{what} not measured"
        # If the two numbers are close, more digits are shown, so that they differ.
        digits = next(n for n in range(DIGITS, 18) if format_number(self.value, n) != format_number(self.limit, n))
        bound = "at most" if is_upper(self.budget) else "at least"
        return f"{what} {format_number(self.value, digits)}{unit}, {bound} {format_number(self.limit, digits)}"

    @property
    def needed(self) -> float | None:
        """The nearest limit that ``value`` meets and that ``Budgets`` accepts. It has four significant digits."""
        if self.value is None:
            return None
        if self.budget == "min_score" and is_fraction(self.value):
            return 0.0
        rounding = ROUND_CEILING if is_upper(self.budget) else ROUND_FLOOR
        return float(Context(prec=DIGITS, rounding=rounding).create_decimal(repr(self.value)))

    @property
    def change(self) -> float:
        """How much the limit must be relaxed, as a share of the limit. Infinite if nothing was measured."""
        return math.inf if self.needed is None or not self.limit else abs(self.needed - self.limit) / abs(self.limit)


def format_number(value: float, digits: int = DIGITS) -> str:
    """``value`` with ``digits`` significant digits, with commas between thousands, and without an exponent."""
    return f"{Decimal(f'{value:.{digits}g}'):,f}"


def is_fraction(score: float) -> bool:
    """Whether a score looks like a fraction that was not multiplied by 100."""
    return 0 < score <= 1


def is_upper(budget: str) -> bool:
    """Whether a budget is an upper limit."""
    return budget.startswith("max")


def _within(value: float | None, limit: float, upper: bool) -> bool:
    return value is not None and (value <= limit if upper else value >= limit)
