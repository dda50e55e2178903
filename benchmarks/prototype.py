"""Turn the weights of our prototype of ``m2d-export distil`` into a checkpoint with exits.

    python -m benchmarks.prototype WEIGHTS -o FOLDER

WEIGHTS is a file of safetensors: ``m.*`` is the encoder, ``heads.{k-1}`` the head of exit k, which reads the layers 0
to k and gives rotated vectors, and ``U`` the rotation of the last exit. The prototype was trained on an H200 in 190
seconds. FOLDER has the layout of what ``distil`` writes, without a card. Its m2d.json states the sha256 of the file.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks import common
from m2d_export.checkpoints.load import UNUSED_WEIGHTS, Checkpoint, load_checkpoint
from m2d_export.errors import CheckpointError
from m2d_export.host.files import sha256_of
from m2d_export.host.folders import new_folder
from m2d_export.spec import HeadSpec, default_dims
from train.distil.card import license_of
from train.distil.heads import Solved
from train.distil.publish import write_checkpoint
from train.distil.ridge import Linear
from train.distil.rotation import assembled

ENCODER = "m."
MADE = "190 seconds of training on one NVIDIA H200, 3.1 million texts seen, by a script that came before distil"


def with_weights(base: Checkpoint, weights: dict[str, torch.Tensor]) -> Checkpoint:
    """The checkpoint that the prototype was; ``base`` is the one that it was distilled from, and gets its weights."""
    encoder = {name.removeprefix(ENCODER): value for name, value in weights.items() if name.startswith(ENCODER)}
    missing, unknown = base.encoder.load_state_dict(encoder, strict=False)
    heads = [f"heads.{layer - 1}.{name}" for layer in range(1, base.depth) for name in ("weight", "bias")]
    lacking = [name for name in missing if not name.startswith(UNUSED_WEIGHTS)]
    lacking += [name for name in ("U", *heads) if name not in weights]
    if unknown or lacking:
        raise CheckpointError(
            f"the file is no prototype of {base.origin.name}: it lacks {lacking[:3]} and has {unknown[:3]} beyond it"
        )
    left, _, right = torch.linalg.svd(weights["U"].double())
    rotation = (left @ right).float()  # the file has it in half precision, in which it does not quite rotate
    solved = {}
    for layer in range(1, base.depth):
        weight, bias = (weights[f"heads.{layer - 1}.{name}"] for name in ("weight", "bias"))
        # Here the rotation comes after every head, so it is taken out of what the head gives.
        linear = Linear((rotation @ weight).T, rotation @ bias)
        solved[layer] = Solved(HeadSpec(layer, tuple(range(layer + 1))), linear, agreement=0.0).head()
    return assembled(base, solved, None, rotation, tuple(range(1, base.depth + 1)), default_dims(base.width))


def main() -> None:
    """Convert, write."""
    options: Any = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("python -m benchmarks.prototype", **options)
    parser.add_argument("weights", type=Path, help="the file of the prototype")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    common.add_checkpoint(parser)
    arguments = parser.parse_args()
    base, file = load_checkpoint(str(common.checkpoint_of(arguments))), arguments.weights
    if not file.is_file():
        parser.error(f"{file} is no file")
    made = with_weights(base, {name: value.float() for name, value in load_file(file).items()})
    facts = {
        "recipe": "prototype",
        "base": base.origin.name if arguments.checkpoint else common.MINILM,
        "fingerprint": base.origin.fingerprint,
        "license": license_of(base.folder),
        "made": MADE,
        "weights": {"file": file.name, "sha256": sha256_of(file)},
    }
    with new_folder(arguments.output) as staging:
        write_checkpoint(made, staging, facts)
    print(f"wrote {arguments.output} from {file.name}, sha256 {facts['weights']['sha256']}")


if __name__ == "__main__":
    main()
