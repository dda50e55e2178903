import pytest

pytest.register_assert_rewrite(
    "tests.pipeline.forge", "tests.bundles", "tests.cli.commands"
)  # they have asserts of their own
