"""How much more do the exits of other encoders agree with their last exit after `m2d-export distil`?

    python -m benchmarks.distil_agreement FOLDER .. -o benchmarks/results/distil_agreement.json

A FOLDER is what distil wrote. Its `m2d.json` has the agreement of every cell on held-out texts, before and after: this
script collects it. A later call adds its folders to the results file.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks import common
from m2d_export.checkpoints.folder import M2D_JSON, read_object

FACTS = ("base", "revision", "texts", "settings", "steps", "seconds", "batch", "machine", "versions", "agreement")


def main() -> None:
    """Collect, write."""
    parser = common.parser("distil_agreement", __doc__)
    parser.add_argument("folder", type=Path, nargs="+")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"checkpoints": {}}
    if arguments.output.exists():
        found["checkpoints"] = json.loads(arguments.output.read_text(encoding="utf-8"))["checkpoints"]
    for folder in arguments.folder:
        stated = read_object(folder / M2D_JSON)
        found["checkpoints"][Path(stated["base"]).name] = {name: stated[name] for name in FACTS}
    common.write_results(arguments, found)


if __name__ == "__main__":
    main()
