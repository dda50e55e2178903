"""The file m2d.json of a checkpoint: what training or distillation made of its exits (docs/checkpoint-format.md)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2d_export.checkpoints.folder import M2D_JSON, read_object
from m2d_export.errors import CheckpointError
from m2d_export.host.checks import check_format, list_of, object_of, or_null, printable, sha256, whole, whole_from
from m2d_export.spec import HeadSpec

FORMAT = 1


@dataclass(frozen=True)
class Exits:
    """What m2d.json says; a field that it does not have is None or empty.

    Training optimised ``layers`` and ``dims``, both ascending. If the exits were distilled, ``space`` is the
    fingerprint of the checkpoint whose vectors the last exit gives. The other exits then agree with these vectors.
    ``rotation`` is the sha256 of the matrix of the last Dense, which only rotates the vectors of all exits.
    ``pooling`` is the pooling mode that a folder without a Pooling has.
    """

    layers: tuple[int, ...] | None
    dims: tuple[int, ...] | None
    heads: tuple[HeadSpec, ...]
    space: str | None
    rotation: str | None
    pooling: str | None


def read_exits(folder: Path, depth: int) -> Exits:
    """What m2d.json says of a checkpoint with ``depth`` layers; raises CheckpointError if it breaks the format."""
    path = folder / M2D_JSON
    found = read_object(path)
    try:
        check_format(found.get("format", FORMAT), FORMAT)
        return _exits(found, depth)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error


def _exits(found: dict[str, Any], depth: int) -> Exits:
    layers, dims = (_ascending(key, found, check) for key, check in (("layers", whole), ("dims", whole_from(1))))
    heads = tuple(_head(entry) for entry in _checked("heads", found.get("heads", []), list_of(object_of(_anything))))
    _check_layers("layers", layers or (), 0, depth)
    # A head of the last exit is refused. sentence-transformers does not apply heads, so it would give other vectors.
    _check_layers("heads", [head.layer for head in heads], 1, depth - 1)
    if len({head.layer for head in heads}) < len(heads):
        raise ValueError("heads has a layer twice")
    return Exits(
        layers,
        dims,
        heads,
        _checked("space", found.get("space"), or_null(sha256)),
        _checked("rotation", found.get("rotation"), or_null(sha256)),
        _checked("pooling", found.get("pooling"), or_null(printable)),
    )


def _head(entry: dict[str, Any]) -> HeadSpec:
    layer = _checked("layer of a head", entry.get("layer"), whole)
    reads = _checked("reads", entry.get("reads", [layer]), list_of(whole))
    return HeadSpec(layer, tuple(reads), tuple(_checked("mean", entry.get("mean", []), list_of(whole))))


def _check_layers(key: str, layers: Any, first: int, last: int) -> None:
    outside = [layer for layer in layers if not first <= layer <= last]
    if outside:
        raise ValueError(f"{key} names the layers {outside}, but only {first} to {last} are allowed")


def _ascending(key: str, found: dict[str, Any], check: Any) -> tuple[int, ...] | None:
    values = _checked(key, found.get(key), or_null(list_of(check)))
    return tuple(sorted(set(values))) if values else None


def _checked(key: str, value: object, check: Any) -> Any:
    try:
        return check(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _anything(value: object) -> object:
    return value
