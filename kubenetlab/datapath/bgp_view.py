"""BGPView: the BGP settings of a cluster that its nodes read from the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from kubenetlab.api.calico.as_numbers import parse_as_number
from kubenetlab.api.calico.bgp import (
    AS_NUMBER_ANNOTATION,
    CLUSTER_ID_ANNOTATION,
    DEFAULT_NAME,
    PLUGIN_NAMESPACE,
    BGPConfiguration,
    BGPConfigurationSpec,
    BGPPassword,
    BGPPeer,
    SecretKey,
)
from kubenetlab.api.calico.bgp_filters import BGPFilter
from kubenetlab.api.core import Node
from kubenetlab.api.environment import Secret as SecretObject
from kubenetlab.api.meta import Labels
from kubenetlab.api.plugins.kube_router import NodeSettings, node_settings, peer_passwords
from kubenetlab.api.store import Cluster
from kubenetlab.hoststate.secret import Secret

MAX_PASSWORD: Final = 80
"""Maximum length of a password, in bytes."""


EXCLUDED_LABEL: Final = "node.kubernetes.io/exclude-from-external-load-balancers"
"""Label of nodes that get no traffic for Services from outside."""


class BGPNode(Struct, frozen=True):
    """Settings of one node."""

    labels: Labels = {}
    """Labels, if a BGPPeer may select them."""
    as_number: int = 0
    """Own autonomous system; 0: that of the cluster."""
    cluster_id: str = ""
    """Id of its cluster if it is a route reflector; empty for other nodes."""
    is_excluded: bool = False
    """True if it announces no ranges of Services."""
    kube_router: NodeSettings = NodeSettings()
    """Settings of its annotations for kube-router."""
    passwords: tuple[Secret | None, ...] = ()
    """Passwords of the routers in these settings, in order; None for no password."""


class BGPView(Struct, frozen=True):
    """BGPConfigurations, BGPPeers, BGPFilters and passwords, in order of their names."""

    configuration: BGPConfigurationSpec = BGPConfigurationSpec()
    of_nodes: Mapping[str, BGPConfigurationSpec] = {}
    """Node → its own BGPConfiguration, for nodes that have one."""
    peers: tuple[BGPPeer, ...] = ()
    filters: Mapping[str, BGPFilter] = {}
    """Name → BGPFilter."""
    passwords: Mapping[tuple[str, str], Secret] = {}
    """(name of a Secret, key) → password, for those that exist."""

    def password(self, source: BGPPassword | None) -> Secret | None:
        """Return the password of sessions; None without one, or if its Secret is missing."""
        reference = source.secret_key_ref if source is not None else None
        return self.passwords.get((reference.name, reference.key)) if reference else None


NO_BGP: Final = BGPView()
"""View of a cluster without such objects."""
BGP_KINDS: Final = (BGPConfiguration, BGPPeer, BGPFilter, SecretObject)
"""Kinds from which the view is computed."""


def bgp_view(cluster: Cluster) -> BGPView:
    """Return the settings of a cluster."""
    configurations = cluster.all(BGPConfiguration)
    peers = tuple(sorted(cluster.all(BGPPeer), key=lambda peer: peer.name))
    if not configurations and not peers:
        return NO_BGP
    by_name = {each.name: each.spec for each in configurations}
    spec = by_name.get(DEFAULT_NAME, BGPConfigurationSpec())
    of_nodes = {each.node: each.spec for each in configurations if each.node}
    filters = {each.name: each for each in cluster.all(BGPFilter)}
    sources = [spec.node_mesh_password, *(peer.spec.password for peer in peers)]
    passwords = {}
    for reference in (source.secret_key_ref for source in sources if source is not None):
        if reference is not None and not password_fault(cluster, reference):
            secret = cluster.get(SecretObject, PLUGIN_NAMESPACE, reference.name)
            values = secret.values if secret is not None else {}
            passwords[reference.name, reference.key] = Secret(values[reference.key].encode())
    return BGPView(spec, of_nodes, peers, filters, passwords)


def password_fault(cluster: Cluster, reference: SecretKey) -> str:
    """Return why a Secret has no password that BIRD can use; empty if it has one.

    Source: include/uapi/linux/tcp.h TCP_MD5SIG_MAXKEYLEN; strings of bird.conf have no escapes.
    """
    secret = cluster.get(SecretObject, PLUGIN_NAMESPACE, reference.name)
    if secret is None:
        return f"there is no Secret {PLUGIN_NAMESPACE}/{reference.name}"
    if reference.key not in secret.values:
        known = ", ".join(secret.values) or "none"
        return f"Secret {reference.name} has no key {reference.key}; it has: {known}"
    value = secret.values[reference.key]
    is_usable = value.isascii() and value.isprintable() and '"' not in value
    if not is_usable or not 1 <= len(value) <= MAX_PASSWORD:
        return (
            f"the value of {reference.key} in Secret {reference.name} is no password: expected "
            f"1 to {MAX_PASSWORD} printable ASCII characters without quotation marks"
        )
    return ""


def bgp_node(node: Node, view: BGPView) -> BGPNode:
    """Return the settings of a node. Annotations are valid: the API refuses others."""
    annotations = node.metadata.annotations
    kube_router = node_settings(annotations)
    passwords = peer_passwords(annotations) if kube_router.peers else ()
    return BGPNode(
        node.labels if view.peers else {},
        parse_as_number(annotations.get(AS_NUMBER_ANNOTATION, "")) or 0,
        annotations.get(CLUSTER_ID_ANNOTATION, ""),
        EXCLUDED_LABEL in node.labels,
        kube_router,
        tuple(Secret(password) if password else None for password in passwords),
    )
