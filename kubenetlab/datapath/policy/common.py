"""Parts that the policy engines share: digests in names, comments, addresses and ports."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab.api.values import ip
from kubenetlab.datapath.policy.members import PodGroup, PolicyPod
from kubenetlab.datapath.policy.rules import IsolatingPolicy, PolicyRule, PortName, PortRange
from kubenetlab.names import MAX_LOG_PREFIX

ISOLATED: Final = "isolated by network policies"
"""Comment of the rules that drop packets."""
PROTOCOL_NAMES: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
"""Number of a protocol → its name in nftables."""
_MAX_COMMENT: Final = 127
"""Maximum length of a comment that every rule backend stores, in bytes."""


def rule_comment(policy: IsolatingPolicy, entry: PolicyRule) -> str:
    """Return the comment of a rule: `default/web Ingress rule 0`; a long name is cut."""
    end = _rule_number(policy, entry)
    return f"{policy.title[: _MAX_COMMENT - len(end)]}{end}"


def rule_title(policy: IsolatingPolicy, entry: PolicyRule) -> str:
    """Return the name of a rule, as its comment, of any length."""
    return f"{policy.title}{_rule_number(policy, entry)}"


def _rule_number(policy: IsolatingPolicy, entry: PolicyRule) -> str:
    return f" {policy.direction} rule {entry.index}"


def isolation_reason(policies: Sequence[IsolatingPolicy]) -> str:
    """Return the reason of packets that the policies of a stage drop because no rule matches.

    Example: `Ingress isolated by default/web, default/deny`.
    """
    names = ", ".join(policy.title for policy in policies if policy.isolates)
    return f"{policies[0].direction} isolated by {names}"


def log_prefix(reason: str) -> str:
    """Return the text of logged packets; a long reason is cut, and its digest added.

    The digest leads to the whole reason (`drop_reasons`).
    """
    if len(reason) <= MAX_LOG_PREFIX:
        return reason
    end = f"... #{digest(reason)[:8]}"
    return f"{reason[: MAX_LOG_PREFIX - len(end)]}{end}"


def addresses(pods: Sequence[PolicyPod], version: int) -> Iterator[str]:
    """Yield the addresses of pods, of one IP version."""
    return (
        address for pod in pods for address in pod.addresses if ip.version_of(address) == version
    )


def named_port_keys(
    port: PortName, pods: Sequence[PolicyPod], version: int
) -> dict[tuple[str, str, int], None]:
    """Return (address, protocol, number) of the ports of all pods that have a name, in order."""
    return dict.fromkeys(
        (address, protocol.lower(), number)
        for pod in pods
        for name, protocol, number in pod.named_ports
        if (name, protocol) == (port.name, port.protocol)
        for address in addresses([pod], version)
    )


def ports_by_protocol(entry: PolicyRule) -> dict[str, tuple[PortRange, ...]]:
    """Return the ports of a rule by protocol, in lower case; () for all ports of a protocol."""
    result: dict[str, list[PortRange]] = {}
    for port in entry.ports:
        result.setdefault(port.protocol.lower(), []).append(port)
    return {
        protocol: () if any(port.is_all for port in ports) else tuple(ports)
        for protocol, ports in result.items()
    }


def port_text(port: PortRange, separator: str) -> str:
    """Return `80`, or a range such as `80-90`."""
    return str(port.first) if port.first == port.last else f"{port.first}{separator}{port.last}"


def is_everything(ranges: Sequence[str]) -> bool:
    """Return True if one of the ranges has all addresses, so that no match is needed."""
    return any(cidr.endswith("/0") for cidr in ranges)


def group_digest(group: PodGroup) -> str:
    """Return the digest of the selectors of a group."""
    expression = () if group.expression is None else (str(group.expression),)
    return digest(group.namespace, group.pods, group.namespaces, *expression)


def digest(*parts: str) -> str:
    """Return twelve hexadecimal digits for a name in the kernel."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
