"""Runtimes are tested on all cores: what they do with threads depends on how many there are."""

import pytest


@pytest.fixture(autouse=True)
def _every_core(every_core: None) -> None:
    pass
