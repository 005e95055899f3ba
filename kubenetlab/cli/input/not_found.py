"""Suggestions for objects that do not exist: the same name elsewhere, or a similar name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kubenetlab.errors import LabError, nearest

if TYPE_CHECKING:
    from kubenetlab.api.meta import Resource
    from kubenetlab.lab.client import Client


@contextmanager
def with_suggestion(
    client: Client, kind: type[Resource], namespace: str, name: str
) -> Iterator[None]:
    """Add a suggestion to the error about an object that does not exist.

    Raises LabError in place of an ApiError with code 404.
    """
    from kubenetlab.lab.client import ApiError
    from kubenetlab.lab.paths import kind_path

    try:
        yield
    except ApiError as error:
        if error.code != 404:
            raise
        items = client.get(kind_path(kind, None))["items"]
        named = [
            (item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in items
        ]
        raise LabError(
            f"{error}{suggestion(named, namespace if kind.is_namespaced else '', name)}"
        ) from None


def suggestion(named: list[tuple[str, str]], namespace: str, name: str) -> str:
    """Return the end of a "not found" message: an option or a name that finds an object.

    named: (namespace, name) of every object of the kind.
    The first match wins: the same name in another namespace, a pod of a workload of that name,
    a similar name.
    """
    if namespaces := sorted(other for other, candidate in named if candidate == name):
        options = " or ".join(f"-n {other}" for other in namespaces)
        return f" in namespace {namespace}; there is one with {options}"
    names = [candidate for other, candidate in named if other == namespace]
    guess = next(
        (candidate for candidate in names if candidate.startswith(f"{name}-")), None
    ) or nearest(name, names)
    return f"; did you mean {guess}?" if guess else ""
