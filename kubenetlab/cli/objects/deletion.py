"""Delete objects by name, by labels or from manifests, and wait until they are gone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime

from kubenetlab.api import builtin
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.kinds import find_kind, known_words, qualified_kind
from kubenetlab.api.meta import Resource
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import GivenKey
from kubenetlab.cli.input.object_names import parse_object_names
from kubenetlab.cli.input.selection import fetch, is_in_namespace, is_kind_name, requested_kinds
from kubenetlab.cli.input.shared_names import kind_in_lab
from kubenetlab.cli.terminal.printing import echo
from kubenetlab.errors import LabError, UsageError, did_you_mean
from kubenetlab.lab.client import ApiError, Client
from kubenetlab.lab.paths import LAB_API, kind_path, object_path

ObjectKey = tuple[type[Resource], str, str]
"""(kind, namespace, name) of an object that the lab models."""
Selection = tuple[list[ObjectKey], list[GivenKey]]
"""Objects that the lab models, and kept documents of other kinds."""

WAIT_S = 30.0
"""Time allowed for objects without a grace period to go, in seconds."""
POLL_INTERVAL_S = 0.01
"""Time between two checks whether an object is gone, in seconds.

Most objects are gone after one or two checks. A watch would first list all objects of the kind.
"""
GRACE_MARGIN_S = 5.0
"""Time allowed beyond a pod's grace period until it is gone, in seconds."""


def delete(
    client: Client,
    resources: Sequence[str],
    files: Sequence[str] | None,
    namespace: str | None,
    *,
    selector: str = "",
    ignore_not_found: bool = False,
    wait: bool,
) -> None:
    """Delete objects and print a line for each.

    resources: kinds and names, as on the command line.
    selector: labels of the objects, instead of their names.
    wait: return only after pods have ended and no rule and no connection leads to the objects.
    Raises LabError after all deletions if an object did not exist, unless `ignore_not_found`.
    """
    selected, given = _select(client, resources, files, namespace or "default", selector)
    if selector and not (selected or given):
        echo(f"nothing found in namespace {namespace or 'default'} with the labels {selector}")
        return
    if not selected and not given:
        raise UsageError(
            "nothing to delete: name objects, for example pod web-0, or manifests with -f FILE"
        )
    kept = {_given_key(document) for document in client.given_documents()}
    deleted = _delete_objects(client, selected)
    if keys := [key for key in given if key in kept]:
        client.post(f"{LAB_API}/delete", {"keys": keys})
        for kind, _, name in keys:
            echo(f"{kind} {name} deleted")
    if wait:
        _wait(client, list(deleted.items()))
    missing = [title(*key) for key in selected if key not in deleted]
    missing += [f"{kind} {name}" for kind, place, name in given if (kind, place, name) not in kept]
    if missing and not ignore_not_found:
        raise LabError(f"not found: {', '.join(missing)}")


def _select(
    client: Client,
    resources: Sequence[str],
    files: Sequence[str] | None,
    namespace: str,
    selector: str,
) -> Selection:
    """Return the objects to delete. Raises UsageError for contradicting arguments."""
    if resources and files:
        raise UsageError("delete takes names or manifests, not both")
    if selector and not resources:
        raise UsageError("-l needs a kind, for example: delete pods -l app=web")
    if selector:
        return _by_labels(client, resources, namespace, selector)
    selected, given = _by_name(client, resources, namespace)
    if files:
        from kubenetlab.cli.input import manifests

        for entry in manifests.read(files).entries:
            if entry.object is not None:
                selected.append((type(entry.object), entry.object.namespace, entry.object.name))
            else:
                given.append(_given_key(entry.value))
    return selected, given


def _by_name(client: Client, resources: Sequence[str], namespace: str) -> Selection:
    """Select objects by kind and name: `pod web-0 web-1`, or `pod/web-0 svc/web`."""
    selected: list[ObjectKey] = []
    given: list[GivenKey] = []
    for word, name in parse_object_names("delete", resources) if resources else ():
        kind = find_kind(word)
        if kind is not None:
            kind = kind_in_lab(client, word, kind, [name])
            selected.append((kind, namespace if kind.is_namespaced else "", name))
        elif key := _find_given(client, word, namespace, name):
            given.append(key)
        elif builtin_kind := next(_builtin_kinds(word), None):
            given.append((builtin_kind, namespace, name))  # does not exist: reported as not found
        else:
            raise UsageError(
                f'there is no kind "{word}"{did_you_mean(word, known_words())}, '
                f"and no kept document of that kind is named {name}"
            )
    return selected, given


def _by_labels(
    client: Client, resources: Sequence[str], namespace: str, selector: str
) -> Selection:
    """Select the objects of the kinds, such as `pods,services`, that match a label selector."""
    selected: list[ObjectKey] = []
    given: list[GivenKey] = []
    for kind, names in requested_kinds(client, "delete", resources):
        if names:
            raise UsageError(f"-l cannot be combined with a name: {names[0]}")
        for document in fetch(client, kind, [], namespace, every=False, selector=selector):
            if isinstance(kind, str):
                given.append(_given_key(document))
            else:
                meta = document["metadata"]
                place = meta.get("namespace", "") if kind.is_namespaced else ""
                selected.append((kind, place, meta["name"]))
    return selected, given


def _given_key(document: JsonMapping) -> GivenKey:
    meta = document["metadata"]
    return qualified_kind(document), meta.get("namespace", ""), meta["name"]


def _find_given(client: Client, word: str, namespace: str, name: str) -> GivenKey | None:
    """Return the key of a kept document, by its name and the singular or plural of its kind."""
    for document in client.given_documents():
        if (
            is_kind_name(str(document["kind"]), word)
            and document["metadata"]["name"] == name
            and is_in_namespace(document, namespace)
        ):
            return _given_key(document)
    return None


def _builtin_kinds(word: str) -> Iterator[str]:
    return (kind for kind in sorted(builtin.all_kinds()) if is_kind_name(kind, word))


def _delete_objects(client: Client, keys: Sequence[ObjectKey]) -> dict[ObjectKey, str]:
    """Delete objects that exist; return the UIDs of the deleted objects by key."""
    deleted = {key: uid for key in keys if (uid := _uid(client, key)) is not None}
    for key, uid in deleted.items():
        deleted_uid = _delete_one(client, key)
        if deleted_uid is None:  # deleted with another object, such as its namespace
            echo(f"{title(*key)} deleted")
        deleted[key] = deleted_uid or uid
    return deleted


def _delete_one(client: Client, key: ObjectKey) -> str | None:
    """Delete an object and print it; return the deleted UID, or None if it no longer exists.

    For a Node it is not the UID of the Node: the Node stays, only its manifest is deleted.
    """
    kind, namespace, name = key
    try:
        status = client.request("DELETE", object_path(kind, namespace, name)).body
    except ApiError as error:
        if error.code != 404:
            raise
        return None
    echo(str(status.get("message") or f"{title(kind, namespace, name)} deleted"))
    return str(status["details"]["uid"])


def title(kind: type[Resource], namespace: str, name: str) -> str:
    """Return the name of an object for messages, such as `Pod default/web-0`."""
    return f"{kind.kind} {namespace}/{name}" if namespace else f"{kind.kind} {name}"


def _wait(client: Client, deleted: Sequence[tuple[ObjectKey, str]]) -> None:
    """Wait until the objects are gone and the kernel is up to date.

    A new object with the same name has another UID and is not waited for.
    Raises LabError on timeout.
    """
    deadline = time.monotonic() + WAIT_S
    waiting = deque(deleted)
    while waiting:
        # Only the first object is polled: the others cost a single request if they end with it.
        if not _exists(client, *waiting[0]):
            waiting.popleft()
            continue
        if time.monotonic() >= deadline:
            deadline += _grace_left_s(client)
            if time.monotonic() >= deadline:
                break
        time.sleep(POLL_INTERVAL_S)
    if remaining := [entry for entry in waiting if _exists(client, *entry)]:
        titles = ", ".join(title(*key) for key, _ in remaining)
        kind, _, name = remaining[0][0]
        raise LabError(
            f"not deleted after {WAIT_S:g} s: {titles}; "
            f"see: kubenetlab describe {kind.kind.lower()} {name}"
        )
    timeout = str(deadline - time.monotonic())
    states = client.stream(f"{LAB_API}/settled", timeout=timeout)
    next((state for state in states if state["idle"]), None)


def _grace_left_s(client: Client) -> float:
    """Return the time until the last grace period of terminating pods ends, in seconds; or 0."""
    ends = [
        datetime.fromisoformat(meta["deletionTimestamp"]).timestamp()
        + meta.get("deletionGracePeriodSeconds", 0)
        + GRACE_MARGIN_S
        for pod in client.get(kind_path(Pod, None))["items"]
        if (meta := pod["metadata"]).get("deletionTimestamp")
    ]
    return max(0.0, max(ends, default=0.0) - time.time())


def _exists(client: Client, key: ObjectKey, uid: str) -> bool:
    """Return True if the object exists and has not been created anew."""
    return _uid(client, key) == uid


def _uid(client: Client, key: ObjectKey) -> str | None:
    try:
        return str(client.get(object_path(*key))["metadata"]["uid"])
    except ApiError as error:
        if error.code == 404:
            return None
        raise
