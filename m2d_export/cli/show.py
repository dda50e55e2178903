"""A bundle's contents as tables on a terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from m2d_export.bundle.disk import Bundle
from m2d_export.bundle.manifest import Manifest


def summary(bundle: Bundle) -> RenderableType:
    """The settings of a bundle, its graphs with sizes and parity, then its engines if it has any."""
    manifest = bundle.manifest
    weights = {entry.weights: manifest.files[entry.weights].size for entry in manifest.variants}
    sizes = ", ".join(f"{name} ({_megabytes(size)})" for name, size in weights.items())
    return Group(
        _settings(bundle),
        _graphs(manifest),
        *([_engines(manifest)] if manifest.engines else []),
        Text(f"weights, shared by all graphs of a precision: {sizes}"),
    )


def _settings(bundle: Bundle) -> Table:
    manifest = bundle.manifest
    grid, origin = manifest.grid, manifest.origin
    dims = ", ".join(f"{dim}" if dim in grid.trained_dims else f"{dim} (untrained)" for dim in grid.dims)
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("bundle", bundle.id[:12]),
        ("checkpoint", origin.name + (f" at {origin.revision}" if origin.revision else "")),
        ("encoder", f"{manifest.architecture}, {grid.depth} layers, width {grid.width}"),
        ("pooling", f"{manifest.pooling}; vectors {'' if manifest.normalize else 'not '}normalised"),
        ("similarity", manifest.similarity),
        *([("default dim", str(manifest.truncate_dim))] if manifest.truncate_dim else []),
        ("texts", f"up to {manifest.text.max_tokens} tokens; prompts: {', '.join(manifest.text.prompts) or 'none'}"),
        ("heads", ", ".join(map(str, manifest.heads)) or "none"),
        ("dims", dims),
        *([("int8", f"calibrated on {manifest.calibration}")] if manifest.calibration else []),
    ):
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def _graphs(manifest: Manifest) -> Table:
    table = _right_aligned("layer", "precision", "graphs", "cosine to PyTorch", "change by batching")
    for entry in manifest.variants:
        table.add_row(
            f"{entry.layer}" if manifest.is_trained_layer(entry.layer) else f"{entry.layer} (untrained)",
            str(entry.precision),
            " + ".join(f"{manifest.files[path].size / 1e3:,.0f} kB" for path in entry.graphs.values()),
            f">= {entry.parity['cosine_min']:.7f}",
            f"<= {entry.parity['invariance']:.0e}",
        )
    return table


def _engines(manifest: Manifest) -> Table:
    table = _right_aligned("layer", "precision", "engine", "size", "built for", "shapes (min:opt:max)")
    for engine in manifest.engines:
        key = engine.key
        table.add_row(
            f"{engine.layer}",
            str(engine.precision),
            f"{key.kind} {key.version}",
            _megabytes(manifest.files[engine.path].size),
            key.gpu or ", ".join(key.targets) or "the library's own choice",
            "\n".join(map(str, key.shapes)),
        )
    return table


def _right_aligned(*columns: str) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
