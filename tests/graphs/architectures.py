"""The architectures that tests of graphs go through: three that differ most, and the others as slow tests."""

import pytest

from tests.support.checkpoints import ARCHITECTURES

MOST_DIFFERENT = ("bert", "modernbert", "deberta-v2")
EACH_ARCHITECTURE = [
    pytest.param(name, marks=() if name in MOST_DIFFERENT else pytest.mark.slow) for name in ARCHITECTURES
]
