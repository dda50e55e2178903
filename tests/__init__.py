"""Tests; each folder holds those of one room of the package."""

import os

import pytest

from tests.support.shared import limit_threads_of_torch

# Helpers whose own asserts show values.
pytest.register_assert_rewrite("tests.pipeline.forge", "tests.support.bundles", "tests.cli.commands")

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
limit_threads_of_torch()
