"""delete: objects by name, or all that stand in manifests; waits until they are gone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from kubenetlab.api.kinds import find_kind, known_words
from kubenetlab.api.meta import Resource
from kubenetlab.cli.screen import say
from kubenetlab.errors import LabError, UsageError, did_you_mean
from kubenetlab.lab.client import ApiError, Client
from kubenetlab.lab.paths import object_path

WAIT_S = 30.0
POLL_S = 0.01


def delete(client: Client, what: Sequence[str], files: Sequence[str] | None, namespace: str | None, *, wait: bool) -> None:
    """Deletes and says so, object by object. Raises LabError when a named one is not there; from manifests that is no error."""
    wanted = list(_named(what, namespace or "default"))
    given: list[tuple[str, str, str]] = []
    if files:
        from kubenetlab.cli import manifests

        for entry in manifests.read(files).entries:
            if entry.object is not None:
                wanted.append((type(entry.object), entry.object.namespace, entry.object.name))
            else:
                meta = entry.value["metadata"]
                given.append((entry.value["kind"], meta.get("namespace", ""), meta["name"]))
    if not wanted and not given:
        raise UsageError("nothing to delete; name objects (pod web-0), or manifests with -f FILE")
    gone = [one for one in wanted if _delete_one(client, one, is_named=not files)]
    if given:
        for kind, _, name in client.post("/apis/kubenetlab.dev/v1alpha1/delete", {"keys": given})["deleted"]:
            say(f"{kind} {name} deleted")
    if wait:
        _wait(client, gone)


def _named(what: Sequence[str], namespace: str) -> Iterator[tuple[type[Resource], str, str]]:
    """`pod web-0 web-1`, `pod/web-0 svc/web`."""
    if what and "/" not in what[0]:
        if len(what) < 2:
            raise UsageError(f"delete {what[0]}: wanted a name too, as in: delete {what[0]} NAME")
        pairs = [(what[0], name) for name in what[1:]]
    else:
        pairs = [(word.partition("/")[0], word.partition("/")[2]) for word in what]
    for word, name in pairs:
        kind = find_kind(word)
        if kind is None:
            raise UsageError(f'there is no kind "{word}"{did_you_mean(word, known_words())}')
        yield kind, namespace if kind.is_namespaced else "", name


def _delete_one(client: Client, one: tuple[type[Resource], str, str], *, is_named: bool) -> bool:
    kind, namespace, name = one
    try:
        client.request("DELETE", object_path(kind, namespace, name))
    except ApiError as error:
        if error.code != 404 or is_named:
            raise
        return False
    say(f"{title(kind, namespace, name)} deleted")
    return True


def title(kind: type[Resource], namespace: str, name: str) -> str:
    """`Pod default/web-0`, as everywhere."""
    return f"{kind.kind} {namespace}/{name}" if namespace else f"{kind.kind} {name}"


def _wait(client: Client, gone: Sequence[tuple[type[Resource], str, str]]) -> None:
    deadline = time.monotonic() + WAIT_S
    waiting: list[Any] = list(gone)
    while waiting and time.monotonic() < deadline:
        waiting = [one for one in waiting if _is_there(client, one)]
        if waiting:
            time.sleep(POLL_S)
    if waiting:
        titles = ", ".join(title(kind, namespace, name) for kind, namespace, name in waiting)
        raise LabError(f"after {WAIT_S:g} s still there: {titles}; see: kubenetlab describe {waiting[0][0].kind.lower()} {waiting[0][2]}")


def _is_there(client: Client, one: tuple[type[Resource], str, str]) -> bool:
    try:
        client.get(object_path(*one))
    except ApiError as error:
        if error.code == 404:
            return False
        raise
    return True
