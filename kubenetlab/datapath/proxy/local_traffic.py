"""Local traffic: packets that kube-proxy counts as those of pods.

The options detectLocalMode and detectLocal select them. Two rules depend on it. Traffic to a
cluster IP that is not local is masqueraded. Local traffic to an external address or a node port of
a Service with `externalTrafficPolicy: Local` goes to all endpoints, as if it were for the cluster
IP.

Source: k8s.io/kubernetes pkg/proxy/util/localdetector.go, cmd/kube-proxy/app/server_linux.go
(getLocalDetectors), pkg/proxy/apis/config/validation (validateDetectLocalConfiguration), 1.33.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from msgspec import Struct

from kubenetlab.api.meta import kubernetes_name
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.values import ip
from kubenetlab.datapath.modes import ModeOptions, PodNetwork
from kubenetlab.datapath.view import Family
from kubenetlab.hoststate.rules.nftables.statements import Match

LocalMode = Literal["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix", "none"]
_FIELDS: Final = {
    "BridgeInterface": "bridgeInterface",
    "InterfaceNamePrefix": "interfaceNamePrefix",
}
"""Mode → field of `detectLocal` that it needs."""
_MAX_INTERFACE_NAME: Final = 15


class DetectLocal(Struct, frozen=True, rename=kubernetes_name, forbid_unknown_fields=True):
    """Interface names, for the modes that need them."""

    bridge_interface: str = ""
    interface_name_prefix: str = ""


class Detector(Struct, frozen=True):
    """Match of local traffic of one address family on one node.

    Without a range and an interface nothing is local.
    """

    version: int
    cidr: str = ""
    """Range of the source address."""
    interface: str = ""
    """Interface by which packets arrive."""
    is_prefix: bool = False
    """True when `interface` is a prefix of names."""

    @property
    def is_implemented(self) -> bool:
        return bool(self.cidr or self.interface)

    def nft(self, *, is_local: bool) -> Match:
        """Return the match of nftables.

        The interface need not exist: it is matched by name.
        """
        if self.cidr:
            family = "ip6" if self.version == 6 else "ip"
            return Match(f"{family} saddr", self.cidr, is_negated=not is_local)
        return Match("iifname", f"{self.interface}{'*' * self.is_prefix}", is_negated=not is_local)

    def iptables(self, *, is_local: bool) -> str:
        """Return the match in iptables syntax, preceded by a space."""
        inverted = "" if is_local else "! "
        return (
            f" {inverted}-s {self.cidr}"
            if self.cidr
            else f" {inverted}-i {self.interface}{'+' * self.is_prefix}"
        )


class LocalTrafficOptions(ModeOptions, frozen=True):
    """Options that all proxy modes share.

    masqueradeAll: true | false
        Masquerade all traffic to cluster IPs, also that of pods. Default: false.
    detectLocalMode: ClusterCIDR | NodeCIDR | BridgeInterface | InterfaceNamePrefix | none
        Criterion for traffic of pods. ClusterCIDR: the source is in podSubnet. NodeCIDR: the
        source is in the node's part of podSubnet. BridgeInterface, InterfaceNamePrefix: the packet
        arrives by an interface that detectLocal names. none: never. Default: ClusterCIDR.
    detectLocal: {bridgeInterface: NAME} | {interfaceNamePrefix: PREFIX}
        Interface for the detectLocalMode of that name.
    """

    masquerade_all: bool = False
    """Masquerade all traffic to cluster IPs, also that of pods."""
    detect_local_mode: LocalMode = "ClusterCIDR"
    """Criterion by which traffic counts as traffic of pods; see the manual page."""
    detect_local: DetectLocal = DetectLocal()
    """Interface names for two of the modes."""

    def findings(self) -> Iterator[Finding]:
        """Yield the contradictions between the two options about pods."""
        mode, names = self.detect_local_mode, self.detect_local
        for needs, field in _FIELDS.items():
            name = (
                names.bridge_interface
                if needs == "BridgeInterface"
                else names.interface_name_prefix
            )
            path = ("detectLocal", field)
            if mode == needs and not name:
                yield Finding(path, f"required with detectLocalMode {mode}")
            elif mode != needs and name:
                yield Finding(
                    path, f"has no effect with detectLocalMode {mode}; it belongs to {needs}"
                )
            elif len(name) > _MAX_INTERFACE_NAME or any(
                char.isspace() or char in '/:"*+' for char in name
            ):
                expected = (
                    f"expected the name of an interface: at most {_MAX_INTERFACE_NAME} characters "
                    "without spaces, quotes, /, :, * and +"
                )
                yield Finding(path, f"{expected}, found {found(name)}")

    def detectors(self, network: PodNetwork, families: Sequence[Family]) -> tuple[Detector, ...]:
        """Return the detector of each address family of the pods.

        families: those of the node, used only by NodeCIDR.
        """
        names = self.detect_local
        pod_cidrs = {family.version: family.pod_cidr for family in families}
        versions = [(ip.version_of(cidr), cidr) for cidr in network.cluster_cidrs]
        match self.detect_local_mode:
            case "ClusterCIDR":
                return tuple(Detector(version, cidr) for version, cidr in versions)
            case "NodeCIDR":
                return tuple(Detector(version, pod_cidrs[version]) for version, _ in versions)
            case "BridgeInterface":
                return tuple(
                    Detector(version, interface=names.bridge_interface) for version, _ in versions
                )
            case "InterfaceNamePrefix":
                return tuple(
                    Detector(version, interface=names.interface_name_prefix, is_prefix=True)
                    for version, _ in versions
                )
            case "none":
                return tuple(Detector(version) for version, _ in versions)


def by_address(detector: Detector, family: Family, network: PodNetwork) -> str | None:
    """Return the range of sources that a detector matches on a node.

    This is for a proxy that sees packets on the pods' own links: there, exactly the packets with an
    address of the node's range come from a pod. None without a detector; empty when nothing
    matches.
    """
    if not detector.is_implemented:
        return None
    if detector.cidr:
        return detector.cidr
    known = (network.bridge, network.link_prefix) if detector.is_prefix else (network.bridge,)
    is_of_pods = any(
        name
        and (
            name.startswith(detector.interface)
            if detector.is_prefix
            else name == detector.interface
        )
        for name in known
    )
    if not is_of_pods:
        return ""
    if family.ranges == (family.pod_cidr,):
        return family.pod_cidr
    # The node has several ranges. A packet on the link of a pod with any pod's address is its own.
    return next(cidr for cidr in network.cluster_cidrs if ip.version_of(cidr) == family.version)
