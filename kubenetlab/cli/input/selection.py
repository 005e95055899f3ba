"""Which objects the words of a command mean: by kind and name, by the beginning of a name, by labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kubenetlab.api import builtin

if TYPE_CHECKING:
    from kubenetlab.api.meta import LabelSelector, Resource
    from kubenetlab.lab.client import Client


def requested_kinds(
    client: Client, command: str, what: Sequence[str]
) -> list[tuple[type[Resource] | str, list[str]]]:
    """Kind → names that the words mean, none for all of them; a kind that the lab does not model is a word."""
    from kubenetlab.api.kinds import find_kind, known_words, plurals
    from kubenetlab.cli.input.object_names import parse_object_names
    from kubenetlab.errors import UsageError, did_you_mean

    everyday = (
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
    if "/" in what[0]:
        for word, name in parse_object_names(command, what):
            names.setdefault(word, []).append(name)
    else:
        for word in what[0].split(","):
            names.update(
                {kind: list(what[1:]) for kind in (everyday if word == "all" else (word,))}
            )
    wanted: list[tuple[type[Resource] | str, list[str]]] = []
    kept: list[str] | None = None
    for word in names:
        kind = find_kind(word)
        if kind is None:
            kept = kept if kept is not None else [document["kind"] for document in client.given()]
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
                    f'the lab has no kind "{word}"{did_you_mean(word, known_words())}\n  known: {", ".join(dict.fromkeys((*plurals(), *kept)))}'
                )
            wanted.append((known, names[word]))
        else:
            wanted.append((kind, names[word]))
    return wanted


def refuse_selector_beside_names(
    selector: str, wanted: Sequence[tuple[type[Resource] | str, Sequence[str]]]
) -> None:
    """Raise UsageError for -l beside names, which it could contradict."""
    from kubenetlab.errors import UsageError

    names = [name for _, names in wanted for name in names]
    if selector and names:
        raise UsageError(f"-l cannot stand with a name: {names[0]}")


def is_kind_name(kind: str, word: str) -> bool:
    """True when a word names a kind that the lab does not model: by itself, its plural, or kubectl's short name; with its group or without."""
    return word.lower().partition(".")[0] in (
        kind.lower(),
        plural(kind.lower()),
        builtin.SHORT_NAMES.get(kind),
    )


def is_in_namespace(document: Mapping[str, Any], namespace: str) -> bool:
    """Return True for a kept document that is in a namespace; one that names none is in `default`, or in none at all."""
    is_namespaced = builtin.is_namespaced(document["apiVersion"], document["kind"])
    return bool(
        document["metadata"].get("namespace", "default" if is_namespaced else namespace)
        == namespace
    )


def plural(kind: str) -> str:
    """`ingresses`, `networkpolicies`, `gateways`."""
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
) -> list[dict[str, Any]]:
    """Return objects of a kind as the lab's API shows them: those named, else those of a namespace, or of all with `every`."""
    from kubenetlab.cli.input.not_found import with_suggestion
    from kubenetlab.errors import LabError, did_you_mean
    from kubenetlab.lab.paths import kind_path, object_path

    if isinstance(kind, str):
        items = client.given()
        there = [
            item
            for item in items
            if item["kind"] == kind and (every or is_in_namespace(item, namespace))
        ]
        there = _selected(there, selector)
        known = [item["metadata"]["name"] for item in there]
        for name in names:
            if name not in known:
                raise LabError(f"there is no {kind} {namespace}/{name}{did_you_mean(name, known)}")
        return _by_namespace(
            [item for item, name in zip(there, known, strict=True) if not names or name in names]
        )
    if names:
        found = []
        for name in names:
            with with_suggestion(client, kind, namespace, name):
                found.append(client.get(object_path(kind, namespace, name)))
        return found
    query = {"labelSelector": selector} if selector else {}
    parse_label_selector(selector)
    return _by_namespace(
        client.get(kind_path(kind, None if every else namespace), **query)["items"]
    )


def fetch_by_prefix(
    client: Client, kind: type[Resource] | str, names: Sequence[str], namespace: str, selector: str
) -> list[dict[str, Any]]:
    """Return the objects that describe shows: as `fetch`, and for a name that there is not, those that begin with it."""
    from kubenetlab.errors import LabError

    if not names:
        return fetch(client, kind, [], namespace, selector=selector)
    found = []
    for name in names:
        try:
            found += fetch(client, kind, [name], namespace)
        except LabError:
            beginning = [
                item
                for item in fetch(client, kind, [], namespace)
                if item["metadata"]["name"].startswith(name)
            ]
            if not beginning:
                raise
            found += beginning
    return found


def parse_label_selector(selector: str) -> LabelSelector:
    """Return the selector of -l. Raises UsageError for one that cannot be read."""
    from kubenetlab.api.meta import parse_selector
    from kubenetlab.errors import UsageError

    try:
        return parse_selector(selector)
    except ValueError as error:
        raise UsageError(f"--selector {selector}: {error}") from None


def _selected(documents: list[dict[str, Any]], selector: str) -> list[dict[str, Any]]:
    """Those with the labels that are wanted; of kinds that the lab models, its API picks them."""
    wanted = parse_label_selector(selector)
    return [
        document
        for document in documents
        if wanted.matches(document["metadata"].get("labels") or {})
    ]


def _by_namespace(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the order of their namespaces; in each as they came."""
    return sorted(documents, key=lambda document: document["metadata"].get("namespace", ""))
