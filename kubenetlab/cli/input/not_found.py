"""Errors about objects that the lab does not have, with where an object of that name is."""

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
    """Add to the error of an object that does not exist the command's option or the name that finds one.

    Raises LabError in the place of an ApiError with code 404.
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
    """Return the end of the message; `named` are namespace and name of every object of the kind.

    The same name in another namespace is the best guess, then the pods of a workload of that name,
    then a similar name.
    """
    if elsewhere := sorted(where for where, each in named if each == name):
        options = " or ".join(f"-n {where}" for where in elsewhere)
        return f" in namespace {namespace}; there is one with {options}"
    here = [each for where, each in named if where == namespace]
    guess = next((each for each in here if each.startswith(f"{name}-")), None) or nearest(
        name, here
    )
    return f"; did you mean {guess}?" if guess else ""
