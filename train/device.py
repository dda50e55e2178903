"""Where a training runs."""

from m2d_export.errors import SpecError
from m2d_export.host.extras import require
from m2d_export.host.machine import cores_and_processor


def choose_device(asked: str | None, extra: str) -> str:
    """``asked``, or cuda if torch finds one, else cpu; raises SpecError for a cuda that torch does not find."""
    cuda = require("torch", extra).cuda.is_available()
    if asked == "cuda" and not cuda:
        raise SpecError("torch finds no CUDA device: leave --device out to train on the CPU")
    return asked or ("cuda" if cuda else "cpu")


def hardware(device: str) -> str:
    """What computes on ``device``, in words."""
    if device == "cpu":
        return cores_and_processor()
    name: str = require("torch", "train").cuda.get_device_name()
    return name
