"""Advice about ranges of addresses that look narrower than they are, such as 10.244.7.5/16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_interface
from typing import Final

from kubenetlab.api.core import Service
from kubenetlab.api.kinds import POLICY_GROUP_KINDS, POLICY_KINDS
from kubenetlab.api.meta import Resource
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import Path
from kubenetlab.diagnostics.model import RANGE_AMBIGUOUS, Diagnostic
from kubenetlab.diagnostics.policy_pods import is_given
from kubenetlab.diagnostics.templates import Templates

_KINDS: Final[tuple[type[Resource], ...]] = (*POLICY_KINDS, *POLICY_GROUP_KINDS, Service)
"""Kinds whose ranges may have bits after the prefix. Kinds such as IPPool refuse them."""
_FIELDS: Final = frozenset(
    (
        "cidr",
        "except",
        "networks",
        "nets",
        "notNets",
        "fromCIDR",
        "toCIDR",
        "externalCIDRs",
        "loadBalancerSourceRanges",
    )
)
"""Fields with a range, or a list of ranges."""


def check_ranges(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield advice about each range with bits after its prefix.

    An API server accepts them and warns: "CIDR value is ambiguous in this context".
    Source: kubernetes/kubernetes pkg/apis/networking/validation, GetWarningsForCIDR (1.33).
    """
    for kind in _KINDS:
        for obj in cluster.all(kind):
            if not is_given(cluster, obj):
                continue
            document = cluster.given[obj.kind, *obj.key].document
            for path, text in _ranges(document, ()):
                interface = ip_interface(text)
                if interface.ip != interface.network.network_address:
                    host = f"{interface.ip}/{interface.max_prefixlen}"
                    message = f"{text} means {interface.network}: bits after the prefix are ignored"
                    hint = f"write {interface.network}, or {host} for the address alone"
                    yield Diagnostic.of(obj, RANGE_AMBIGUOUS, path, message, hint)


def _ranges(value: object, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield path and text of each range in a document."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name in _FIELDS:
                yield from _texts(inner, (*path, name))
            elif name != "metadata":
                yield from _ranges(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _ranges(inner, (*path, index))


def _texts(value: object, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield path and text of one range, or of each in a list; single addresses are no ranges."""
    entries: Sequence[tuple[Path, object]] = [(path, value)]
    if isinstance(value, list):
        entries = [((*path, index), each) for index, each in enumerate(value)]
    for own, text in entries:
        if isinstance(text, str) and "/" in text:
            yield own, text.strip()
