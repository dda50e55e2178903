"""The page of promises names tests that exist."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def rows() -> list[str]:
    """The rows of the page's tables, without their heads and rulers."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [
        line for line in lines if line.startswith("|") and not re.match(r"\|(Whatgoeswrong|-)", line.replace(" ", ""))
    ]


def test_every_promise_names_its_tests() -> None:
    unnamed = [row for row in rows() if not NAMED.search(row)]
    assert rows()
    assert not unnamed


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED.findall(PAGE.read_text(encoding="utf-8")))))
def test_a_named_test_exists(file: str, name: str) -> None:
    found = ast.walk(ast.parse((TESTS / file).read_text(encoding="utf-8")))
    assert any(isinstance(node, ast.FunctionDef) and node.name == name for node in found)
