"""Validation of network policies.

Source: k8s.io/kubernetes pkg/apis/networking/validation/validation.go (1.33).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kubenetlab.api.policies.network_policy import (
    IPBlock,
    NetworkPolicy,
    NetworkPolicyPeer,
    NetworkPolicyPort,
)
from kubenetlab.api.text.decode import Finding
from kubenetlab.api.text.documents import Path
from kubenetlab.api.validate.metadata import validate_selector
from kubenetlab.api.validate.syntax import not_a_range, port_name_fault
from kubenetlab.api.values import ip


def validate_network_policy(policy: NetworkPolicy) -> Iterator[Finding]:
    """Validate a NetworkPolicy on its own; yield every finding."""
    spec = policy.spec
    yield from validate_selector(spec.pod_selector, ("spec", "podSelector"))
    for index, ingress in enumerate(spec.ingress):
        yield from _validate_ports(ingress.ports, ("spec", "ingress", index, "ports"))
        yield from _validate_peers(ingress.from_, ("spec", "ingress", index, "from"))
    for index, egress in enumerate(spec.egress):
        yield from _validate_ports(egress.ports, ("spec", "egress", index, "ports"))
        yield from _validate_peers(egress.to, ("spec", "egress", index, "to"))


def _validate_ports(ports: Sequence[NetworkPolicyPort], path: Path) -> Iterator[Finding]:
    for index, entry in enumerate(ports):
        port, end = entry.port, entry.end_port
        end_path = (*path, index, "endPort")
        if isinstance(port, str) and (fault := port_name_fault(port)):
            yield Finding((*path, index, "port"), fault)
        if end is None:
            continue
        if port is None:
            yield Finding(end_path, "may not be specified when `port` is not specified")
        elif isinstance(port, str):
            yield Finding(end_path, "may not be specified when `port` is non-numeric")
        elif end < port:
            yield Finding(end_path, f"must be greater than or equal to `port` {port}, found {end}")


def _validate_peers(peers: Sequence[NetworkPolicyPeer], path: Path) -> Iterator[Finding]:
    for index, peer in enumerate(peers):
        has_selector = peer.pod_selector is not None or peer.namespace_selector is not None
        if peer.ip_block is None and not has_selector:
            yield Finding(
                (*path, index),
                "must specify a peer: podSelector, namespaceSelector or ipBlock",
            )
        if peer.ip_block is not None and has_selector:
            yield Finding((*path, index), "may not specify both ipBlock and another peer")
        if peer.pod_selector is not None:
            yield from validate_selector(peer.pod_selector, (*path, index, "podSelector"))
        if peer.namespace_selector is not None:
            yield from validate_selector(
                peer.namespace_selector, (*path, index, "namespaceSelector")
            )
        if peer.ip_block is not None:
            yield from _validate_block(peer.ip_block, (*path, index, "ipBlock"))


def _validate_block(block: IPBlock, path: Path) -> Iterator[Finding]:
    whole = ip.range_of(block.cidr)
    if whole is None:
        yield Finding((*path, "cidr"), not_a_range(block.cidr))
    for index, text in enumerate(block.except_):
        part = ip.range_of(text)
        if part is None:
            yield Finding((*path, "except", index), not_a_range(text))
        elif whole is not None and (part == whole or not ip.is_part(part, whole)):
            yield Finding(
                (*path, "except", index),
                f"must be a strict subset of `cidr` {block.cidr}, found {text}",
            )
