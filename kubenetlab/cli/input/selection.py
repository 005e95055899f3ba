"""Select objects by kind and name, by the prefix of a name, or by labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kubenetlab.api import builtin
from kubenetlab.api.json_types import JsonMapping, JsonObject

if TYPE_CHECKING:
    from kubenetlab.api.meta import LabelSelector, Resource
    from kubenetlab.lab.client import Client


def requested_kinds(
    client: Client, command: str, arguments: Sequence[str]
) -> list[tuple[type[Resource] | str, list[str]]]:
    """Return (kind, names) for each kind on the command line; no names means all objects.

    A kind that the lab does not model is returned as its name. Raises UsageError for an unknown
    kind.
    """
    from kubenetlab.api.kinds import find_kind, known_words, plurals
    from kubenetlab.cli.input.object_names import parse_object_names
    from kubenetlab.cli.input.shared_names import kind_in_lab
    from kubenetlab.errors import UsageError, did_you_mean

    kinds_of_all = (
        "pods",
        "replicationcontrollers",
        "services",
        "daemonsets",
        "deployments",
        "replicasets",
        "statefulsets",
        "jobs",
    )
    names: dict[str, list[str]] = {}
    if "/" in arguments[0]:
        for word, name in parse_object_names(command, arguments):
            names.setdefault(word, []).append(name)
    else:
        for word in arguments[0].split(","):
            names.update(
                {kind: list(arguments[1:]) for kind in (kinds_of_all if word == "all" else (word,))}
            )
    requested: list[tuple[type[Resource] | str, list[str]]] = []
    kept: list[str] | None = None
    for word in names:
        kind = find_kind(word)
        if kind is None:
            kept = (
                kept
                if kept is not None
                else [document["kind"] for document in client.given_documents()]
            )
            known = next(
                (
                    name
                    for name in (*kept, *sorted(builtin.all_kinds()))
                    if is_kind_name(name, word)
                ),
                None,
            )
            if known is None:
                raise UsageError(
                    f'there is no kind "{word}"{did_you_mean(word, known_words())}\n'
                    f"  kinds: {', '.join(dict.fromkeys((*plurals(), *kept)))}"
                )
            requested.append((known, names[word]))
        else:
            requested.append((kind_in_lab(client, word, kind, names[word]), names[word]))
    return requested


def refuse_selector_beside_names(
    selector: str, requested: Sequence[tuple[type[Resource] | str, Sequence[str]]]
) -> None:
    """Raise UsageError if both -l and names are given."""
    from kubenetlab.errors import UsageError

    names = [name for _, names in requested for name in names]
    if selector and names:
        raise UsageError(f"-l cannot be combined with a name: {names[0]}")


def is_kind_name(kind: str, word: str) -> bool:
    """Return True if a word names a kind that the lab does not model.

    The word is the kind, its plural or kubectl's short name, with or without its API group.
    """
    return word.lower().partition(".")[0] in (
        kind.lower(),
        plural(kind.lower()),
        builtin.SHORT_NAMES.get(kind),
    )


def is_in_namespace(document: JsonMapping, namespace: str) -> bool:
    """Return True if a kept document belongs to a namespace.

    A document without namespace belongs to `default`, or to any namespace if its kind is
    cluster-scoped.
    """
    is_namespaced = builtin.is_namespaced(document["apiVersion"], document["kind"])
    return bool(
        document["metadata"].get("namespace", "default" if is_namespaced else namespace)
        == namespace
    )


def plural(kind: str) -> str:
    """Return the plural of a kind in lower case: `ingresses`, `networkpolicies`, `gateways`."""
    if kind.endswith(("s", "x", "ch")):
        return f"{kind}es"
    return f"{kind[:-1]}ies" if kind.endswith("y") and kind[-2] not in "aeiou" else f"{kind}s"


def fetch(
    client: Client,
    kind: type[Resource] | str,
    names: Sequence[str],
    namespace: str,
    *,
    every: bool = False,
    selector: str = "",
) -> list[JsonObject]:
    """Return objects of a kind from the lab's API.

    names: names of the objects; empty for all objects of the namespace, sorted by namespace.
    every: all namespaces instead of `namespace`.
    Raises LabError if a named object does not exist.
    """
    from kubenetlab.cli.input.not_found import with_suggestion
    from kubenetlab.errors import LabError, did_you_mean
    from kubenetlab.lab.paths import kind_path, object_path

    if isinstance(kind, str):
        items = client.given_documents()
        matching = [
            item
            for item in items
            if item["kind"] == kind and (every or is_in_namespace(item, namespace))
        ]
        matching = _with_labels(matching, selector)
        known = [item["metadata"]["name"] for item in matching]
        for name in names:
            if name not in known:
                raise LabError(f"there is no {kind} {namespace}/{name}{did_you_mean(name, known)}")
        return _by_namespace(
            [item for item, name in zip(matching, known, strict=True) if not names or name in names]
        )
    if names:
        documents = []
        for name in names:
            with with_suggestion(client, kind, namespace, name):
                documents.append(client.get(object_path(kind, namespace, name)))
        return documents
    query = {"labelSelector": selector} if selector else {}
    parse_label_selector(selector)
    return _by_namespace(
        client.get(kind_path(kind, None if every else namespace), **query)["items"]
    )


def fetch_by_prefix(
    client: Client, kind: type[Resource] | str, names: Sequence[str], namespace: str, selector: str
) -> list[JsonObject]:
    """Return the objects that `describe` shows: as `fetch`, but a missing name acts as a prefix."""
    from kubenetlab.errors import LabError

    if not names:
        return fetch(client, kind, [], namespace, selector=selector)
    documents = []
    for name in names:
        try:
            documents += fetch(client, kind, [name], namespace)
        except LabError:
            matching = [
                item
                for item in fetch(client, kind, [], namespace)
                if item["metadata"]["name"].startswith(name)
            ]
            if not matching:
                raise
            documents += matching
    return documents


def parse_label_selector(selector: str) -> LabelSelector:
    """Parse the label selector of -l. Raises UsageError."""
    from kubenetlab.api.meta import parse_selector
    from kubenetlab.errors import UsageError

    try:
        return parse_selector(selector)
    except ValueError as error:
        raise UsageError(f"--selector {selector}: {error}") from None


def _with_labels(documents: list[JsonObject], selector: str) -> list[JsonObject]:
    """Return the kept documents that match a label selector.

    For kinds that the lab models, its API selects the objects.
    """
    label_selector = parse_label_selector(selector)
    return [
        document
        for document in documents
        if label_selector.matches(document["metadata"].get("labels") or {})
    ]


def _by_namespace(documents: list[JsonObject]) -> list[JsonObject]:
    """Return documents sorted by namespace; the order within a namespace stays."""
    return sorted(documents, key=lambda document: document["metadata"].get("namespace", ""))
