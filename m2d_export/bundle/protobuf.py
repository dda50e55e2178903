"""Read protobuf messages. The caller lists the fields that a message may have."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
LAST_BYTE = 0x80  # a byte that is smaller than this ends a varint
LONGEST = 10  # bytes of the longest varint

Span = tuple[int, int]  # the places where a value of wire type BYTES begins and ends


@dataclass(frozen=True)
class Field:
    """A field that a message may have. ``wire`` is its wire type. ``many`` says whether the field may repeat."""

    name: str
    wire: int
    many: bool = False


def read_message(data: bytes, span: Span, fields: Mapping[int, Field], what: str) -> dict[str, Any]:
    """Read the fields of a message by their names. Errors call the message ``what``.

    The value of a field is a number (VARINT), a span (BYTES), or the place of a number (FIXED32, FIXED64). A field
    with ``many`` has a list of these values. Raises ValueError if the bytes are not a protobuf message, or if a field
    is not in ``fields``, has another wire type, or is repeated without ``many``.
    """
    found: dict[str, Any] = {field.name: [] for field in fields.values() if field.many}
    for number, wire, value in _raw_fields(data, *span):
        field = fields.get(number)
        if field is None:
            raise ValueError(f"{what} has field {number}: a bundle's graph must not have this field")
        if wire == field.wire:
            if field.many:
                found[field.name].append(value)
                continue
        elif field.many and wire == BYTES and field.wire == VARINT:  # the packed form of a list of numbers
            found[field.name].extend(packed_varints(data, value))
            continue
        else:
            raise ValueError(f"{field.name} of {what} has wire type {wire}, expected {field.wire}")
        if field.name in found:
            raise ValueError(f"{field.name} of {what} is repeated")
        found[field.name] = value
    return found


def packed_varints(data: bytes, span: Span) -> list[int]:
    """Read the numbers of a packed list."""
    place, end = span
    numbers = []
    while place < end:
        number, place = _varint(data, place, end)
        numbers.append(number)
    return numbers


def signed(number: int) -> int:
    """Turn the number of a varint into a signed int64."""
    return number - (1 << 64) if number >> 63 else number


def _raw_fields(data: bytes, place: int, end: int) -> Iterator[tuple[int, int, Any]]:
    """Yield the number, wire type and value of each field."""
    value: Any
    while place < end:
        key, place = _varint(data, place, end)
        wire, value = key & 7, place
        if wire == VARINT:
            value, place = _varint(data, place, end)
        elif wire == BYTES:
            size, place = _varint(data, place, end)
            value = place, place + size
            place += size
        elif wire == FIXED32:
            place += 4
        elif wire == FIXED64:
            place += 8
        else:
            raise ValueError(f"wire type {wire} at byte {place} is not a wire type of ONNX")
        if place > end:
            raise ValueError(f"a field ends at byte {place}, but its message ends at byte {end}")
        yield key >> 3, wire, value


def _varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    """Read a number of up to 64 bits at ``place``. Returns the number and the place after it."""
    number = shift = 0
    while place < end and shift < 7 * LONGEST:
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < LAST_BYTE:
            if number >> 64:
                break
            return number, place
        shift += 7
    raise ValueError(f"the number before byte {place} is incomplete or has more than 64 bits")
