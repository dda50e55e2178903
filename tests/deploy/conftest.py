"""A bundle that the tests of deployed cells share."""

import pytest

from m2d_export import Bundle
from tests.conftest import built
from tests.support.checkpoints import save_checkpoint
from tests.support.shared import Once


@pytest.fixture(scope="session")
def prompted(once: Once) -> Bundle:
    """A bundle that does not scale its vectors, and does not pool its default prompt "a cat is ". Never alter it."""
    settings = {"include_prompt": False, "prompts": {"query": "a cat is "}, "default_prompt_name": "query"}
    made = once("prompted-checkpoint", lambda folder: save_checkpoint(folder / "tiny", normalize=False, **settings))
    return built(once, "prompted", made / "tiny")
