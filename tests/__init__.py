"""Tests; those of one part of the package that are many lie in a folder of their own."""

import pytest

# What tests share there has asserts of its own.
pytest.register_assert_rewrite("tests.pipeline.forge", "tests.support.bundles", "tests.cli.commands")
