"""Table of feature probes: each uses a feature of the kernel in scratch namespaces.

The namespaces end with the process of the probe.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.dummy import Dummy
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.links.vxlan import Vxlan
from kubenetlab.kernel import syscalls
from kubenetlab.kernel.features.detection import probe_sctp
from kubenetlab.kernel.features.overlay_probes import OVERLAY_PROBES
from kubenetlab.kernel.features.probing import FeatureProbe
from kubenetlab.kernel.features.rule_probes import (
    NFT_RULES,
    nft_probe,
    probe_bpf,
    probe_ipset,
    probe_iptables,
    probe_ipv6,
    probe_ipvs,
)
from kubenetlab.kernel.features.scratch import enter_scratch_namespace, send_batch
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
from kubenetlab.kernel.rules import ipset, iptables, libbpf

_KERNEL_WITH: Final = "a kernel with {options}, as Debian's and Ubuntu's have"


_NO_PROC: Final = "namespaces can be created, but their own /proc cannot be mounted"
_NO_HOST_NAMES: Final = "namespaces can be created, but their host name cannot be set"
_NO_PROC_IN_CHROOT: Final = f"{_NO_PROC}: {ROOT_NOT_MOUNTED}"
NAMESPACE_REMEDIES: Final = {
    _NO_PROC: HIDDEN_PROC,
    _NO_PROC_IN_CHROOT: MOUNT_ROOT,
    _NO_HOST_NAMES: FILTERED_CALLS,
}
"""Fault of the probe of namespaces → remedy."""


def _probe_namespaces() -> None:
    unshare.enter_new_namespaces(unshare.LAB_NAMESPACES)
    try:
        syscalls.set_hostname(os.uname().nodename)
    except PermissionError:
        raise OSError(_NO_HOST_NAMES) from None
    _run_as_pid_1(lambda: None, _NO_PROC if has_mounted_root() else _NO_PROC_IN_CHROOT)


def _probe_settings() -> None:
    """Write a sysctl in a /proc as labs mount it."""
    unshare.enter_new_namespaces(
        syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET
    )
    _run_as_pid_1(
        lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"),
        "sysctls below /proc/sys/net cannot be written",
    )


def _run_as_pid_1(action: Callable[[], object], fault: str) -> None:
    """Run `action` as PID 1 of the new PID namespace, with its own /proc.

    Raises OSError with the text `fault` if it fails.
    """
    child = os.fork()
    if child == 0:
        try:
            unshare.stop_mount_propagation()
            unshare.mount_proc()
            action()
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise OSError(fault)


def _probe_bridge() -> None:
    links = enter_scratch_namespace()
    send_batch([Bridge("here", "br", "0a:58:00:00:00:01").create(links)])


def _probe_vxlan() -> None:
    links = enter_scratch_namespace()
    bridge = Bridge("here", "br", "0a:58:00:00:00:01")
    tunnel = Vxlan("here", "vx", "0a:58:00:00:00:02", 1, 8472, "192.0.2.1", "br")
    send_batch([bridge.create(links), tunnel.create(links)])


def _probe_veth() -> None:
    links = enter_scratch_namespace()
    send_batch(
        [
            Bridge("here", "br", "0a:58:00:00:00:01").create(links),
            Veth("here", "a", "0a:58:00:00:00:02", "here", "b").create(links),
            Port("here", "b", "br", "0a:58:00:00:00:03", alias="a port", is_hairpin=True).create(
                links
            ),
        ]
    )


def _probe_dummy() -> None:
    links = enter_scratch_namespace()
    send_batch([Dummy("here", "dummy0", "0a:58:00:00:00:01", "a dummy").create(links)])


def _probe_confinement() -> None:
    """Apply what real commands are confined by: read-only mounts and fewer capabilities."""
    unshare.enter_new_namespaces(syscalls.CLONE_NEWNS)
    unshare.stop_mount_propagation()
    syscalls.make_read_only("/")
    confine()


def _probe_monitor() -> None:
    Monitor().close()


def _probe_users() -> None:
    """Switch to another user, as servers do after their start."""
    if fault := unshare.enter_new_namespaces(syscalls.CLONE_NEWNET, with_users=True):
        raise OSError(fault)
    os.setgroups([])
    os.setgid(1)
    os.setuid(1)


_NO_IPVS: Final = "kubeProxyMode: ipvs is not available"

PROBES: Final = (
    FeatureProbe(
        "namespaces",
        _probe_namespaces,
        "network, PID, mount, UTS and IPC, with a /proc of their own",
    ),
    FeatureProbe(
        "settings",
        _probe_settings,
        "forwarding and the like, in new namespaces",
        "docker run --privileged",
    ),
    FeatureProbe(
        "bridge",
        _probe_bridge,
        "switches: between the nodes, and on each of them",
        _KERNEL_WITH.format(options="CONFIG_BRIDGE"),
    ),
    FeatureProbe(
        "veth",
        _probe_veth,
        "links of pods and nodes, as ports of a bridge",
        _KERNEL_WITH.format(options="CONFIG_VETH"),
    ),
    FeatureProbe(
        "vxlan",
        _probe_vxlan,
        "tunnels between nodes (--cni flannel)",
        _KERNEL_WITH.format(options="CONFIG_VXLAN"),
        effect_if_missing="--cni flannel is not available, except with backend=host-gw",
    ),
    *OVERLAY_PROBES,
    FeatureProbe(
        "nft nat",
        nft_probe("ip", *NFT_RULES["nft nat"]),
        "masquerade",
        _KERNEL_WITH.format(options="CONFIG_NF_TABLES, CONFIG_NFT_NAT and CONFIG_NFT_MASQ"),
    ),
    FeatureProbe(
        "nft numgen",
        nft_probe("ip", *NFT_RULES["nft numgen"]),
        "one endpoint of many",
        _KERNEL_WITH.format(options="CONFIG_NFT_NUMGEN"),
    ),
    FeatureProbe(
        "nft vmap",
        nft_probe("ip", *NFT_RULES["nft vmap"]),
        "Services found by their address",
        _KERNEL_WITH.format(options="CONFIG_NF_TABLES"),
    ),
    FeatureProbe(
        "nft log",
        nft_probe("ip", *NFT_RULES["nft log"]),
        "dropped packets, for `kubenetlab policy log`",
        _KERNEL_WITH.format(options="CONFIG_NFT_LOG and CONFIG_NETFILTER_NETLINK_LOG"),
    ),
    FeatureProbe(
        "iptables",
        probe_iptables,
        "kube-proxy's mode and the policy engine of that name",
        _KERNEL_WITH.format(
            options="CONFIG_NFT_COMPAT and the matches and targets of CONFIG_NETFILTER_XT_…"
        ),
        effect_if_missing="kubeProxyMode and policyEngine: iptables are not available",
        programs=(iptables.PROGRAM,),
    ),
    FeatureProbe(
        "tc programs",
        probe_bpf,
        "Services by BPF programs (--proxy ebpf)",
        "root of the machine, and "
        + _KERNEL_WITH.format(
            options="CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_ACT and CONFIG_NET_CLS_BPF"
        )
        + ", 5.16 or newer",
        effect_if_missing="--proxy ebpf is not available",
        programs=(libbpf.LIBRARY,),
    ),
    FeatureProbe(
        "dummy",
        _probe_dummy,
        "the device kube-ipvs0 of kube-proxy's mode ipvs",
        f"sudo modprobe dummy; {_KERNEL_WITH.format(options='CONFIG_DUMMY')}",
        effect_if_missing=_NO_IPVS,
    ),
    FeatureProbe(
        "ipset",
        probe_ipset,
        "sets that rules match, in kube-proxy's mode ipvs and the policy engine iptables",
        _KERNEL_WITH.format(
            options="CONFIG_IP_SET, its hash and bitmap sets, and CONFIG_NETFILTER_XT_SET"
        ),
        effect_if_missing="kubeProxyMode: ipvs and policyEngine: iptables are not available",
        programs=(ipset.PROGRAM, iptables.PROGRAM),
    ),
    FeatureProbe(
        "ipvs",
        probe_ipvs,
        "the kernel's load balancer, kube-proxy's mode of that name",
        "sudo modprobe ip_vs; "
        + _KERNEL_WITH.format(options="CONFIG_IP_VS, CONFIG_IP_VS_RR and CONFIG_IP_VS_NFCT"),
        effect_if_missing=_NO_IPVS,
    ),
    FeatureProbe(
        "SCTP",
        probe_sctp,
        "Services and built-in programs with SCTP, besides TCP and UDP",
        f"sudo modprobe sctp; {_KERNEL_WITH.format(options='CONFIG_IP_SCTP')}",
        effect_if_missing="ports with protocol: SCTP are not served",
    ),
    FeatureProbe(
        "IPv6",
        probe_ipv6,
        "labs can be dual-stack, or have IPv6 alone",
        "boot without ipv6.disable=1; CONFIG_IPV6, CONFIG_NF_TABLES_IPV6",
        effect_if_missing="labs have IPv4 only",
    ),
    FeatureProbe(
        "drift",
        _probe_monitor,
        "changes that others make in a lab are detected at once",
        "in a container: docker run --cap-add NET_BROADCAST",
        effect_if_missing="drift is detected by scans, after half a minute or more",
    ),
    FeatureProbe(
        "real commands",
        _probe_confinement,
        "programs of this machine as containers, with its files read-only",
        "Linux 5.12 or newer",
        effect_if_missing="containers run built-in programs only",
    ),
    FeatureProbe(
        "other users",
        _probe_users,
        "programs in pods that change user (tcpdump, nginx, bird)",
        "a line USER:100000:65536 in /etc/subuid and /etc/subgid, "
        "with a range that no other user has",
        effect_if_missing="root is the only user in a lab, and programs that change user fail",
        programs=("newuidmap",),
        is_cached=False,
    ),
)
"""Probes of all features. Later ones use features that earlier ones probe."""
