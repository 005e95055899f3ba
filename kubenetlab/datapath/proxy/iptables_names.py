"""Names of kube-proxy's chains of iptables.

Source: k8s.io/kubernetes pkg/proxy/iptables/proxier.go (portProtoHash,
servicePortEndpointChainName).
"""

from __future__ import annotations

import base64
import hashlib

from kubenetlab.datapath.proxy.services import EndpointAddress, PortView


def service_chain(port: PortView) -> str:
    """Return kube-proxy's name of the chain of all endpoints: `KUBE-SVC-XPGD46QRK7WJZT7O`."""
    return f"KUBE-SVC-{_digest(port)}"


def local_chain(port: PortView) -> str:
    """Return kube-proxy's name of the chain of local endpoints: `KUBE-SVL-XPGD46QRK7WJZT7O`."""
    return f"KUBE-SVL-{_digest(port)}"


def external_chain(port: PortView) -> str:
    """Return kube-proxy's name of the chain for external addresses: `KUBE-EXT-XPGD46QRK7WJZT7O`."""
    return f"KUBE-EXT-{_digest(port)}"


def firewall_chain(port: PortView) -> str:
    """Return kube-proxy's name of the chain of source ranges: `KUBE-FW-XPGD46QRK7WJZT7O`."""
    return f"KUBE-FW-{_digest(port)}"


def endpoint_chain(port: PortView, endpoint: EndpointAddress) -> str:
    """Return kube-proxy's name of the chain of one endpoint: `KUBE-SEP-SXIVWICOYRO3J4NJ`."""
    return f"KUBE-SEP-{_digest(port, str(endpoint))}"


def _digest(port: PortView, endpoint: str = "") -> str:
    digest = hashlib.sha256(f"{port.title}{port.protocol}{endpoint}".encode()).digest()
    return base64.b32encode(digest[:10]).decode()
