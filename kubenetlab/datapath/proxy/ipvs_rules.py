"""Sets and rules that a node has in the mode ipvs without any Service.

Source: k8s.io/kubernetes pkg/proxy/ipvs/{proxier.go writeIptablesRules(),ipset.go} (1.33).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kubenetlab.datapath.proxy.local_traffic import Detector
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.ipset import FAMILIES as SET_FAMILIES
from kubenetlab.hoststate.rules.ipset import MAX_NAME, Member, Set
from kubenetlab.hoststate.rules.iptables import FAMILIES, IptablesChain, Jump, comment

MASQUERADE_MARK: Final = "0x4000"
_MARKED: Final = f"{MASQUERADE_MARK}/{MASQUERADE_MARK}"
_PORTS: Final = "bitmap:port range 0-65535"

_SETS: Final[tuple[tuple[str, str, str], ...]] = (
    (
        "LOOP-BACK",
        "hash:ip,port,ip",
        "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose",
    ),
    ("CLUSTER-IP", "hash:ip,port", "Kubernetes service cluster ip + port for masquerade purpose"),
    (
        "EXTERNAL-IP",
        "hash:ip,port",
        "Kubernetes service external ip + port for masquerade and filter purpose",
    ),
    (
        "EXTERNAL-IP-LOCAL",
        "hash:ip,port",
        "Kubernetes service external ip + port with externalTrafficPolicy=local",
    ),
    ("LOAD-BALANCER", "hash:ip,port", "Kubernetes service lb portal"),
    (
        "LOAD-BALANCER-FW",
        "hash:ip,port",
        "Kubernetes service load balancer ip + port for load balancer with sourceRange",
    ),
    (
        "LOAD-BALANCER-LOCAL",
        "hash:ip,port",
        "Kubernetes service load balancer ip + port with externalTrafficPolicy=local",
    ),
    (
        "LOAD-BALANCER-SOURCE-IP",
        "hash:ip,port,ip",
        "Kubernetes service load balancer ip + port + source IP for packet filter purpose",
    ),
    (
        "LOAD-BALANCER-SOURCE-CIDR",
        "hash:ip,port,net",
        "Kubernetes service load balancer ip + port + source cidr for packet filter purpose",
    ),
    ("NODE-PORT-TCP", _PORTS, "Kubernetes nodeport TCP port for masquerade purpose"),
    (
        "NODE-PORT-LOCAL-TCP",
        _PORTS,
        "Kubernetes nodeport TCP port with externalTrafficPolicy=local",
    ),
    ("NODE-PORT-UDP", _PORTS, "Kubernetes nodeport UDP port for masquerade purpose"),
    (
        "NODE-PORT-LOCAL-UDP",
        _PORTS,
        "Kubernetes nodeport UDP port with externalTrafficPolicy=local",
    ),
    (
        "NODE-PORT-SCTP-HASH",
        "hash:ip,port",
        "Kubernetes nodeport SCTP port for masquerade purpose with type 'hash ip:port'",
    ),
    (
        "NODE-PORT-LOCAL-SCTP-HASH",
        "hash:ip,port",
        "Kubernetes nodeport SCTP port with externalTrafficPolicy=local with type 'hash ip:port'",
    ),
    ("HEALTH-CHECK-NODE-PORT", _PORTS, "Kubernetes health check node port"),
    ("IPVS-IPS", "hash:ip", "Kubernetes addresses on kube-ipvs0"),
)
"""(name without its prefix, type, comment of the rules that match it)"""
_COMMENTS: Final = {name: text for name, _, text in _SETS}

_JUMPS: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("nat", "OUTPUT", "KUBE-SERVICES", "kubernetes service portals"),
    ("nat", "PREROUTING", "KUBE-SERVICES", "kubernetes service portals"),
    ("nat", "POSTROUTING", "KUBE-POSTROUTING", "kubernetes postrouting rules"),
    ("filter", "FORWARD", "KUBE-PROXY-FIREWALL", "kube-proxy firewall rules"),
    ("filter", "FORWARD", "KUBE-FORWARD", "kubernetes forwarding rules"),
    ("filter", "INPUT", "KUBE-IPVS-FILTER", "kubernetes ipvs access filter"),
    ("filter", "INPUT", "KUBE-PROXY-FIREWALL", "kube-proxy firewall rules"),
    ("filter", "INPUT", "KUBE-NODE-PORT", "kubernetes health check rules"),
    ("filter", "OUTPUT", "KUBE-IPVS-OUT-FILTER", "kubernetes ipvs access filter"),
)
"""(table, built-in chain, chain, comment)"""
_PINGS: Final = {
    4: "-p icmp -m icmp --icmp-type echo-request",
    6: "-p ipv6-icmp -m icmp6 --icmpv6-type echo-request",
}
_LOOPBACKS: Final = {4: "127.0.0.0/8", 6: "::1/128"}


def set_name(version: int, name: str) -> str:
    """Return kube-proxy's name of a set: `KUBE-CLUSTER-IP`, `KUBE-6-CLUSTER-IP`."""
    return f"KUBE-{'' if version == 4 else '6-'}{name}"[:MAX_NAME]


def member(version: int, name: str, item: str) -> Member:
    """Return one member of a set."""
    return Member("", set_name(version, name), item)


def sets(netns: str, version: int) -> Iterator[Object]:
    """Yield all sets of one family without members."""
    for name, kind, _ in _SETS:
        yield Set(
            netns,
            set_name(version, name),
            kind if kind == _PORTS else f"{kind} family {SET_FAMILIES[version]}",
        )


def rules(netns: str, detector: Detector, *, is_all: bool) -> Iterator[Object]:
    """Yield the chains and the jumps to them.

    is_all: masquerade all traffic to cluster IPs.
    """
    family = FAMILIES[detector.version]
    for (table, name), lines in _chains(
        detector.version, _masqueraded(detector, is_all=is_all)
    ).items():
        yield IptablesChain(netns, family, table, name, lines)
    for table, built_in, chain, text in _JUMPS:
        yield Jump(netns, family, table, built_in, f"{comment(text)} -j {chain}")


def _masqueraded(detector: Detector, *, is_all: bool) -> tuple[str, str]:
    """Return the match of traffic to a cluster IP that is masqueraded: set directions, extra match.

    Without a detector, only packets with a cluster IP as their source are masqueraded: the
    addresses are on kube-ipvs0, so the node may use one as a source.
    """
    if is_all:
        return "dst,dst", ""
    return (
        ("dst,dst", detector.iptables(is_local=False))
        if detector.is_implemented
        else ("src,dst", "")
    )


def _chains(version: int, masqueraded: tuple[str, str]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return (table, name) → rules. `masqueraded` is the result of `_masqueraded`."""
    directions, outsiders = masqueraded

    def match_set(name: str, directions: str, protocol: str = "") -> str:
        of_protocol = f"-p {protocol} " if protocol else ""
        return (
            f"{of_protocol}{comment(_COMMENTS[name])} "
            f"-m set --match-set {set_name(version, name)} {directions}"
        )

    def node_ports(protocol: str, suffix: str, directions: str) -> tuple[str, str]:
        return (
            f"{match_set(f'NODE-PORT-LOCAL-{suffix}', directions, protocol)} -j RETURN",
            f"{match_set(f'NODE-PORT-{suffix}', directions, protocol)} -j KUBE-MARK-MASQ",
        )

    from_node, to_node = "-m addrtype --src-type LOCAL", "-m addrtype --dst-type LOCAL"
    return {
        ("nat", "KUBE-MARK-MASQ"): (f"-j MARK --or-mark {MASQUERADE_MARK}",),
        ("nat", "KUBE-LOAD-BALANCER"): (
            f"{match_set('LOAD-BALANCER-LOCAL', 'dst,dst')} {from_node} -j KUBE-MARK-MASQ",
            f"{match_set('LOAD-BALANCER-LOCAL', 'dst,dst')} -j RETURN",
            "-j KUBE-MARK-MASQ",
        ),
        ("nat", "KUBE-NODE-PORT"): (
            *node_ports("tcp", "TCP", "dst"),
            *node_ports("udp", "UDP", "dst"),
            *node_ports("sctp", "SCTP-HASH", "dst,dst"),
        ),
        ("nat", "KUBE-SERVICES"): (
            f"-s {_LOOPBACKS[version]} -j RETURN",
            f"{match_set('LOAD-BALANCER', 'dst,dst')} -j KUBE-LOAD-BALANCER",
            f"{match_set('CLUSTER-IP', directions)}{outsiders} -j KUBE-MARK-MASQ",
            f"{match_set('EXTERNAL-IP', 'dst,dst')} -j KUBE-MARK-MASQ",
            f"{match_set('EXTERNAL-IP', 'dst,dst')} {to_node} -j ACCEPT",
            f"{match_set('EXTERNAL-IP-LOCAL', 'dst,dst')} {from_node} -j KUBE-MARK-MASQ",
            f"{match_set('EXTERNAL-IP-LOCAL', 'dst,dst')} {to_node} -j ACCEPT",
            f"{to_node} -j KUBE-NODE-PORT",
            f"{match_set('CLUSTER-IP', 'dst,dst')} -j ACCEPT",
            f"{match_set('LOAD-BALANCER', 'dst,dst')} -j ACCEPT",
        ),
        ("nat", "KUBE-POSTROUTING"): (
            f"{match_set('LOOP-BACK', 'dst,dst,src')} -j MASQUERADE",
            f"-m mark ! --mark {_MARKED} -j RETURN",
            f"-j MARK --xor-mark {MASQUERADE_MARK}",
            f"{comment('kubernetes service traffic requiring SNAT')} -j MASQUERADE --random-fully",
        ),
        ("filter", "KUBE-NODE-PORT"): (f"{match_set('HEALTH-CHECK-NODE-PORT', 'dst')} -j ACCEPT",),
        ("filter", "KUBE-SOURCE-RANGES-FIREWALL"): (
            f"{match_set('LOAD-BALANCER-SOURCE-CIDR', 'dst,dst,src')} -j RETURN",
            f"{match_set('LOAD-BALANCER-SOURCE-IP', 'dst,dst,src')} -j RETURN",
            "-j DROP",
        ),
        ("filter", "KUBE-PROXY-FIREWALL"): (
            f"{match_set('LOAD-BALANCER-FW', 'dst,dst')} -j KUBE-SOURCE-RANGES-FIREWALL",
        ),
        ("filter", "KUBE-FORWARD"): (
            f"{comment('kubernetes forwarding rules')} -m mark --mark {_MARKED} -j ACCEPT",
            f"{comment('kubernetes forwarding conntrack rule')} "
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ),
        ("filter", "KUBE-IPVS-FILTER"): (
            *(
                f"{match_set(name, 'dst,dst')} -j RETURN"
                for name in ("LOAD-BALANCER", "CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL")
            ),
            f"{match_set('HEALTH-CHECK-NODE-PORT', 'dst')} -j RETURN",
            f"{_PINGS[version]} -j RETURN",
            f"-m conntrack --ctstate NEW {match_set('IPVS-IPS', 'dst')} -j REJECT",
        ),
        ("filter", "KUBE-IPVS-OUT-FILTER"): (),
    }
