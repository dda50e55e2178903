"""Fill templates of the package for files that are written for a user."""

from importlib.resources import files
from string import Template


def template(package: str, name: str, /, **values: object) -> str:
    """The file ``name`` in the folder ``templates`` of ``package``, with a value for every ``$place`` in it.

    Without values the file is returned as it is; with values, ``$$`` stands for a dollar sign. Raises KeyError if a
    place has no value, and ValueError if a dollar sign belongs to no place.
    """
    text = files(package).joinpath("templates", name).read_text(encoding="utf-8")
    return Template(text).substitute({key: str(value) for key, value in values.items()}) if values else text
