"""The kinds that the lab models, found by kind, plural or short name; and what the API groups are called."""

from collections.abc import Mapping
from typing import Final

from kubenetlab.api.apps import Deployment, ReplicaSet
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import Event, Namespace, Node, Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.meta import Resource
from kubenetlab.api.pods import Pod

SERVED: Final[tuple[type[Resource], ...]] = (Namespace, Node, Pod, Service, EndpointSlice, Deployment, ReplicaSet, Event, ClusterConfig)
"""The kinds that `get` and the API show, in the order of `get all`-like listings."""

WRITABLE: Final[Mapping[str, type[Resource]]] = {
    kind.kind: kind for kind in (ClusterConfig, Namespace, Pod, Service, EndpointSlice, Deployment, ReplicaSet)
}
"""The kinds that a manifest may hold, by name."""


def find_kind(word: str) -> type[Resource] | None:
    """The served kind that `word` names, as on kubectl's command line: `po`, `pod`, `pods`, `Pod`."""
    return _BY_WORD.get(word.lower())


def known_words() -> tuple[str, ...]:
    """Every word that `find_kind` understands."""
    return tuple(_BY_WORD)


def plurals() -> tuple[str, ...]:
    """What lists of the kinds are called: `pods`, `services` …"""
    return tuple(kind.plural for kind in SERVED)


_BY_WORD = {word: kind for kind in SERVED for word in (kind.kind.lower(), kind.plural, *kind.short_names)}
