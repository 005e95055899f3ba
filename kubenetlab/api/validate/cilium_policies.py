"""Validation of CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and CiliumCIDRGroup.

Source: cilium/cilium pkg/policy/api/rule_validation.go, pkg/policy/api/fqdn.go (1.18).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab.api.containers import MAX_PORT
from kubenetlab.api.meta import LabelSelector, LabelSelectorRequirement
from kubenetlab.api.policies.cilium_cidr_group import CiliumCIDRGroup
from kubenetlab.api.policies.cilium_labels import split_key
from kubenetlab.api.policies.cilium_network_policy import (
    CiliumCIDRRule,
    CiliumClusterwideNetworkPolicy,
    CiliumEgressDenyRule,
    CiliumEgressRule,
    CiliumFQDNSelector,
    CiliumICMPRule,
    CiliumIngressDenyRule,
    CiliumIngressRule,
    CiliumPolicy,
    CiliumPortDenyRule,
    CiliumPortProtocol,
    CiliumPortRule,
    CiliumRule,
    CiliumService,
)
from kubenetlab.api.policies.cilium_rules import (
    ICMP_TYPES,
    AnyCiliumRule,
    icmp_type,
    numbers_of,
    specifications,
)
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.api.validate.fields import validate_one_of
from kubenetlab.api.validate.metadata import validate_selector
from kubenetlab.api.validate.syntax import not_a_range, port_name_fault, subdomain_fault
from kubenetlab.api.values import ip
from kubenetlab.errors import did_you_mean

_NAME: Final = re.compile(r"[-a-zA-Z0-9_.]+", re.ASCII)
_PATTERN: Final = re.compile(r"(\*\*\.)?[-a-zA-Z0-9_.*]+", re.ASCII)
_MAX_NAME: Final = 255
_MAX_ICMP_TYPE: Final = 255


def validate_cilium_policy(policy: CiliumPolicy) -> Iterator[Finding]:
    """Validate a policy on its own; yield every finding."""
    if policy.spec is None and not policy.specs:
        yield Finding((), "must have spec or specs")
    is_clusterwide = isinstance(policy, CiliumClusterwideNetworkPolicy)
    for path, rule in specifications(policy):
        yield from _validate_rule(rule, path, is_clusterwide=is_clusterwide)


def validate_cidr_group(group: CiliumCIDRGroup) -> Iterator[Finding]:
    """Validate a group of ranges on its own; yield every finding."""
    for index, cidr in enumerate(group.spec.external_cidrs):
        if ip.range_of(cidr) is None:
            yield Finding(("spec", "externalCIDRs", index), not_a_range(cidr))


def _validate_rule(rule: CiliumRule, path: Path, *, is_clusterwide: bool) -> Iterator[Finding]:
    yield from _validate_subject(rule, path, is_clusterwide=is_clusterwide)
    if not (rule.ingress or rule.ingress_deny or rule.egress or rule.egress_deny):
        yield Finding(
            path,
            "must have at least one rule in ingress, ingressDeny, egress or egressDeny, found none",
            hints=("Cilium ignores such a policy; `ingress: [{}]` denies all connections to pods",),
        )
    for index, ingress in enumerate(rule.ingress):
        own: Path = (*path, "ingress", index)
        yield from _validate_ingress(ingress, own)
        yield from _validate_port_rules(ingress.to_ports, own, is_ingress=True)
    for index, ingress_deny in enumerate(rule.ingress_deny):
        yield from _validate_ingress(ingress_deny, (*path, "ingressDeny", index))
    for index, egress in enumerate(rule.egress):
        own = (*path, "egress", index)
        yield from _validate_egress(egress, own)
        yield from _validate_port_rules(egress.to_ports, own, is_ingress=False)
        for number, name in enumerate(egress.to_fqdns or ()):
            yield from _validate_name(name, (*own, "toFQDNs", number))
    for index, egress_deny in enumerate(rule.egress_deny):
        yield from _validate_egress(egress_deny, (*path, "egressDeny", index))


def _validate_subject(rule: CiliumRule, path: Path, *, is_clusterwide: bool) -> Iterator[Finding]:
    selectors = (rule.endpoint_selector, rule.node_selector)
    if selectors == (None, None):
        yield Finding(path, "must have one of endpointSelector and nodeSelector, found none")
    elif None not in selectors:
        yield Finding(path, "cannot have both endpointSelector and nodeSelector")
    if rule.node_selector is not None and not is_clusterwide:
        yield Finding(
            (*path, "nodeSelector"),
            "cannot be in a CiliumNetworkPolicy: use a CiliumClusterwideNetworkPolicy",
        )
    for field, selector in zip(("endpointSelector", "nodeSelector"), selectors, strict=True):
        if selector is not None:
            yield from _validate_selector(selector, (*path, field))


def _validate_ingress(
    rule: CiliumIngressRule | CiliumIngressDenyRule, path: Path
) -> Iterator[Finding]:
    yield from _validate_common(rule, path)
    for field, selectors in (
        ("fromEndpoints", rule.from_endpoints),
        ("fromRequires", rule.from_requires),
        ("fromNodes", rule.from_nodes),
    ):
        yield from _validate_selectors(selectors or (), (*path, field))
    yield from _validate_cidrs(rule.from_cidr or (), (*path, "fromCIDR"))
    yield from _validate_cidr_rules(rule.from_cidr_set or (), (*path, "fromCIDRSet"))


def _validate_egress(
    rule: CiliumEgressRule | CiliumEgressDenyRule, path: Path
) -> Iterator[Finding]:
    yield from _validate_common(rule, path)
    for field, selectors in (
        ("toEndpoints", rule.to_endpoints),
        ("toRequires", rule.to_requires),
        ("toNodes", rule.to_nodes),
    ):
        yield from _validate_selectors(selectors or (), (*path, field))
    yield from _validate_cidrs(rule.to_cidr or (), (*path, "toCIDR"))
    yield from _validate_cidr_rules(rule.to_cidr_set or (), (*path, "toCIDRSet"))
    for index, service in enumerate(rule.to_services or ()):
        yield from _validate_service(service, (*path, "toServices", index))


def _validate_common(rule: AnyCiliumRule, path: Path) -> Iterator[Finding]:
    """Yield findings about the combination of fields, and about ports and ICMP messages."""
    present = [name for name, peers in rule.peer_fields.items() if peers]
    for second in present[1:]:
        yield Finding((*path, second), f"cannot be combined with {present[0]} in one rule")
    if rule.icmps and rule.to_ports:
        yield Finding((*path, "icmps"), "cannot be combined with toPorts: use a rule of its own")
    to_ports: Sequence[CiliumPortRule | CiliumPortDenyRule] = rule.to_ports
    for index, entry in enumerate(to_ports):
        for number, port in enumerate(entry.ports):
            yield from _validate_port(port, (*path, "toPorts", index, "ports", number))
    for index, icmps in enumerate(rule.icmps):
        yield from _validate_icmps(icmps, (*path, "icmps", index))


def _validate_selectors(selectors: Sequence[LabelSelector], path: Path) -> Iterator[Finding]:
    for index, selector in enumerate(selectors):
        yield from _validate_selector(selector, (*path, index))


def _validate_selector(selector: LabelSelector, path: Path) -> Iterator[Finding]:
    """Validate a selector whose keys may begin with a source, such as `k8s:`."""
    keys = {split_key(key)[1]: key for key in selector.match_labels}
    plain = LabelSelector(
        {name: selector.match_labels[key] for name, key in keys.items()},
        tuple(
            LabelSelectorRequirement(split_key(each.key)[1], each.operator, each.values)
            for each in selector.match_expressions
        ),
    )
    for finding in validate_selector(plain, path):
        *above, last = finding.path
        yield Finding((*above, keys.get(str(last), last)), finding.message)


def _validate_cidrs(cidrs: Sequence[str], path: Path) -> Iterator[Finding]:
    for index, cidr in enumerate(cidrs):
        if ip.range_of(cidr) is None and not ip.is_address(cidr):
            yield Finding(
                (*path, index),
                f"expected a range such as 10.0.0.0/8, or an address, found {found(cidr)}",
            )


def _validate_cidr_rules(rules: Sequence[CiliumCIDRRule], path: Path) -> Iterator[Finding]:
    for index, rule in enumerate(rules):
        yield from validate_one_of(
            {
                "cidr": rule.cidr or None,
                "cidrGroupRef": rule.cidr_group_ref or None,
                "cidrGroupSelector": rule.cidr_group_selector,
            },
            (*path, index),
        )
        if rule.cidr_group_ref and (fault := subdomain_fault(rule.cidr_group_ref)):
            yield Finding((*path, index, "cidrGroupRef"), fault)
        if rule.cidr_group_selector is not None:
            # Labels of groups have no source, unlike those of pods.
            yield from validate_selector(
                rule.cidr_group_selector, (*path, index, "cidrGroupSelector")
            )
        whole = ip.range_of(rule.cidr)
        if rule.cidr and whole is None:
            yield Finding((*path, index, "cidr"), not_a_range(rule.cidr))
        for number, text in enumerate(rule.except_):
            part = ip.range_of(text)
            if part is None:
                yield Finding((*path, index, "except", number), not_a_range(text))
            elif whole is not None and not ip.is_part(part, whole):
                yield Finding(
                    (*path, index, "except", number), f"must be part of `cidr` {rule.cidr}"
                )


def _validate_port(entry: CiliumPortProtocol, path: Path) -> Iterator[Finding]:
    if not entry.port.isdecimal():
        if fault := port_name_fault(entry.port.lower()):
            yield Finding((*path, "port"), f"expected a port number or a port name: {fault}")
        elif entry.end_port:
            yield Finding((*path, "endPort"), "has no effect with a port name", is_warning=True)
        return
    first = int(entry.port)
    if first > MAX_PORT:
        yield Finding(
            (*path, "port"), f"expected a port number from 0 to {MAX_PORT}, found {first}"
        )
    elif 0 < entry.end_port < first:
        yield Finding(
            (*path, "endPort"),
            f"must be greater than or equal to `port` {first}, found {entry.end_port}",
        )


def _validate_icmps(rule: CiliumICMPRule, path: Path) -> Iterator[Finding]:
    for index, field in enumerate(rule.fields):
        number = icmp_type(field)
        if number is None:
            name = str(field.type)
            yield Finding(
                (*path, "fields", index, "type"),
                f"expected a number or a type of {field.family}, found "
                f"{found(name)}{did_you_mean(name, ICMP_TYPES[field.family])}",
            )
        elif not 0 <= number <= _MAX_ICMP_TYPE:
            yield Finding(
                (*path, "fields", index, "type"),
                f"expected a number from 0 to {_MAX_ICMP_TYPE}, found {number}",
            )


def _validate_port_rules(
    rules: Sequence[CiliumPortRule], path: Path, *, is_ingress: bool
) -> Iterator[Finding]:
    """Validate the part of ports that only allow rules have: requests on layer 7."""
    for index, entry in enumerate(rules):
        own: Path = (*path, "toPorts", index)
        protocols = entry.rules.protocols if entry.rules is not None else ()
        if is_ingress and entry.listener is not None:
            yield Finding((*own, "listener"), "not allowed in ingress rules")
        if entry.listener is not None and protocols:
            yield Finding((*own, "listener"), "cannot be combined with rules")
        if entry.server_names and protocols and entry.terminating_tls is None:
            yield Finding((*own, "serverNames"), "need terminatingTLS if there are rules")
        if entry.rules is None:
            continue
        if len(protocols) > 1:
            yield Finding(
                (*own, "rules"), f"must be of one protocol, found {' and '.join(protocols)}"
            )
        if entry.rules.l7 is not None and not entry.rules.l7proto:
            yield Finding((*own, "rules", "l7"), "needs l7proto")
        if entry.rules.dns is not None:
            yield from _validate_dns(entry, own, is_ingress=is_ingress)
        elif protocols:
            yield from _validate_layer_7_ports(entry.ports, own)


def _validate_dns(entry: CiliumPortRule, path: Path, *, is_ingress: bool) -> Iterator[Finding]:
    assert entry.rules is not None
    if is_ingress:
        yield Finding((*path, "rules", "dns"), "not allowed in ingress rules")
    if not entry.ports:
        yield Finding((*path, "ports"), "required with DNS rules: port 53 must be named")
    for number, port in enumerate(entry.ports):
        limits = numbers_of(port)
        if limits is not None and limits[0] != limits[1]:
            yield Finding((*path, "ports", number), "DNS rules need a single port")
    for number, rule in enumerate(entry.rules.dns or ()):
        selector = CiliumFQDNSelector(rule.match_name, rule.match_pattern)
        yield from _validate_name(selector, (*path, "rules", "dns", number))


def _validate_layer_7_ports(ports: Sequence[CiliumPortProtocol], path: Path) -> Iterator[Finding]:
    for number, port in enumerate(ports):
        if port.protocol != "TCP":
            yield Finding(
                (*path, "ports", number, "protocol"),
                f"must be TCP if there are rules other than DNS, found {port.protocol}",
            )
        if port.port == "0":
            yield Finding((*path, "ports", number, "port"), "cannot be 0 if there are rules")


def _validate_name(selector: CiliumFQDNSelector, path: Path) -> Iterator[Finding]:
    yield from validate_one_of(
        {
            "matchName": selector.match_name or None,
            "matchPattern": selector.match_pattern or None,
        },
        path,
    )
    for field, text, syntax in (
        ("matchName", selector.match_name, _NAME),
        ("matchPattern", selector.match_pattern, _PATTERN),
    ):
        if len(text) > _MAX_NAME:
            yield Finding((*path, field), f"expected at most {_MAX_NAME} characters")
        elif text and not syntax.fullmatch(text):
            kind = "a DNS name" if field == "matchName" else "a DNS name that may contain *"
            yield Finding((*path, field), f"expected {kind}, found {found(text)}")


def _validate_service(service: CiliumService, path: Path) -> Iterator[Finding]:
    yield from validate_one_of(
        {"k8sService": service.k8s_service, "k8sServiceSelector": service.k8s_service_selector},
        path,
    )
    if service.k8s_service is not None and not service.k8s_service.service_name:
        yield Finding((*path, "k8sService", "serviceName"), "required, but missing")
    if service.k8s_service_selector is not None:
        yield from _validate_selector(
            service.k8s_service_selector.selector, (*path, "k8sServiceSelector", "selector")
        )
