"""Validation of ClusterNetworkPolicy, AdminNetworkPolicy and BaselineAdminNetworkPolicy.

Source: kubernetes-sigs/network-policy-api config/crd of 0.2.0 and 0.1.7.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab.api.meta import LabelSelector
from kubenetlab.api.policies.admin_network_policies import (
    BASELINE_NAME,
    AdminNetworkPolicy,
    AdminNetworkPolicyEgressRule,
    AdminNetworkPolicyIngressRule,
    AdminNetworkPolicyPort,
    BaselineAdminNetworkPolicy,
    BaselineAdminNetworkPolicyEgressRule,
    BaselineAdminNetworkPolicyIngressRule,
)
from kubenetlab.api.policies.cluster_network_policy import (
    ClusterNetworkPolicy,
    ClusterNetworkPolicyEgressPeer,
    ClusterNetworkPolicyEgressRule,
    ClusterNetworkPolicyIngressPeer,
    ClusterNetworkPolicyIngressRule,
    ClusterNetworkPolicyProtocol,
    ClusterNetworkPolicySubject,
    DestinationPort,
    NamespacedPod,
)
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.api.validate.fields import validate_one_of, validate_unique
from kubenetlab.api.validate.metadata import validate_selector
from kubenetlab.api.validate.syntax import not_a_range, port_name_fault
from kubenetlab.api.values import ip

_MAX_RULE_NAME: Final = 100
_LABEL: Final = r"[a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9])?"
_DOMAIN_NAME: Final = re.compile(rf"(\*\.)?({_LABEL}\.)+{_LABEL}\.?", re.ASCII)

_IngressRule = (
    ClusterNetworkPolicyIngressRule
    | AdminNetworkPolicyIngressRule
    | BaselineAdminNetworkPolicyIngressRule
)
_EgressRule = (
    ClusterNetworkPolicyEgressRule
    | AdminNetworkPolicyEgressRule
    | BaselineAdminNetworkPolicyEgressRule
)


def validate_cluster_network_policy(policy: ClusterNetworkPolicy) -> Iterator[Finding]:
    """Validate a ClusterNetworkPolicy on its own; yield every finding."""
    spec = policy.spec
    yield from _validate_policy(spec.subject, spec.ingress, spec.egress)
    protocols = (
        *(("ingress", index, rule.protocols) for index, rule in enumerate(spec.ingress)),
        *(("egress", index, rule.protocols) for index, rule in enumerate(spec.egress)),
    )
    for direction, index, entries in protocols:
        for number, entry in enumerate(entries):
            yield from _validate_protocol(entry, ("spec", direction, index, "protocols", number))


def validate_admin_network_policy(policy: AdminNetworkPolicy) -> Iterator[Finding]:
    """Validate an AdminNetworkPolicy on its own; yield every finding."""
    spec = policy.spec
    yield from _validate_policy(spec.subject, spec.ingress, spec.egress)
    yield from _validate_first_version(spec.subject, spec.ingress, spec.egress)


def validate_baseline_admin_network_policy(
    policy: BaselineAdminNetworkPolicy,
) -> Iterator[Finding]:
    """Validate a BaselineAdminNetworkPolicy on its own; yield every finding."""
    spec = policy.spec
    if policy.name not in ("", BASELINE_NAME):
        yield Finding(
            ("metadata", "name"),
            f'a cluster has only one {policy.kind}, with the name "{BASELINE_NAME}"; '
            f"found {found(policy.name)}",
        )
    yield from _validate_policy(spec.subject, spec.ingress, spec.egress)
    yield from _validate_first_version(spec.subject, spec.ingress, spec.egress)
    for index, rule in enumerate(spec.egress):
        for number, peer in enumerate(rule.to):
            if peer.domain_names:
                yield Finding(
                    ("spec", "egress", index, "to", number, "domainNames"),
                    f"a {policy.kind} has no domain names; use a ClusterNetworkPolicy",
                )


def _validate_first_version(
    subject: ClusterNetworkPolicySubject,
    ingress: Sequence[AdminNetworkPolicyIngressRule | BaselineAdminNetworkPolicyIngressRule],
    egress: Sequence[AdminNetworkPolicyEgressRule | BaselineAdminNetworkPolicyEgressRule],
) -> Iterator[Finding]:
    """Validate what differs in version v1alpha1: ports, and a required selector."""
    for path, selected in _selections(subject, ingress, egress):
        if selected.namespace_selector is None:
            yield Finding((*path, "namespaceSelector"), "required, but missing")
    ports = (
        *(("ingress", index, rule.ports) for index, rule in enumerate(ingress)),
        *(("egress", index, rule.ports) for index, rule in enumerate(egress)),
    )
    for direction, index, entries in ports:
        for number, entry in enumerate(entries):
            yield from _validate_port(entry, ("spec", direction, index, "ports", number))


def _validate_policy(
    subject: ClusterNetworkPolicySubject,
    ingress: Sequence[_IngressRule],
    egress: Sequence[_EgressRule],
) -> Iterator[Finding]:
    """Validate what all kinds have in common: subject, peers, names."""
    yield from _validate_selection(subject, ("spec", "subject"))
    for index, source_rule in enumerate(ingress):
        path: Path = ("spec", "ingress", index)
        yield from _validate_rule_name(source_rule.name, path)
        for number, source in enumerate(source_rule.from_):
            yield from _validate_selection(source, (*path, "from", number))
    for index, rule in enumerate(egress):
        path = ("spec", "egress", index)
        yield from _validate_rule_name(rule.name, path)
        for number, peer in enumerate(rule.to):
            yield from _validate_egress_peer(peer, rule.action, (*path, "to", number))
        yield from _validate_named_ports(rule, path)


def _validate_rule_name(name: str, path: Path) -> Iterator[Finding]:
    if len(name) > _MAX_RULE_NAME:
        yield Finding(
            (*path, "name"), f"expected at most {_MAX_RULE_NAME} characters, found {len(name)}"
        )


def _validate_selection(
    selection: ClusterNetworkPolicySubject | ClusterNetworkPolicyIngressPeer, path: Path
) -> Iterator[Finding]:
    yield from validate_one_of({"namespaces": selection.namespaces, "pods": selection.pods}, path)
    yield from _validate_selectors(selection.namespaces, selection.pods, path)


def _validate_selectors(
    namespaces: LabelSelector | None, pods: NamespacedPod | None, path: Path
) -> Iterator[Finding]:
    if namespaces is not None:
        yield from validate_selector(namespaces, (*path, "namespaces"))
    if pods is not None:
        yield from validate_selector(pods.pod_selector, (*path, "pods", "podSelector"))
        if pods.namespace_selector is not None:
            yield from validate_selector(
                pods.namespace_selector, (*path, "pods", "namespaceSelector")
            )


def _validate_egress_peer(
    peer: ClusterNetworkPolicyEgressPeer, action: str, path: Path
) -> Iterator[Finding]:
    yield from validate_one_of(
        {
            "namespaces": peer.namespaces,
            "pods": peer.pods,
            "nodes": peer.nodes,
            "networks": peer.networks or None,
            "domainNames": peer.domain_names or None,
        },
        path,
    )
    yield from _validate_selectors(peer.namespaces, peer.pods, path)
    if peer.nodes is not None:
        yield from validate_selector(peer.nodes, (*path, "nodes"))
    yield from validate_unique(peer.networks, (*path, "networks"))
    for index, cidr in enumerate(peer.networks):
        if ip.range_of(cidr) is None:
            message = not_a_range(cidr, "10.0.0.0/8 or fd00::/8")
            yield Finding((*path, "networks", index), message)
    if peer.domain_names and action not in ("Accept", "Allow"):
        yield Finding(
            (*path, "domainNames"),
            f"may only be used in a rule that accepts connections; the action is {action}",
        )
    yield from validate_unique(peer.domain_names, (*path, "domainNames"))
    for index, name in enumerate(peer.domain_names):
        if not _DOMAIN_NAME.fullmatch(name):
            yield Finding(
                (*path, "domainNames", index),
                "expected a DNS name with at least two labels, such as example.com or "
                f"*.example.com, found {found(name)}",
            )


def _validate_named_ports(rule: _EgressRule, path: Path) -> Iterator[Finding]:
    """Yield a finding for each peer that has no named ports, in a rule with a named port."""
    if isinstance(rule, ClusterNetworkPolicyEgressRule):
        field = "destinationNamedPort"
        has_name = any(entry.destination_named_port for entry in rule.protocols)
    else:
        field, has_name = "namedPort", any(entry.named_port for entry in rule.ports)
    if not has_name:
        return
    for number, peer in enumerate(rule.to):
        for name, value in (
            ("nodes", peer.nodes),
            ("networks", peer.networks or None),
            ("domainNames", peer.domain_names or None),
        ):
            if value is not None:
                yield Finding(
                    (*path, "to", number, name),
                    f"cannot be combined with {field}: only pods have named ports",
                )


def _validate_protocol(entry: ClusterNetworkPolicyProtocol, path: Path) -> Iterator[Finding]:
    matches = {"tcp": entry.tcp, "udp": entry.udp, "sctp": entry.sctp}
    yield from validate_one_of(
        matches | {"destinationNamedPort": entry.destination_named_port or None}, path
    )
    if entry.destination_named_port:
        yield from _warn_of_name(entry.destination_named_port, (*path, "destinationNamedPort"))
    for name, match in matches.items():
        if match is None:
            continue
        port_path = (*path, name, "destinationPort")
        if match.destination_port is None:
            yield Finding(port_path, "required, but missing")
        else:
            yield from _validate_destination_port(match.destination_port, port_path)


def _validate_destination_port(port: DestinationPort, path: Path) -> Iterator[Finding]:
    yield from validate_one_of({"number": port.number, "range": port.range}, path)
    if port.range is not None:
        yield from _validate_range(port.range.start, port.range.end, (*path, "range"))


def _validate_port(entry: AdminNetworkPolicyPort, path: Path) -> Iterator[Finding]:
    yield from validate_one_of(
        {
            "portNumber": entry.port_number,
            "namedPort": entry.named_port,
            "portRange": entry.port_range,
        },
        path,
    )
    if entry.named_port:
        yield from _warn_of_name(entry.named_port, (*path, "namedPort"))
    if entry.port_range is not None:
        yield from _validate_range(
            entry.port_range.start, entry.port_range.end, (*path, "portRange")
        )


def _warn_of_name(name: str, path: Path) -> Iterator[Finding]:
    """Yield a warning about the name of a port that no container can have."""
    if fault := port_name_fault(name):
        yield Finding(path, f"no container port can have this name: {fault}", is_warning=True)


def _validate_range(start: int, end: int, path: Path) -> Iterator[Finding]:
    if start >= end:
        yield Finding((*path, "end"), f"must be greater than `start` {start}, found {end}")


def _selections(
    subject: ClusterNetworkPolicySubject,
    ingress: Sequence[_IngressRule],
    egress: Sequence[_EgressRule],
) -> Iterator[tuple[Path, NamespacedPod]]:
    """Yield (path, value) of each selection of pods in a policy."""
    if subject.pods is not None:
        yield ("spec", "subject", "pods"), subject.pods
    for index, source_rule in enumerate(ingress):
        for number, source in enumerate(source_rule.from_):
            if source.pods is not None:
                yield ("spec", "ingress", index, "from", number, "pods"), source.pods
    for index, rule in enumerate(egress):
        for number, peer in enumerate(rule.to):
            if peer.pods is not None:
                yield ("spec", "egress", index, "to", number, "pods"), peer.pods
