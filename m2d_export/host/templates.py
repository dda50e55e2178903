"""Fill the text templates of the package, and escape text for Markdown."""

import re
from html import escape
from importlib.resources import files
from string import Template

MARKUP = re.compile(r"[\\`*{}\[\]|#~!$]|(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word is not markup


def template(package: str, name: str, /, **values: object) -> str:
    """The file ``name`` from the folder ``templates`` of ``package``. A value replaces each ``$place`` in it.

    Without values, the text is not changed. With values, ``$$`` becomes a dollar sign. Raises KeyError if a ``$place``
    has no value, and ValueError if no name follows a dollar sign.
    """
    text = files(package).joinpath("templates", name).read_text(encoding="utf-8")
    return Template(text).substitute({key: str(value) for key, value in values.items()}) if values else text


def markdown_text(text: object) -> str:
    """Put ``text`` on one line, and escape it so that Markdown shows it unchanged, also in a table."""
    line = " ".join(str(text).split())
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
    return MARKUP.sub(lambda found: f"\\{found[0]}", escape(printable, quote=False))
