"""Names of packages that are imported at their first use (PEP 562)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module


def import_name(package: str, name: str, modules: Mapping[str, str]) -> object:
    """Return an attribute of a package from the module that defines it.

    modules: name → module below the package.
    Raises AttributeError for a name without a module.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{package}.{modules[name]}"), name)
    return value
