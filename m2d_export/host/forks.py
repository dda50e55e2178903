"""Objects with threads of a library; after ``os.fork``, these threads are only in the parent."""

import os
import sys
from typing import Protocol
from weakref import WeakSet


class Owner(Protocol):
    """An object that owns threads of a library; ``is_inherited`` is set to true in a forked process."""

    is_inherited: bool


_owners: WeakSet[Owner] = WeakSet()
_any_owner = False
_loaded_before: frozenset[str] = frozenset()


def owns_threads(owner: Owner) -> None:
    """In a forked process, mark ``owner`` as inherited, and never destroy it: that would wait for its threads."""
    global _any_owner
    _owners.add(owner)
    _any_owner = True


def loaded_before_fork(module: str) -> bool:
    """Whether this process was forked after its parent had imported ``module``."""
    return module in _loaded_before


def _after_in_child() -> None:
    import ctypes

    global _loaded_before
    _loaded_before = frozenset(sys.modules)
    if _any_owner:  # tokenizers' threads are not here either; it knows that only if a user does not set this variable
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for owner in list(_owners):
        owner.is_inherited = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))  # a reference that is never released


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_in_child)
