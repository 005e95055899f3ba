"""Run plugins of containernetworking/plugins for the pods of a lab without a network.

They are judges of the CNI modes whose daemons use them: kindnetd (`ptp`), kubenet (`bridge`) and
kube-router. The daemons do not run here, so their routes and rules are not compared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, structs

from tests.labs.kernel_listing import kernel_listing
from tests.labs.lab import Lab
from tests.labs.small_cluster import PODS, manifest, pod_namespaces
from tests.patience import patiently
from tests.upstream.builder import build
from tests.upstream.comparison import Findings, Named, findings
from tests.upstream.programs import CNI_PLUGINS

CONFIRMED_S: Final = 3.0
"""Time for the kernel to report the carrier of new links, in seconds."""
PROTOCOL: Final = Named(r" proto (static|boot)", "the routes have the protocol `static`")
MULTICAST: Final = Named(r" mcast_snooping 0$", "not snoop multicast")
BROADCAST: Final = Named(r" brd [\d.]+(?= dev )", "no broadcast address")
DETECTION: Final = "IPv6 addresses are used without duplicate address detection"
OF_EVERY_POD: Final = (
    BROADCAST,
    Named(r"(?<= scope global) nodad\b", DETECTION),
    Named(r".* sysctl net\.ipv6\.conf\..*\.(accept_dad|accept_ra) = 0", DETECTION),
    Named(
        r".* sysctl net\..*\.(arp_notify|keep_addr_on_down) = 1",
        "the sysctls arp_notify and keep_addr_on_down of eth0 in pods are not set",
    ),
    Named(
        r".* (address <link-local>/64|route fe80::/64) dev .*",
        "have link-local addresses, which the lab chooses",
    ),
)
"""Differences between the lab and every plugin."""


class Case(Struct, frozen=True):
    """CNI mode, and the configuration of the plugin that its daemon uses."""

    cni: str
    plugin: Mapping[str, Any]
    daemon: str
    """Regular expression for lines `[NAMESPACE] ENTRY` that the daemon makes, and no plugin."""
    named: tuple[Named, ...]
    routes: tuple[str, ...] = ()
    """Destinations that are passed to the IPAM plugin; empty: the plugin adds the default route."""
    ipam: Mapping[str, int] = {}
    """Options of host-local, as indices of addresses in the range of a node."""

    @property
    def mode(self) -> str:
        """CNI mode with its options, as in a Cluster document."""
        return json.dumps({"type": self.cni, "ipam": self.ipam} if self.ipam else self.cni)

    def range(self, cidr: str) -> dict[str, str]:
        """Return the configuration of host-local for a range."""
        network = ip_network(cidr)
        options = {name: str(network[number]) for name, number in self.ipam.items()}
        return {"subnet": cidr, **options}


def run_plugin(lab: Lab, node: Any, netns: str, config: Mapping[str, Any]) -> None:
    """Run the command ADD for a network namespace of /run/netns, in the network of a node.

    Raises NotAvailableError.
    """
    plugins = build(CNI_PLUGINS)
    lab.inside(
        node,
        "env",
        "CNI_COMMAND=ADD",
        f"CNI_CONTAINERID={netns}",
        f"CNI_NETNS=/run/netns/{netns}",
        "CNI_IFNAME=eth0",
        f"CNI_PATH={plugins}",
        str(plugins / config["type"]),
        stdin=json.dumps({"cniVersion": "1.0.0", **config}),
    )


def compare(case: Case, ours: Lab, theirs: Lab, folder: Path) -> Findings:
    """Compare a lab with a CNI mode with a lab in which the plugin has attached the pods.

    Both labs are made here. Raises NotAvailableError.
    """
    ours.up(manifest(case.mode, "dual"))
    theirs.up(manifest("none", "dual", has_pods=False))
    with pod_namespaces(theirs, ours) as namespaces:
        for pod, netns in namespaces.items():
            node = theirs.place("nodes", PODS[pod])
            ipam = {
                "type": "host-local",
                "dataDir": str(folder / node["name"]),
                "ranges": [[case.range(cidr)] for cidr in node["pod_cidrs"]],
                "routes": [{"dst": destination} for destination in case.routes],
            }
            config = {"name": "network", "mtu": 1500, **case.plugin, "ipam": ipam}
            run_plugin(theirs, node, netns, config)
        deadline = time.monotonic() + patiently(CONFIRMED_S)
        daemon = Named(case.daemon, "")
        while True:
            listings = kernel_listing(ours.name), kernel_listing(theirs.name)
            result = findings(*listings, (daemon, *case.named))
            if not result.unnamed or time.monotonic() > deadline:
                named = [name for name in result.named if name != daemon]
                return Findings(result.unnamed, named)


_DEFAULT_ROUTES: Final = ("0.0.0.0/0", "::/0")
_ROUTES_AND_RULES: Final = (
    r"\[node .*\] (route (10\.244\.\d\.0/24|fd00:10:244:.*/64) via .*|table [\s\S]*)"
    r"|\[node control-plane\] [\s\S]*"
)
_ADDRESS_OF_CBR0: Final = Named(
    r"\[node .*\] (address (10|fd00)\S+.* dev cbr0 .*|route \S+ dev cbr0 proto .*)",
    "packets from a node to its pods have the node's address as source",
)
_CASES: Final = {
    "ptp": Case(
        "ptp",
        {"type": "ptp"},
        _ROUTES_AND_RULES,
        (
            PROTOCOL,
            *OF_EVERY_POD,
            Named(r" scope (link|host)(?= src 172\.18\..*|$)", "those to pods the scope `link`"),
            Named(r" noprefixroute$", "Addresses of pods have the flag noprefixroute"),
        ),
        _DEFAULT_ROUTES,
    ),
    "bridge": Case(
        "bridge",
        {"type": "bridge", "bridge": "cbr0", "isGateway": True, "hairpinMode": True},
        _ROUTES_AND_RULES,
        (
            _ADDRESS_OF_CBR0,
            PROTOCOL,
            MULTICAST,
            *OF_EVERY_POD,
            Named(r"\bveth\d*\b", "The links of pods are numbered"),
        ),
        _DEFAULT_ROUTES,
    ),
    "kube-router": Case(
        "kube-router",
        {"type": "bridge", "bridge": "kube-bridge", "isDefaultGateway": True, "hairpinMode": True},
        _ROUTES_AND_RULES,
        (PROTOCOL, MULTICAST, *OF_EVERY_POD),
    ),
}
_OPTIONS: Final = {"rangeStart": 100, "rangeEnd": 120, "gateway": -2}
CASES: Final = _CASES | {
    f"{name}-host-local": structs.replace(_CASES[name], ipam=_OPTIONS) for name in ("ptp", "bridge")
}
