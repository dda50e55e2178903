"""Changes to the files of a checkpoint."""

import json
from pathlib import Path


def edit(path: Path, **values: object) -> None:
    """Set fields of a JSON object, which is made if it is not there."""
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))
