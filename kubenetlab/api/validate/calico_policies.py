"""Validation of Calico's policies, network sets and tiers.

Source: projectcalico/calico libcalico-go/lib/validator/v3/validator.go and the CEL rules of
api/pkg/apis/projectcalico/v3 (3.30).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab.api.calico.policies import (
    ENDS,
    PROTOCOLS,
    CalicoEntityRule,
    CalicoICMP,
    CalicoNetworkPolicy,
    CalicoNetworkPolicySpec,
    CalicoRule,
    CalicoServiceMatch,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    NetworkSet,
    Tier,
    port_range,
    protocol_number,
)
from kubenetlab.api.calico.selectors import has_global, parse_selector, selector_fault
from kubenetlab.api.policies.network_policy import DIRECTIONS, Direction
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.api.validate.fields import validate_unique
from kubenetlab.api.validate.syntax import not_a_range
from kubenetlab.api.values import ip
from kubenetlab.errors import did_you_mean
from kubenetlab.names import label_problem

_MAX_SELECTOR: Final = 1024
_PORT_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,128}", re.ASCII)
_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_POLICY_NAME: Final = re.compile(rf"({_LABEL}\.)?{_LABEL}", re.ASCII)
_WITH_PORTS: Final = tuple(PROTOCOLS[name] for name in ("TCP", "UDP", "SCTP"))
_ICMP_VERSIONS: Final = {PROTOCOLS["ICMP"]: 4, PROTOCOLS["ICMPv6"]: 6}
"""Number of a protocol → IP version of its packets."""
_RESERVED_TIERS: Final = (
    "adminnetworkpolicy",
    "baselineadminnetworkpolicy",
    "kube-admin",
    "kube-baseline",
)
"""Tiers in which Calico has ClusterNetworkPolicies and AdminNetworkPolicies."""
_TIER_ORDERS: Final = {"default": 1_000_000.0}
_NAMESPACE_LABEL: Final = "projectcalico.org/namespace"


def validate_calico_network_policy(policy: CalicoNetworkPolicy) -> Iterator[Finding]:
    """Validate Calico's NetworkPolicy on its own; yield every finding."""
    yield from _validate_policy(policy.name, policy.spec)
    for path, service in _services(policy.spec):
        if not service.name:
            yield Finding((*path, "name"), "required, but missing")


def validate_global_network_policy(policy: GlobalNetworkPolicy) -> Iterator[Finding]:
    """Validate a GlobalNetworkPolicy on its own; yield every finding."""
    spec = policy.spec
    yield from _validate_policy(policy.name, spec)
    yield from _validate_selector(spec.namespace_selector, ("spec", "namespaceSelector"))
    for path, service in _services(spec):
        for field, value in (("name", service.name), ("namespace", service.namespace)):
            if not value:
                yield Finding((*path, field), "required, but missing")
    for field, is_set in (("doNotTrack", spec.do_not_track), ("preDNAT", spec.pre_dnat)):
        if is_set and not spec.apply_on_forward:
            yield Finding(("spec", field), "requires `applyOnForward: true`")
    if spec.pre_dnat and spec.do_not_track:
        yield Finding(("spec", "preDNAT"), "cannot be combined with `doNotTrack`")
    if spec.pre_dnat and (spec.egress or "Egress" in spec.types):
        yield Finding(("spec", "preDNAT"), "the policy may not have egress rules")


def validate_network_set(networks: NetworkSet | GlobalNetworkSet) -> Iterator[Finding]:
    """Validate a set of networks on its own; yield every finding."""
    yield from _validate_nets(networks.spec.nets, ("spec", "nets"))
    if _NAMESPACE_LABEL in networks.labels:
        yield Finding(
            ("metadata", "labels", _NAMESPACE_LABEL), "Calico itself sets this label; remove it"
        )


def validate_tier(tier: Tier) -> Iterator[Finding]:
    """Validate a tier on its own; yield every finding."""
    if tier.name and (fault := label_problem(tier.name)):
        yield Finding(("metadata", "name"), fault)
    if tier.name in _RESERVED_TIERS:
        yield Finding(
            ("metadata", "name"),
            f'"{tier.name}" is the tier of ClusterNetworkPolicies and AdminNetworkPolicies',
        )
    order = _TIER_ORDERS.get(tier.name)
    if order is not None and tier.spec.order != order:
        yield Finding(("spec", "order"), f"the tier {tier.name} has order {order:.0f}")
    if order is not None and tier.spec.default_action != "Deny":
        yield Finding(
            ("spec", "defaultAction"), f"the tier {tier.name} has the default action Deny"
        )


def _validate_policy(name: str, spec: CalicoNetworkPolicySpec) -> Iterator[Finding]:
    """Validate what both kinds of policies have in common."""
    if name and not _POLICY_NAME.fullmatch(name):
        yield Finding(
            ("metadata", "name"),
            "expected lower-case letters, digits and -, after the name of the tier and a dot if "
            f"the tier is not default; found {found(name)}",
        )
    yield from _validate_tier_of(name, spec.tier)
    yield from _validate_selector(spec.selector, ("spec", "selector"))
    yield from _validate_selector(spec.service_account_selector, ("spec", "serviceAccountSelector"))
    for index, direction in enumerate(spec.types):
        if direction in spec.types[:index]:
            yield Finding(("spec", "types", index), f"{direction} is specified more than once")
    for direction in DIRECTIONS:
        for index, rule in enumerate(spec.rules(direction)):
            yield from _validate_rule(rule, direction, ("spec", direction.lower(), index))


def _validate_tier_of(name: str, tier: str) -> Iterator[Finding]:
    if tier in _RESERVED_TIERS:
        yield Finding(
            ("spec", "tier"),
            f'"{tier}" is the tier of ClusterNetworkPolicies and AdminNetworkPolicies',
        )
    elif fault := label_problem(tier):
        yield Finding(("spec", "tier"), fault)
    elif name and tier != "default" and not name.startswith(f"{tier}."):
        yield Finding(("metadata", "name"), f'expected "{tier}.…" for a policy of the tier {tier}')
    elif name and "." in name and not name.startswith(f"{tier}."):
        yield Finding(
            ("metadata", "name"),
            f'"{name.partition(".")[0]}." is not the name of the tier, which is {tier}',
        )


def _validate_selector(text: str, path: Path, *, allows_global: bool = False) -> Iterator[Finding]:
    """Validate a selector; an empty one is valid."""
    if len(text) > _MAX_SELECTOR:
        yield Finding(path, f"expected at most {_MAX_SELECTOR} characters, found {len(text)}")
    elif fault := selector_fault(text):
        yield Finding(path, f"invalid selector: {fault}")
    elif has_global(parsed := parse_selector(text)):
        if not allows_global:
            yield Finding(path, "global() can only be used in a namespaceSelector of a rule")
        elif str(parsed) != "global()":
            yield Finding(path, "global() cannot be combined with other expressions")


def _validate_rule(rule: CalicoRule, direction: Direction, path: Path) -> Iterator[Finding]:
    for field, protocol in (("protocol", rule.protocol), ("notProtocol", rule.not_protocol)):
        yield from _validate_protocol(protocol, rule.ip_version, (*path, field))
    number = rule.protocol_number
    for field, icmp in (("icmp", rule.icmp), ("notICMP", rule.not_icmp)):
        if icmp is not None:
            yield from _validate_icmp(icmp, number, (*path, field))
    versions: set[int] = set() if rule.ip_version is None else {rule.ip_version}
    for end in ENDS:
        entity, end_path = rule.end(end), (*path, end)
        yield from _validate_entity(entity, end_path)
        for field, ports in (("ports", entity.ports), ("notPorts", entity.not_ports)):
            yield from _validate_ports(ports, rule, (*end_path, field))
        for field, nets in (("nets", entity.nets), ("notNets", entity.not_nets)):
            net_path = (*end_path, field)
            yield from _validate_nets(nets, net_path, is_negated=field == "notNets")
            of_field = {ip.version_of(net) for net in nets if ip.range_of(net) is not None}
            if len(of_field | versions) > 1:
                yield Finding(
                    net_path,
                    f"the rule is about IPv{rule.ip_version}"
                    if rule.ip_version is not None
                    else "a rule cannot contain both IPv4 and IPv6 ranges",
                )
            versions |= of_field
        is_wrong_end = end == ("destination" if direction == "Ingress" else "source")
        if entity.services is not None and is_wrong_end:
            other = "source" if direction == "Ingress" else "destination"
            yield Finding(
                (*end_path, "services"), f"{direction.lower()} rules have services in `{other}`"
            )
    if rule.http is not None and direction == "Egress":
        yield Finding((*path, "http"), "not allowed in egress rules")


def _validate_protocol(
    protocol: int | str | None, version: int | None, path: Path
) -> Iterator[Finding]:
    number = protocol_number(protocol)
    if isinstance(protocol, str) and number is None:
        guess = did_you_mean(protocol, tuple(PROTOCOLS))
        known = ", ".join(PROTOCOLS)
        yield Finding(path, f"expected {known} or a number, found {found(protocol)}{guess}")
    needed = _ICMP_VERSIONS.get(number or 0)
    if needed is not None and version not in (None, needed):
        yield Finding(path, f"protocol {protocol} requires ipVersion {needed}, found {version}")


def _validate_icmp(icmp: CalicoICMP, protocol: int | None, path: Path) -> Iterator[Finding]:
    if protocol not in _ICMP_VERSIONS:
        yield Finding(path, "requires `protocol` to be ICMP or ICMPv6")
    if icmp.code is not None and icmp.type is None:
        yield Finding((*path, "code"), "may not be specified without `type`")


def _validate_entity(entity: CalicoEntityRule, path: Path) -> Iterator[Finding]:
    yield from _validate_selector(entity.selector, (*path, "selector"))
    yield from _validate_selector(entity.not_selector, (*path, "notSelector"))
    yield from _validate_selector(
        entity.namespace_selector, (*path, "namespaceSelector"), allows_global=True
    )
    if entity.service_accounts is not None:
        yield from _validate_selector(
            entity.service_accounts.selector, (*path, "serviceAccounts", "selector")
        )
    if entity.services is None:
        return
    others: dict[str, object] = {
        "nets": entity.nets,
        "notNets": entity.not_nets,
        "selector": entity.selector,
        "notSelector": entity.not_selector,
        "namespaceSelector": entity.namespace_selector,
        "serviceAccounts": entity.service_accounts,
    }
    if path[-1] == "destination":
        others |= {"ports": entity.ports, "notPorts": entity.not_ports}
    for field, value in others.items():
        if value:
            yield Finding((*path, "services"), f"cannot be combined with `{field}`")


def _services(spec: CalicoNetworkPolicySpec) -> Iterator[tuple[Path, CalicoServiceMatch]]:
    """Yield (path, value) of each reference to a Service."""
    for direction in DIRECTIONS:
        for index, rule in enumerate(spec.rules(direction)):
            for end in ENDS:
                if (service := rule.end(end).services) is not None:
                    path: Path = ("spec", direction.lower(), index, end, "services")
                    yield path, service


def _validate_ports(ports: Sequence[int | str], rule: CalicoRule, path: Path) -> Iterator[Finding]:
    number = rule.protocol_number
    if ports and number is not None and number not in _WITH_PORTS:
        yield Finding(path, f"protocol {rule.protocol} has no ports; use TCP, UDP or SCTP")
    elif number is None and any(port_range(port) is not None for port in ports):
        yield Finding(path, "ports by number require `protocol` to be TCP, UDP or SCTP")
    for index, port in enumerate(ports):
        limits = port_range(port)
        if limits is None:
            if not _PORT_NAME.fullmatch(str(port)) or not re.search("[a-zA-Z]", str(port)):
                yield Finding(
                    (*path, index),
                    "expected a port, a range such as 80:90, or the name of a port; "
                    f"found {found(port)}",
                )
        elif not all(1 <= each <= 65535 for each in limits):
            yield Finding((*path, index), f"expected ports from 1 to 65535, found {found(port)}")
        elif limits[0] > limits[1]:
            yield Finding((*path, index), f"the range ends before it begins: {found(port)}")


def _validate_nets(
    nets: Sequence[str], path: Path, *, is_negated: bool = False
) -> Iterator[Finding]:
    for index, net in enumerate(nets):
        if ip.range_of(net) is None:
            yield Finding((*path, index), not_a_range(net, "10.0.0.0/8 or fd00::/8"))
        elif is_negated and net.endswith("/0"):
            yield Finding((*path, index), "a rule without any address never matches")
    yield from validate_unique(nets, path)
