"""What not everybody needs comes as an extra. Where one is absent, a line says how to get it."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType

from kedge.errors import InputError


def command(extras: Iterable[str]) -> str:
    """What adds them."""
    return f"pip install 'kedge[{','.join(extras)}]'"


def absent(module: str, extra: str, role: str) -> InputError:
    """That a module of an extra is not there: what it is for, as in "which reads this", and how to get it."""
    return InputError(f"{module}, {role}, is not installed: {command([extra])}")


def optional(module: str, extra: str, role: str) -> ModuleType:
    """Imports what an extra brings, or says in one line how to get it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise absent(module, extra, role) from None
