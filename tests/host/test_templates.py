"""The loader of templates."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from m2d_export.host.templates import markdown_text, template


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a template into a package of this test, and load it with some values."""

    def load_(text: str, **values: object) -> str:
        (tmp_path / "parrots" / "templates").mkdir(parents=True)
        (tmp_path / "parrots" / "__init__.py").touch()
        (tmp_path / "parrots" / "templates" / "page.txt").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "parrots", raising=False)
        return template("parrots", "page.txt", **values)

    return load_


def test_every_place_is_filled(load: Callable[..., str]) -> None:
    assert load("$name has ${count}px of $$PATH: é", name="a $parrot", count=3) == "a $parrot has 3px of $PATH: é"


def test_a_file_is_returned_as_it_is_without_values(load: Callable[..., str]) -> None:
    assert load("`${name}` $$ $ @media") == "`${name}` $$ $ @media"


@pytest.mark.parametrize(("text", "error"), [("$name $missing", KeyError), ("$name costs 3 $", ValueError)])
def test_a_place_without_a_value_is_an_error(load: Callable[..., str], text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        load(text, name="a parrot")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all-MiniLM-L6_v2 1.5", "all-MiniLM-L6_v2 1.5"),
        ("a | b\n# c", r"a \| b \# c"),
        ("<script>&amp;", "&lt;script&gt;&amp;amp;"),
        ("**x** `y` [z](u) __w__ \\ $p$ ~s~ !", r"\*\*x\*\* \`y\` \[z\](u) \_\_w\_\_ \\ \$p\$ \~s\~ \!"),
        ("bell \x07 and \u202e", "bell \N{REPLACEMENT CHARACTER} and \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_names_are_plain_text_in_markdown(text: str, expected: str) -> None:
    assert markdown_text(text) == expected
