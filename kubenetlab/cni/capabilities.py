"""Facts about a pod by capability: `runtimeConfig` of the plugins that ask for them.

Source: containernetworking/cni CONVENTIONS.md, "Dynamic Plugin specific fields"; containerd
internal/cri/server/sandbox_run.go (cniNamespaceOpts); kubernetes pkg/util/bandwidth/utils.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from kubenetlab.api.json_types import JsonMapping, JsonObject
from kubenetlab.api.values.quantity import rounded_up

INGRESS_BANDWIDTH: Final = "kubernetes.io/ingress-bandwidth"
EGRESS_BANDWIDTH: Final = "kubernetes.io/egress-bandwidth"
_MIN_RATE: Final = 1_000
_MAX_RATE: Final = 10**15
_BURST: Final = 2**32 - 1
"""Burst of a limited pod, in bits: in effect none, as containerd sets it."""


class BandwidthError(ValueError):
    """An annotation is not a rate; the message is the kubelet's."""


class PortMapping(Struct, frozen=True, rename="camel"):
    """Port of the node that is forwarded to the pod."""

    host_port: int
    container_port: int
    protocol: str = "tcp"
    """Protocol in lower case."""
    host_ip: str = ""
    """Address of the node to which it applies; empty for all."""

    def to_document(self) -> JsonObject:
        """Return the mapping as plugins expect it."""
        document: JsonObject = {
            "hostPort": self.host_port,
            "containerPort": self.container_port,
            "protocol": self.protocol,
        }
        return document | ({"hostIP": self.host_ip} if self.host_ip else {})


class PodDns(Struct, frozen=True):
    """DNS settings of a pod: the content of its resolv.conf."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


POD_INTERFACE: Final = "eth0"
"""Name of the interface that plugins make in a pod."""


class PodSandbox(Struct, frozen=True):
    """Facts about a pod that plugins may need."""

    container_id: str
    """Identifier of the sandbox: it differs from that of a former sandbox of the same pod."""
    netns: str
    """Path of the network namespace in the mount namespace of the plugins; empty if it is gone."""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    ifname: str = POD_INTERFACE
    annotations: Mapping[str, str] = {}
    port_mappings: tuple[PortMapping, ...] = ()
    ips: tuple[str, ...] = ()
    """Addresses that the pod requests, with prefix length if it is known."""
    mac: str = ""
    """MAC address that the pod requests; empty for any."""
    dns: PodDns | None = None
    pod_cidrs: tuple[str, ...] = ()
    """Ranges of pod addresses of the node."""

    @property
    def arguments(self) -> tuple[tuple[str, str], ...]:
        """CNI_ARGS as the CRI plugins of containerd and CRI-O set them."""
        if not self.name:
            return ()
        return (
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", self.namespace),
            ("K8S_POD_NAME", self.name),
            ("K8S_POD_INFRA_CONTAINER_ID", self.container_id),
            ("K8S_POD_UID", self.uid),
        )


def capability_arguments(pod: PodSandbox) -> JsonObject:
    """Return the values of all capabilities that apply to a pod.

    Raises BandwidthError for an annotation that is not a rate.
    """
    values: JsonObject = {}
    if pod.port_mappings:
        values["portMappings"] = [mapping.to_document() for mapping in pod.port_mappings]
    if limits := bandwidth(pod.annotations):
        values["bandwidth"] = limits
    if pod.ips:
        values["ips"] = list(pod.ips)
    if pod.mac:
        values["mac"] = pod.mac
    if pod.dns is not None:
        fields = {"servers": pod.dns.servers, "searches": pod.dns.searches}
        fields["options"] = pod.dns.options
        values["dns"] = {key: list(items) for key, items in fields.items() if items}
    if pod.pod_cidrs:
        values["ipRanges"] = [[{"subnet": cidr}] for cidr in pod.pod_cidrs]
    if pod.annotations:
        values["io.kubernetes.cri.pod-annotations"] = dict(pod.annotations)
    return values


def bandwidth(annotations: Mapping[str, str]) -> JsonObject:
    """Return the limits of a pod in bit/s; nothing if it has none.

    The annotations are quantities in bit/s, such as `10M`.
    Raises BandwidthError for text that is not a rate from 1k to 1P.
    """
    limits: JsonObject = {}
    for annotation, direction in ((INGRESS_BANDWIDTH, "ingress"), (EGRESS_BANDWIDTH, "egress")):
        text = annotations.get(annotation)
        if text is not None:
            limits |= {f"{direction}Rate": _rate(annotation, text), f"{direction}Burst": _BURST}
    return limits


def runtime_config(capabilities: Sequence[str], values: JsonMapping) -> JsonObject:
    """Return the part of the values that a plugin has asked for."""
    return {name: values[name] for name in capabilities if name in values}


def _rate(annotation: str, text: str) -> int:
    try:
        amount = rounded_up(text)
    except ValueError:
        raise BandwidthError(f'{annotation}: expected a rate such as 10M, found "{text}"') from None
    if amount < _MIN_RATE:
        raise BandwidthError(f"{annotation}: resource is unreasonably small (< 1kbit): {text}")
    if amount > _MAX_RATE:
        raise BandwidthError(f"{annotation}: resource is unreasonably large (> 1Pbit): {text}")
    return amount
