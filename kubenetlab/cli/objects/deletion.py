"""delete: objects by name, or all that stand in manifests; waits until they are gone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime

from kubenetlab.api import builtin
from kubenetlab.api.kinds import find_kind, known_words, qualified_kind
from kubenetlab.api.meta import Resource
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import GivenKey
from kubenetlab.cli.input.object_names import parse_object_names
from kubenetlab.cli.input.selection import fetch, is_in_namespace, is_kind_name, requested_kinds
from kubenetlab.cli.terminal.printing import echo
from kubenetlab.errors import LabError, UsageError, did_you_mean
from kubenetlab.lab.client import ApiError, Client
from kubenetlab.lab.paths import LAB_API, kind_path, object_path

ObjectKey = tuple[type[Resource], str, str]
"""(kind, namespace, name)"""

WAIT_S = 30.0
POLL_S = 0.01
SPARE_S = 5.0
"""Time allowed beyond a pod's grace period until it is gone."""


def delete(
    client: Client,
    what: Sequence[str],
    files: Sequence[str] | None,
    namespace: str | None,
    *,
    selector: str = "",
    ignore_not_found: bool = False,
    wait: bool,
) -> None:
    """Delete objects and print each. Raises LabError, in the end, when some were not there before the command began.

    selector: labels of the objects, instead of their names.
    ignore_not_found: objects that are not there are no error.
    With `wait` it returns when packets find it so: sandboxes have ended, no rule leads to them, and no flow does.
    """
    if what and files:
        raise UsageError("delete takes names or manifests, not both at once")
    if selector and not what:
        raise UsageError("-l wants a kind, as in: delete pods -l app=web")
    here = namespace or "default"
    wanted, given = (
        _selected(client, what, here, selector) if selector else _named(client, what, here)
    )
    if files:
        from kubenetlab.cli.input import manifests

        for entry in manifests.read(files).entries:
            if entry.object is not None:
                wanted.append((type(entry.object), entry.object.namespace, entry.object.name))
            else:
                meta = entry.value["metadata"]
                given.append((qualified_kind(entry.value), meta.get("namespace", ""), meta["name"]))
    if selector and not (wanted or given):
        echo(f"nothing found in namespace {here} with the labels {selector}")
        return
    if not wanted and not given:
        raise UsageError("nothing to delete; name objects (pod web-0), or manifests with -f FILE")
    there = {one: uid for one in wanted if (uid := _uid(client, one)) is not None}
    known = {
        (
            qualified_kind(document),
            document["metadata"].get("namespace", ""),
            document["metadata"]["name"],
        )
        for document in client.given()
    }
    for (
        one,
        uid,
    ) in (
        there.items()
    ):  # one that goes with another, as an object with its namespace, is deleted all the same
        deleted_uid = _delete_one(client, one)
        if deleted_uid is None:
            echo(f"{title(*one)} deleted")
        there[one] = deleted_uid or uid
    kept = [key for key in given if key in known]
    if kept:
        client.post(f"{LAB_API}/delete", {"keys": kept})
        for kind, _, name in kept:
            echo(f"{kind} {name} deleted")
    if wait:
        _wait(client, list(there.items()))
    missing = [title(*one) for one in wanted if one not in there] + [
        f"{kind} {name}" for kind, where, name in given if (kind, where, name) not in known
    ]
    if missing and not ignore_not_found:
        raise LabError(f"not found: {', '.join(missing)}")


def _named(
    client: Client, what: Sequence[str], namespace: str
) -> tuple[list[ObjectKey], list[GivenKey]]:
    """`pod web-0 web-1`, `pod/web-0 svc/web`: objects, and documents of kinds that the lab does not model."""
    wanted: list[ObjectKey] = []
    given: list[GivenKey] = []
    for word, name in parse_object_names("delete", what) if what else ():
        kind = find_kind(word)
        if kind is not None:
            wanted.append((kind, namespace if kind.is_namespaced else "", name))
        elif found := _given(client, word, namespace, name):
            given.append(found)
        elif (
            known := next(
                (known for known in sorted(builtin.all_kinds()) if is_kind_name(known, word)), None
            )
        ) is not None:
            given.append((known, namespace, name))  # there is none: it is reported as not found
        else:
            raise UsageError(
                f'there is no kind "{word}"{did_you_mean(word, known_words())}, and nothing of that kind called {name} is kept'
            )
    return wanted, given


def _selected(
    client: Client, what: Sequence[str], namespace: str, selector: str
) -> tuple[list[ObjectKey], list[GivenKey]]:
    """`pods,services` with a selector: objects, and documents of kinds that the lab does not model."""
    wanted: list[ObjectKey] = []
    given: list[GivenKey] = []
    for kind, names in requested_kinds(client, "delete", what):
        if names:
            raise UsageError(f"-l cannot be combined with a name: {names[0]}")
        for document in fetch(client, kind, [], namespace, every=False, selector=selector):
            meta = document["metadata"]
            if isinstance(kind, str):
                given.append((qualified_kind(document), meta.get("namespace", ""), meta["name"]))
            else:
                wanted.append(
                    (kind, meta.get("namespace", "") if kind.is_namespaced else "", meta["name"])
                )
    return wanted, given


def _given(client: Client, word: str, namespace: str, name: str) -> GivenKey | None:
    """The key of a document that the lab keeps, by its kind or the plural of that."""
    for document in client.given():
        kind, meta = str(document["kind"]), document["metadata"]
        is_meant = is_kind_name(kind, word) and meta["name"] == name
        if is_meant and is_in_namespace(document, namespace):
            return qualified_kind(document), meta.get("namespace", ""), name
    return None


def _delete_one(client: Client, one: ObjectKey) -> str | None:
    """Delete an object and say so; return the UID of what goes, or None when there is none any more.

    The UID is not that of a Node: the Node stays, only its own document goes.
    """
    kind, namespace, name = one
    try:
        status = client.request("DELETE", object_path(kind, namespace, name)).body
    except ApiError as error:
        if error.code != 404:
            raise
        return None
    echo(str(status.get("message") or f"{title(kind, namespace, name)} deleted"))
    return str(status["details"]["uid"])


def title(kind: type[Resource], namespace: str, name: str) -> str:
    """`Pod default/web-0`, as everywhere."""
    return f"{kind.kind} {namespace}/{name}" if namespace else f"{kind.kind} {name}"


def _wait(client: Client, gone: Sequence[tuple[ObjectKey, str]]) -> None:
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
        raise LabError(
            f"after {WAIT_S:g} s still there: {titles}; see: kubenetlab describe {kind.kind.lower()} {name}"
        )
    next(
        (
            line
            for line in client.stream(
                f"{LAB_API}/settled", timeout=str(deadline - time.monotonic())
            )
            if line["idle"]
        ),
        None,
    )


def _grace_left_s(client: Client) -> float:
    """Return how long terminating pods may still take, in seconds; 0 when none is within its grace period."""
    ends = [
        datetime.fromisoformat(meta["deletionTimestamp"]).timestamp()
        + meta.get("deletionGracePeriodSeconds", 0)
        + SPARE_S
        for pod in client.get(kind_path(Pod, None))["items"]
        if (meta := pod["metadata"]).get("deletionTimestamp")
    ]
    return max(0.0, max(ends, default=0.0) - time.time())


def _uid(client: Client, one: ObjectKey) -> str | None:
    try:
        return str(client.get(object_path(*one))["metadata"]["uid"])
    except ApiError as error:
        if error.code == 404:
            return None
        raise
