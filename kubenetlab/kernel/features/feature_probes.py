"""What this machine's kernel can do, found out by doing it: each trial in scratch namespaces that vanish with the process that tried."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from kubenetlab.hoststate.link import LOOPBACK, Bridge, Dummy, LinkUp, Port, Veth
from kubenetlab.hoststate.rules.ipvs import RealServer, VirtualServer, update
from kubenetlab.hoststate.wire import Links
from kubenetlab.kernel import syscalls
from kubenetlab.kernel.features.detection import has_ipv6, try_sctp
from kubenetlab.kernel.features.probing import FeatureProbe
from kubenetlab.kernel.namespaces import unshare
from kubenetlab.kernel.netlink.monitor import Monitor
from kubenetlab.kernel.processes.permissions import (
    FILTERED_CALLS,
    HIDDEN_PROC,
    MOUNT_ROOT,
    ROOT_NOT_MOUNTED,
    has_mounted_root,
)
from kubenetlab.kernel.processes.privileges import confine
from kubenetlab.kernel.rules import ipset, iptables, ipvs, libbpf, nftables

_RULES: Final = {
    "nft nat": (
        "add chain ip t c { type nat hook postrouting priority 100 ; }",
        'add rule ip t c fib daddr type != local masquerade fully-random comment "a rule"',
    ),
    "nft numgen": (
        "add chain ip t s",
        "add rule ip t s numgen random mod 2 vmap { 0 : drop, 1 : accept }",
    ),
    "nft vmap": (
        'add map ip t m { type ipv4_addr . inet_proto . inet_service : verdict ; comment "a map" ; }',
        "add chain ip t s",
        "add rule ip t s ip daddr . meta l4proto . th dport vmap @m",
        "add set ip t d { type ipv4_addr ; flags dynamic,timeout ; timeout 60s ; }",
        "add rule ip t s update @d { ip saddr }",
    ),
}
"""Feature → what to load for it into a table."""
_IPTABLES: Final = (
    "*nat",
    ":T - [0:0]",
    "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully",
    '-A T -m comment --comment "a rule" -m addrtype --dst-type LOCAL -m tcp -p tcp --dport 80 -j DNAT --to-destination 192.0.2.1:80',
    "-A T -m statistic --mode random --probability 0.5 -m recent --name t --rcheck --seconds 60 --reap -j MARK --or-mark 0x4000",
    "COMMIT",
    "*filter",
    "-A FORWARD -m conntrack --ctstate NEW -j REJECT",
    "COMMIT",
)
_KERNEL: Final = "a kernel with {options}, as Debian's and Ubuntu's have"


_NO_PROC: Final = "namespaces can be made, but no /proc of their own can be mounted"
_NO_HOST_NAMES: Final = "namespaces can be made, but not given a host name"
_NO_PROC_IN_CHROOT: Final = f"{_NO_PROC}: {ROOT_NOT_MOUNTED}"
NAMESPACE_REMEDIES: Final = {
    _NO_PROC: HIDDEN_PROC,
    _NO_PROC_IN_CHROOT: MOUNT_ROOT,
    _NO_HOST_NAMES: FILTERED_CALLS,
}
"""Fault of the trial of namespaces → what to do."""


def _try_namespaces() -> None:
    unshare.leave(unshare.OF_LABS)
    try:
        syscalls.set_hostname(os.uname().nodename)
    except PermissionError:
        raise OSError(_NO_HOST_NAMES) from None
    _first_inside(lambda: None, _NO_PROC if has_mounted_root() else _NO_PROC_IN_CHROOT)


def _try_settings() -> None:
    """In the lab's own /proc, as there."""
    unshare.leave(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET)
    _first_inside(
        lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"),
        "they cannot be written below /proc/sys/net",
    )


def _first_inside(do: Callable[[], object], fault: str) -> None:
    """Does something as the first process of a new PID namespace, with a /proc of its own. Raises OSError with `fault` when it fails."""
    child = os.fork()
    if child == 0:
        try:
            unshare.keep_mounts_here()
            unshare.mount_proc()
            do()
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise OSError(fault)


def _try_bridge() -> None:
    links = _scratch_links()
    _batch([Bridge("here", "br", "0a:58:00:00:00:01").create(links)])


def _try_veth() -> None:
    links = _scratch_links()
    _batch(
        [
            Bridge("here", "br", "0a:58:00:00:00:01").create(links),
            Veth("here", "a", "0a:58:00:00:00:02", "here", "b").create(links),
            Port("here", "b", "br", "0a:58:00:00:00:03", alias="a port", is_hairpin=True).create(
                links
            ),
        ]
    )


def _batch(requests: Sequence[bytes]) -> None:
    from kubenetlab.kernel.netlink.rtnetlink import RouteSocket

    with RouteSocket() as route:
        refusals = route.batch(requests)
    if refusals:
        raise OSError(refusals[0].errno, str(refusals[0]))


def _rules(family: str, *statements: str) -> Callable[[], None]:
    def try_them() -> None:
        unshare.leave()
        rules = nftables.open_here()
        try:
            text = "".join(f"{statement}\n" for statement in ("add table ip t", *statements))
            rules.run(
                text
                if family == "ip"
                else text.replace(" ip ", " ip6 ").replace("ipv4_addr", "ipv6_addr")
            )
        finally:
            rules.close()

    return try_them


def _try_iptables() -> None:
    unshare.leave()
    loader = iptables.open_here()
    try:
        loader.restore("ip", "".join(f"{line}\n" for line in _IPTABLES))
    finally:
        loader.close()


def _try_bpf() -> None:
    """Every function of the kernel's that the programs call is there, and a link takes them."""
    from kubenetlab.hoststate.rules import bpf
    from kubenetlab.kernel.rules.bpf import open_here

    unshare.leave()
    loader = open_here()
    try:
        loader.run(bpf.update((), [bpf.BpfPrograms("", (), bpf.LOOPBACK)]))
    finally:
        loader.close()


def _try_dummy() -> None:
    links = _scratch_links()
    _batch([Dummy("here", "dummy0", "0a:58:00:00:00:01", "a dummy").create(links)])


def _try_ipset() -> None:
    """Sets of the kinds that kube-proxy has, and rules that ask them."""
    unshare.leave()
    kinds = {
        "hash:ip": "dst",
        "hash:ip,port": "dst,dst",
        "hash:ip,port,ip": "dst,dst,src",
        "hash:ip,port,net": "dst,dst,src",
    }
    words = {f"T-{kind}": (f"{kind} family inet", directions) for kind, directions in kinds.items()}
    words["T-bitmap:port"] = ("bitmap:port range 0-65535", "dst")
    for loader, lines in (
        (
            ipset.open_here(),
            [f"create {name} {description}" for name, (description, _) in words.items()],
        ),
        (
            iptables.open_here(),
            [
                "*filter",
                *(
                    f"-A INPUT -p tcp -m set --match-set {name} {way}"
                    for name, (_, way) in words.items()
                ),
                "COMMIT",
            ],
        ),
    ):
        text = "".join(f"{line}\n" for line in lines)
        loader.restore(text) if isinstance(loader, ipset.Ipset) else loader.restore("ip", text)
        loader.close()


def _try_ipvs() -> None:
    """A virtual server with a real one, and the settings, which a user namespace does not have.

    Where nothing is up no address is anybody's, and IPVS takes none.
    """
    _batch([LinkUp("here", LOOPBACK).create(_scratch_links())])
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
            "its settings net.ipv4.vs.… are missing: in a user namespace, or without CONFIG_IP_VS_NFCT"
        )


def _try_ipv6() -> None:
    if not has_ipv6():
        raise OSError("the kernel has no IPv6")
    _rules("ip6", *_RULES["nft nat"], *_RULES["nft vmap"])()


def _try_confinement() -> None:
    """What a real command is put behind: mounts that are read-only, and fewer rights."""
    unshare.leave(syscalls.CLONE_NEWNS)
    unshare.keep_mounts_here()
    syscalls.make_read_only("/")
    confine()


class _Links:
    """Indexes for one scratch namespace (hoststate.wire.Links)."""

    def __init__(self) -> None:
        self._indexes: dict[tuple[str, str], int] = {}

    def index(self, netns: str, link: str) -> int:
        return 1 if link == LOOPBACK else self._indexes[netns, link]

    def new_index(self, netns: str, link: str) -> int:
        self._indexes[netns, link] = index = 1000 + len(self._indexes)
        return index

    def namespace_fd(self, netns: str) -> int:
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _try_monitor() -> None:
    Monitor().close()


def _try_users() -> None:
    """Become another user, as servers do after their start."""
    if fault := unshare.leave(syscalls.CLONE_NEWNET, with_users=True):
        raise OSError(fault)
    os.setgroups([])
    os.setgid(1)
    os.setuid(1)


def _scratch_links() -> Links:
    unshare.leave()
    return _Links()


_NO_IPVS: Final = "kubeProxyMode: ipvs is not available"

TRIALS: Final = (
    FeatureProbe(
        "namespaces", _try_namespaces, "network, PID, mount, UTS and IPC, with a /proc of their own"
    ),
    FeatureProbe(
        "settings",
        _try_settings,
        "forwarding and the like, in new namespaces",
        "docker run --privileged",
    ),
    FeatureProbe(
        "bridge",
        _try_bridge,
        "switches: between the nodes, and on each of them",
        _KERNEL.format(options="CONFIG_BRIDGE"),
    ),
    FeatureProbe(
        "veth",
        _try_veth,
        "links of pods and nodes, as ports of a bridge",
        _KERNEL.format(options="CONFIG_VETH"),
    ),
    FeatureProbe(
        "nft nat",
        _rules("ip", *_RULES["nft nat"]),
        "masquerade",
        _KERNEL.format(options="CONFIG_NF_TABLES, CONFIG_NFT_NAT and CONFIG_NFT_MASQ"),
    ),
    FeatureProbe(
        "nft numgen",
        _rules("ip", *_RULES["nft numgen"]),
        "one endpoint of many",
        _KERNEL.format(options="CONFIG_NFT_NUMGEN"),
    ),
    FeatureProbe(
        "nft vmap",
        _rules("ip", *_RULES["nft vmap"]),
        "Services found by their address",
        _KERNEL.format(options="CONFIG_NF_TABLES"),
    ),
    FeatureProbe(
        "iptables",
        _try_iptables,
        "kube-proxy's mode of that name",
        _KERNEL.format(
            options="CONFIG_NFT_COMPAT and the matches and targets of CONFIG_NETFILTER_XT_…"
        ),
        without="kubeProxyMode: iptables is not available",
        programs=(iptables.PROGRAM,),
    ),
    FeatureProbe(
        "tc programs",
        _try_bpf,
        "Services by BPF programs (--proxy ebpf)",
        f"root of the machine, and {_KERNEL.format(options='CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_ACT and CONFIG_NET_CLS_BPF')}, 5.16 or newer",
        without="no lab with --proxy ebpf",
        programs=(libbpf.LIBRARY,),
    ),
    FeatureProbe(
        "dummy",
        _try_dummy,
        "the device kube-ipvs0 of kube-proxy's mode ipvs",
        f"sudo modprobe dummy; {_KERNEL.format(options='CONFIG_DUMMY')}",
        without=_NO_IPVS,
    ),
    FeatureProbe(
        "ipset",
        _try_ipset,
        "sets that rules ask, in kube-proxy's mode ipvs",
        _KERNEL.format(
            options="CONFIG_IP_SET, its hash and bitmap sets, and CONFIG_NETFILTER_XT_SET"
        ),
        without=_NO_IPVS,
        programs=(ipset.PROGRAM, iptables.PROGRAM),
    ),
    FeatureProbe(
        "ipvs",
        _try_ipvs,
        "the kernel's load balancer, kube-proxy's mode of that name",
        f"sudo modprobe ip_vs; {_KERNEL.format(options='CONFIG_IP_VS, CONFIG_IP_VS_RR and CONFIG_IP_VS_NFCT')}",
        without=_NO_IPVS,
    ),
    FeatureProbe(
        "SCTP",
        try_sctp,
        "Services and stand-ins by SCTP, beside TCP and UDP",
        f"sudo modprobe sctp; {_KERNEL.format(options='CONFIG_IP_SCTP')}",
        without="ports with protocol: SCTP are not served",
    ),
    FeatureProbe(
        "IPv6",
        _try_ipv6,
        "labs can be dual-stack, or have IPv6 alone",
        "boot without ipv6.disable=1; CONFIG_IPV6, CONFIG_NF_TABLES_IPV6",
        without="labs have IPv4 only",
    ),
    FeatureProbe(
        "drift",
        _try_monitor,
        "what others change in a lab is heard of at once",
        "in a container docker run --cap-add NET_BROADCAST",
        without="it is found by looking, within half a minute or more",
    ),
    FeatureProbe(
        "real commands",
        _try_confinement,
        "programs of this machine as containers, with its files read-only",
        "Linux 5.12 or newer",
        without="containers have their stand-ins only",
    ),
    FeatureProbe(
        "other users",
        _try_users,
        "programs in pods that change user (tcpdump, nginx, bird)",
        "a line USER:100000:65536 in /etc/subuid and in /etc/subgid, apart from other users' ranges",
        without="root is the only user in a lab, and programs that change user fail",
        programs=("newuidmap",),
        is_kept=False,
    ),
)
"""Later ones stand on what earlier ones try."""
