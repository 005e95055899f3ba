"""Diagnostics of fields and annotations of CNI plugins that the lab does not enforce.

The plugin uses them in a cluster. A value that means the plugin's default, or what the lab does
anyway, is not reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from kubenetlab.api.calico.bgp import (
    AS_NUMBER_ANNOTATION,
    CLUSTER_ID_ANNOTATION,
    BGPConfiguration,
    BGPPeer,
)
from kubenetlab.api.calico.bgp_filters import BGPFilter
from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.core import Node, Service
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.kinds import writable
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.meta import Resource
from kubenetlab.api.plugins import kube_router
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import Path
from kubenetlab.diagnostics.model import NOT_ENFORCED, NOT_ENFORCED_ALTHOUGH, Diagnostic, Scope
from kubenetlab.diagnostics.templates import Templates


class _Field(NamedTuple):
    """A field that a CNI plugin uses and the lab does not."""

    path: tuple[str, ...]
    """Path of the field in the document; `*` for each entry of a list."""
    effect: str
    """Effect in a cluster, for the message."""
    harmless: Sequence[object] = ()
    """Values that change nothing."""


_PLUGIN: Final = "calico"
_FILTER_RULES: Final = ("exportV4", "importV4", "exportV6", "importV6")
_FIELDS: Final[Mapping[type[Resource], Sequence[_Field]]] = {
    BGPConfiguration: (
        _Field(("spec", "listenPort"), "BIRD listens on this TCP port", (179,)),
        _Field(("spec", "ignoredInterfaces"), "BIRD ignores the networks of these links", ([],)),
        _Field(
            ("spec", "serviceLoadBalancerAggregation"),
            "nodes announce each load balancer's address in place of the range",
            ("Enabled",),
        ),
        _Field(("spec", "localWorkloadPeeringIPV4"), "pods have BGP sessions with their node"),
        _Field(("spec", "localWorkloadPeeringIPV6"), "pods have BGP sessions with their node"),
        _Field(
            ("spec", "programClusterRoutes"),
            "it selects the program that adds the routes of other nodes",
            ("Disabled",),
        ),
        _Field(("spec", "ipv4NormalRoutePriority"), "routes have this metric", (1024,)),
        _Field(("spec", "ipv6NormalRoutePriority"), "routes have this metric", (1024,)),
    ),
    BGPPeer: (
        _Field(("spec", "keepaliveTime"), "BIRD sends keepalive messages at this interval"),
        _Field(("spec", "reachableBy"), "nodes get a static route to the peer by this gateway"),
        _Field(("spec", "localWorkloadSelector"), "the selected pods have BGP sessions"),
    ),
    BGPFilter: (
        *(
            _Field(
                ("spec", name, "*", "priority"),
                "only routes with this metric match the rule; the lab leaves the rule out",
            )
            for name in _FILTER_RULES
        ),
        *(
            _Field(
                ("spec", name, "*", "operations", "*", "setPriority"),
                "accepted routes get this metric; the lab leaves the operation out",
            )
            for name in _FILTER_RULES
        ),
    ),
    IPPool: (
        _Field(
            ("spec", "allowedUses", "*"),
            "Calico assigns addresses of the pool to Services of the type LoadBalancer",
            ("Workload", "Tunnel"),
        ),
    ),
}
"""Kind → fields of calico."""


class _Annotations(NamedTuple):
    """Annotations of a CNI plugin."""

    prefix: str
    nodes: Sequence[str]
    """Annotations of nodes that have an effect in the lab, or that the plugin itself writes."""
    services: Sequence[str]
    """Annotations of Services that have an effect in the lab."""


_CALICO: Final = "projectcalico.org/"
_ANNOTATIONS: Final[Mapping[str, _Annotations]] = {
    "calico": _Annotations(
        _CALICO,
        (
            AS_NUMBER_ANNOTATION,
            CLUSTER_ID_ANNOTATION,
            *(
                f"{_CALICO}{name}"
                for name in (
                    "IPv4IPIPTunnelAddr",
                    "IPv4VXLANTunnelAddr",
                    "IPv6VXLANTunnelAddr",
                    "VXLANTunnelMACAddr",
                    "VXLANTunnelMACAddrV6",
                    "IPv4WireguardInterfaceAddr",
                    "IPv6WireguardInterfaceAddr",
                    "WireguardPublicKey",
                    "WireguardPublicKeyV6",
                    "kube-labels",
                )
            ),
        ),
        (),
    ),
    "kube-router": _Annotations(
        kube_router.PREFIX,
        kube_router.NODE_ANNOTATIONS,
        (*kube_router.ADVERTISE_ANNOTATIONS, kube_router.LOCAL_ANNOTATION),
    ),
}
"""CNI plugin → its annotations."""
_OF_NODE_ADDRESS: Final = (f"{_CALICO}IPv4Address", f"{_CALICO}IPv6Address")
"""Annotations of a node with an address that BGP uses, with or without a prefix length."""
_OF_POD_RANGES: Final = (f"{kube_router.PREFIX}pod-cidr", f"{kube_router.PREFIX}pod-cidrs")
"""Annotations of a node with its ranges of pods."""
_OF_SERVICE_PROXY: Final = tuple(
    f"{kube_router.PREFIX}service.{name}"
    for name in ("dsr", "scheduler", "schedflags", "hairpin", "hairpin.externalips")
)
"""Annotations of Services without effect if kube-proxy implements Services."""


def check_fields(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield a diagnostic for every field and annotation of the CNI plugin that is not enforced.

    Objects of kinds of other plugins are reported as a whole. Annotations of other plugins have no
    effect in a cluster either.
    """
    facts = cluster.get(NetworkFacts, "", "network") or NetworkFacts()
    if facts.plugin == _PLUGIN:
        for given in cluster.given.values():
            yield from _field_diagnostics(given.document)
    known = _ANNOTATIONS.get(facts.plugin)
    if known is None:
        return
    for node in cluster.all(Node):
        for key, value in node.metadata.annotations.items():
            is_unknown = key.startswith(known.prefix) and key not in known.nodes
            if is_unknown and not _is_harmless(node, key, value):
                yield _annotation_diagnostic(node, key, Scope(is_everything=True))
    unused = _OF_SERVICE_PROXY if facts.has_proxy else ()
    for service in cluster.all(Service):
        for key in service.metadata.annotations:
            if key.startswith(known.prefix) and key not in (*known.services, *unused):
                yield _annotation_diagnostic(service, key, Scope(services=(service.full_name,)))


def _field_diagnostics(document: JsonMapping) -> Iterator[Diagnostic]:
    kind = writable(document)
    for field in _FIELDS.get(kind, ()) if kind is not None else ():
        for path, value in _values(document, field.path):
            if value is None or value in field.harmless:
                continue
            yield Diagnostic(
                NOT_ENFORCED,
                str(document["kind"]),
                "",
                document["metadata"]["name"],
                path,
                f"{NOT_ENFORCED_ALTHOUGH} in a cluster {field.effect}",
                (),
                Scope(is_everything=True),
            )


def _is_harmless(node: Node, key: str, value: str) -> bool:
    """Return True for a value of an annotation that says what the lab does anyway."""
    if key in _OF_NODE_ADDRESS:
        return value.partition("/")[0] in node.addresses
    if key in _OF_POD_RANGES:
        return all(cidr in node.spec.pod_cidrs for cidr in kube_router.split(value))
    return False


def _annotation_diagnostic(owner: Node | Service, key: str, scope: Scope) -> Diagnostic:
    return Diagnostic.of(
        owner,
        NOT_ENFORCED,
        ("metadata", "annotations", key),
        f"{NOT_ENFORCED_ALTHOUGH} the CNI plugin uses this annotation in a cluster",
        scope=scope,
    )


def _values(part: object, path: Sequence[str], above: Path = ()) -> Iterator[tuple[Path, object]]:
    """Yield (path, value) of each field with a path in a document."""
    if not path:
        yield above, part
    elif path[0] == "*" and isinstance(part, list):
        for index, entry in enumerate(part):
            yield from _values(entry, path[1:], (*above, index))
    elif isinstance(part, Mapping) and path[0] in part:
        yield from _values(part[path[0]], path[1:], (*above, path[0]))
