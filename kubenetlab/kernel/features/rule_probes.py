"""Probes of the rule backends: nftables, iptables, BPF, ipset and IPVS.

Each probe loads rules like those of a lab into a scratch namespace.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from kubenetlab.hoststate.links.existing import LinkUp
from kubenetlab.hoststate.links.link import LOOPBACK
from kubenetlab.hoststate.rules.ipvs import RealServer, VirtualServer, update
from kubenetlab.kernel.features.detection import has_ipv6
from kubenetlab.kernel.features.scratch import enter_scratch_namespace, send_batch
from kubenetlab.kernel.namespaces import unshare
from kubenetlab.kernel.rules import ipset, iptables, ipvs, nftables

NFT_RULES: Final = {
    "nft nat": (
        "add chain ip t c { type nat hook postrouting priority 100 ; }",
        'add rule ip t c fib daddr type != local masquerade fully-random comment "a rule"',
    ),
    "nft log": (
        "add chain ip t c { type filter hook forward priority 0 ; }",
        'add rule ip t c counter log prefix "a policy" group 1 drop',
    ),
    "nft numgen": (
        "add chain ip t s",
        "add rule ip t s numgen random mod 2 vmap { 0 : drop, 1 : accept }",
    ),
    "nft vmap": (
        "add map ip t m { type ipv4_addr . inet_proto . inet_service : verdict ; "
        'comment "a map" ; }',
        "add chain ip t s",
        "add rule ip t s ip daddr . meta l4proto . th dport vmap @m",
        "add set ip t d { type ipv4_addr ; flags dynamic,timeout ; timeout 60s ; }",
        "add rule ip t s update @d { ip saddr }",
    ),
}
"""Feature → nft commands that use it, for table `t`."""
_IPTABLES_RULES: Final = (
    "*nat",
    ":T - [0:0]",
    "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully",
    '-A T -m comment --comment "a rule" -m addrtype --dst-type LOCAL -m tcp -p tcp --dport 80 '
    "-j DNAT --to-destination 192.0.2.1:80",
    "-A T -m statistic --mode random --probability 0.5 "
    "-m recent --name t --rcheck --seconds 60 --reap -j MARK --or-mark 0x4000",
    "COMMIT",
    "*filter",
    "-A FORWARD -m conntrack --ctstate NEW -j REJECT",
    '-A FORWARD -j NFLOG --nflog-prefix "a policy" --nflog-group 1',
    "-A FORWARD -p tcp -m multiport --dports 80,8080:8090 -j MARK --set-xmark 0x10000/0x10000",
    "COMMIT",
)


def nft_probe(family: str, *statements: str) -> Callable[[], None]:
    """Return a probe that loads nft commands into table `t` of a family."""

    def load() -> None:
        unshare.enter_new_namespaces()
        rules = nftables.open_loader()
        try:
            text = "".join(f"{statement}\n" for statement in ("add table ip t", *statements))
            rules.run_commands(
                text
                if family == "ip"
                else text.replace(" ip ", " ip6 ").replace("ipv4_addr", "ipv6_addr")
            )
        finally:
            rules.close()

    return load


def probe_iptables() -> None:
    """Load iptables rules with all matches and targets of kube-proxy and of policies."""
    unshare.enter_new_namespaces()
    loader = iptables.open_loader()
    try:
        loader.restore("ip", "".join(f"{line}\n" for line in _IPTABLES_RULES))
    finally:
        loader.close()


def probe_bpf() -> None:
    """Load the BPF programs and attach them to loopback."""
    from kubenetlab.hoststate.rules import bpf
    from kubenetlab.kernel.rules.bpf import open_loader

    unshare.enter_new_namespaces()
    loader = open_loader()
    try:
        loader.run(bpf.update((), [bpf.BpfPrograms("", (), bpf.LOOPBACK)]))
    finally:
        loader.close()


def probe_ipset() -> None:
    """Create sets of all types that kube-proxy and policies use, and rules that match them."""
    unshare.enter_new_namespaces()
    kinds = {
        "hash:ip": "dst",
        "hash:net": "dst",
        "hash:ip,port": "dst,dst",
        "hash:ip,port,ip": "dst,dst,src",
        "hash:ip,port,net": "dst,dst,src",
    }
    sets = {f"T-{kind}": (f"{kind} family inet", directions) for kind, directions in kinds.items()}
    sets["T-bitmap:port"] = ("bitmap:port range 0-65535", "dst")
    for loader, lines in (
        (
            ipset.open_loader(),
            [f"create {name} {description}" for name, (description, _) in sets.items()],
        ),
        (
            iptables.open_loader(),
            [
                "*filter",
                *(
                    f"-A INPUT -p tcp -m set --match-set {name} {directions}"
                    for name, (_, directions) in sets.items()
                ),
                "COMMIT",
            ],
        ),
    ):
        text = "".join(f"{line}\n" for line in lines)
        loader.restore(text) if isinstance(loader, ipset.Ipset) else loader.restore("ip", text)
        loader.close()


def probe_ipvs() -> None:
    """Create a virtual server with a real server, and check for the IPVS sysctls.

    The sysctls are missing in a user namespace. IPVS accepts an address only if a link is up.
    """
    send_batch([LinkUp("here", LOOPBACK).create(enter_scratch_namespace())])
    loader = ipvs.Ipvs()
    loader.run(
        update(
            [],
            [
                VirtualServer("", "tcp", "192.0.2.1", 80, "rr"),
                RealServer("", "tcp", "192.0.2.1", 80, "192.0.2.2", 8080),
            ],
        )
    )
    loader.close()
    if not Path("/proc/sys/net/ipv4/vs/conntrack").exists():
        raise OSError(
            "the sysctls net.ipv4.vs.… are missing: "
            "this is a user namespace, or the kernel lacks CONFIG_IP_VS_NFCT"
        )


def probe_ipv6() -> None:
    """Load the nft rules of a lab for IPv6."""
    if not has_ipv6():
        raise OSError("the kernel has no IPv6")
    nft_probe("ip6", *NFT_RULES["nft nat"], *NFT_RULES["nft vmap"])()
