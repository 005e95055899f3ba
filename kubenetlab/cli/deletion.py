"""delete: objects by name, or all that stand in manifests; waits until they are gone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime

from kubenetlab.api.kinds import find_kind, known_words, qualified_kind
from kubenetlab.api.meta import Resource
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import GivenKey
from kubenetlab.cli.get import is_called
from kubenetlab.cli.screen import say
from kubenetlab.cli.words import kinds_and_names
from kubenetlab.errors import LabError, UsageError, did_you_mean
from kubenetlab.lab.client import ApiError, Client
from kubenetlab.lab.paths import LAB_API, kind_path, object_path

Wanted = tuple[type[Resource], str, str]
"""(kind, namespace, name)"""

WAIT_S = 30.0
POLL_S = 0.01
SPARE_S = 5.0
"""Time allowed beyond a pod's grace period until it is gone."""


def delete(client: Client, what: Sequence[str], files: Sequence[str] | None, namespace: str | None, *, wait: bool) -> None:
    """Deletes and says so, object by object. Raises LabError, in the end, when some were not there.

    With `wait` it returns when packets find it so: sandboxes have ended, no rule leads to them, and no flow does.
    """
    if what and files:
        raise UsageError("delete takes names or manifests, not both at once")
    wanted, given = _named(client, what, namespace or "default")
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
    missing: list[str] = []
    gone: list[tuple[Wanted, str]] = []
    for one in wanted:
        if (uid := _delete_one(client, one)) is not None:
            gone.append((one, uid))
        else:
            missing.append(title(*one))
    if given:
        deleted = [tuple(key) for key in client.post(f"{LAB_API}/delete", {"keys": given})["deleted"]]
        for kind, _, name in deleted:
            say(f"{kind} {name} deleted")
        missing += [f"{kind} {name}" for kind, namespace, name in given if (kind, namespace, name) not in deleted]
    if wait:
        _wait(client, gone)
    if missing:
        raise LabError(f"not found: {', '.join(missing)}")


def _named(client: Client, what: Sequence[str], namespace: str) -> tuple[list[Wanted], list[GivenKey]]:
    """`pod web-0 web-1`, `pod/web-0 svc/web`: objects, and documents of kinds that the lab does not model."""
    wanted: list[Wanted] = []
    given: list[GivenKey] = []
    for word, name in kinds_and_names("delete", what) if what else ():
        kind = find_kind(word)
        if kind is not None:
            wanted.append((kind, namespace if kind.is_namespaced else "", name))
        elif found := _given(client, word, namespace, name):
            given.append(found)
        else:
            raise UsageError(
                f'there is no kind "{word}"{did_you_mean(word, known_words())}, and nothing of that kind called {name} is kept'
            )
    return wanted, given


def _given(client: Client, word: str, namespace: str, name: str) -> GivenKey | None:
    """The key of a document that the lab keeps, by its kind or the plural of that."""
    for document in client.given():
        kind, meta = str(document["kind"]), document["metadata"]
        is_meant = is_called(kind, word) and meta["name"] == name
        if is_meant and meta.get("namespace", namespace) == namespace:
            return qualified_kind(document), meta.get("namespace", ""), name
    return None


def _delete_one(client: Client, one: Wanted) -> str | None:
    """The uid of what is deleted; None when there is no such object."""
    kind, namespace, name = one
    try:
        status = client.request("DELETE", object_path(kind, namespace, name)).body
    except ApiError as error:
        if error.code != 404:
            raise
        return None
    say(str(status.get("message") or f"{title(kind, namespace, name)} deleted"))
    return str(status["details"]["uid"])


def title(kind: type[Resource], namespace: str, name: str) -> str:
    """`Pod default/web-0`, as everywhere."""
    return f"{kind.kind} {namespace}/{name}" if namespace else f"{kind.kind} {name}"


def _wait(client: Client, gone: Sequence[tuple[Wanted, str]]) -> None:
    """Until each is gone, and Linux knows; one of the same name that took its place is another."""
    deadline = time.monotonic() + WAIT_S
    waiting = list(gone)
    while waiting and time.monotonic() < deadline:
        waiting = [(one, uid) for one, uid in waiting if _uid(client, one) == uid]
        if waiting:
            time.sleep(POLL_S)
            if time.monotonic() >= deadline:
                deadline += _grace_left_s(client)
    if waiting:
        titles = ", ".join(title(*one) for one, _ in waiting)
        kind, _, name = waiting[0][0]
        raise LabError(f"after {WAIT_S:g} s still there: {titles}; see: kubenetlab describe {kind.kind.lower()} {name}")
    next((line for line in client.stream(f"{LAB_API}/settled", timeout=str(deadline - time.monotonic())) if line["idle"]), None)


def _grace_left_s(client: Client) -> float:
    """Return how long terminating pods may still take, in seconds; 0 when none is within its grace period."""
    ends = [
        datetime.fromisoformat(meta["deletionTimestamp"]).timestamp() + meta.get("deletionGracePeriodSeconds", 0) + SPARE_S
        for pod in client.get(kind_path(Pod, None))["items"]
        if (meta := pod["metadata"]).get("deletionTimestamp")
    ]
    return max(0.0, max(ends, default=0.0) - time.time())


def _uid(client: Client, one: Wanted) -> str | None:
    try:
        return str(client.get(object_path(*one))["metadata"]["uid"])
    except ApiError as error:
        if error.code == 404:
            return None
        raise
