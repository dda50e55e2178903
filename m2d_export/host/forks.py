"""Mark every runtime that a forked process inherits: the threads of its library exist only in the parent."""

import os
import sys
from typing import Protocol
from weakref import WeakSet


class Owner(Protocol):
    """An object that uses a library with threads. ``is_inherited`` becomes true in a forked process."""

    is_inherited: bool


_owners: WeakSet[Owner] = WeakSet()
_any_owner = False
_loaded_before: frozenset[str] = frozenset()


def owns_threads(owner: Owner) -> None:
    """Mark ``owner`` as inherited in every forked process.

    The forked process never destroys ``owner``: that would wait for threads that exist only in the parent.
    """
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
    # ``tokenizers`` loses its threads too. It does not notice this if the user has set the variable.
    if _any_owner:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for owner in list(_owners):
        owner.is_inherited = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))  # a reference that is never released


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_in_child)
