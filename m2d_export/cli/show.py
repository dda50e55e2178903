"""What a bundle holds, as a table on a terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from m2d_export.bundle.bundle import Bundle


def summary(bundle: Bundle) -> RenderableType:
    """The settings of a bundle, then its variants with their sizes and parity figures."""
    manifest = bundle.manifest
    grid, origin = manifest.grid, manifest.origin
    dims = ", ".join(f"{dim}" if dim in grid.trained_dims else f"{dim} (untrained)" for dim in grid.dims)
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("bundle", f"{bundle.id[:12]}"),
        ("checkpoint", origin.name + (f" at {origin.revision}" if origin.revision else "")),
        ("encoder", f"{manifest.architecture}, {grid.depth} layers, width {grid.width}"),
        ("pooling", f"{manifest.pooling}; vectors {'' if manifest.normalize else 'not '}normalised"),
        ("similarity", manifest.similarity + (f", of {manifest.truncate_dim} dims" if manifest.truncate_dim else "")),
        ("texts", f"up to {manifest.text.max_tokens} tokens; prompts: {', '.join(manifest.text.prompts) or 'none'}"),
        ("heads", ", ".join(f"layer {layer}" for layer in manifest.heads) or "none"),
        ("dims", dims),
        *([("int8", f"calibrated on {manifest.calibration}")] if manifest.calibration else []),
    ):
        facts.add_row(Text(name, style="bold"), Text(value))
    variants = Table()
    for column in ("layer", "precision", "graph", "cosine to reference", "alone against batch"):
        variants.add_column(column, justify="right")
    for entry in manifest.variants:
        variants.add_row(
            f"{entry.layer}" if manifest.is_trained_layer(entry.layer) else f"{entry.layer} (untrained)",
            str(entry.precision),
            " + ".join(
                f"{manifest.files[path].size / 1e3:,.0f} kB" for path in (entry.path, entry.onnxrt) if path is not None
            ),
            f">= {entry.parity['cosine_min']:.7f}",
            f"<= {entry.parity['invariance']:.0e}",
        )
    parts: list[RenderableType] = [facts, variants]
    if manifest.engines:
        engines = Table()
        for column in ("layer", "precision", "engine", "size", "for", "shapes"):
            engines.add_column(column, justify="right")
        for engine in manifest.engines:
            key = engine.key
            engines.add_row(
                f"{engine.layer}",
                str(engine.precision),
                f"{key.kind} {key.version}",
                f"{manifest.files[engine.path].size / 1e6:,.1f} MB",
                key.gpu or ", ".join(key.targets) or "the library's own choice",
                "\n".join(map(str, key.shapes)),
            )
        parts.append(engines)
    weights = {entry.weights: manifest.files[entry.weights].size for entry in manifest.variants}
    shared = ", ".join(f"{name} ({size / 1e6:,.1f} MB)" for name, size in weights.items())
    return Group(*parts, Text(f"weights shared by all of a precision: {shared}"))
