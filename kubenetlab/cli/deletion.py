"""delete: objects by name, or all that stand in manifests; waits until they are gone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from kubenetlab.api.kinds import find_kind, known_words, qualified_kind
from kubenetlab.api.meta import Resource
from kubenetlab.cli.screen import say
from kubenetlab.errors import LabError, UsageError, did_you_mean
from kubenetlab.lab.client import ApiError, Client
from kubenetlab.lab.paths import object_path

Wanted = tuple[type[Resource], str, str]
"""(kind, namespace, name)"""

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
                given.append((qualified_kind(entry.value), meta.get("namespace", ""), meta["name"]))
    if not wanted and not given:
        raise UsageError("nothing to delete; name objects (pod web-0), or manifests with -f FILE")
    gone = [(one, uid) for one in wanted if (uid := _delete_one(client, one, is_named=not files)) is not None]
    if given:
        for kind, _, name in client.post("/apis/kubenetlab.dev/v1alpha1/delete", {"keys": given})["deleted"]:
            say(f"{kind} {name} deleted")
    if wait:
        _wait(client, gone)


def _named(what: Sequence[str], namespace: str) -> Iterator[Wanted]:
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


def _delete_one(client: Client, one: Wanted, *, is_named: bool) -> str | None:
    """The uid of what is deleted; None when there is no such object, and that is no error."""
    kind, namespace, name = one
    try:
        status = client.request("DELETE", object_path(kind, namespace, name)).body
    except ApiError as error:
        if error.code != 404 or is_named:
            raise
        return None
    say(f"{title(kind, namespace, name)} deleted")
    return str(status["details"]["uid"])


def title(kind: type[Resource], namespace: str, name: str) -> str:
    """`Pod default/web-0`, as everywhere."""
    return f"{kind.kind} {namespace}/{name}" if namespace else f"{kind.kind} {name}"


def _wait(client: Client, gone: Sequence[tuple[Wanted, str]]) -> None:
    """Until each is gone; one of the same name that took its place is another."""
    deadline = time.monotonic() + WAIT_S
    waiting = list(gone)
    while waiting and time.monotonic() < deadline:
        waiting = [(one, uid) for one, uid in waiting if _uid(client, one) == uid]
        if waiting:
            time.sleep(POLL_S)
    if waiting:
        titles = ", ".join(title(*one) for one, _ in waiting)
        kind, _, name = waiting[0][0]
        raise LabError(f"after {WAIT_S:g} s still there: {titles}; see: kubenetlab describe {kind.kind.lower()} {name}")


def _uid(client: Client, one: Wanted) -> str | None:
    try:
        return str(client.get(object_path(*one))["metadata"]["uid"])
    except ApiError as error:
        if error.code == 404:
            return None
        raise
