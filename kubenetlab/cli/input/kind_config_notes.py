"""Notes on what differs where a file that was written for kind is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kubenetlab.names import socket_address

if TYPE_CHECKING:
    from kubenetlab.api.config import ClusterConfig, PortMapping
    from kubenetlab.cli.input.manifests import Manifests

KIND_GROUP = "kind.x-k8s.io/"
_ANY = ("", "0.0.0.0", "::")


def kind_notes(given: Manifests) -> Iterator[str]:
    """Yield lines about what takes the place of kind's parts, and where published ports answer."""
    if given.config is None:
        return
    config = given.cluster_config
    if str(given.config.value.get("apiVersion", "")).startswith(KIND_GROUP):
        yield from _replaced_parts(given.config.value.get("networking") or {}, config)
    yield from _published_ports(config)


def _replaced_parts(networking: dict[str, object], config: ClusterConfig) -> Iterator[str]:
    if not config.networking.disable_default_cni and "cni" not in networking:
        yield "the CNI mode bridge takes the place of kindnet, kind's own; both route between the nodes' subnets and masquerade to the outside"
    if "kubeProxyMode" not in networking:
        yield "kube-proxy runs in the mode nftables, by default; kind's default is iptables (--proxy iptables)"


def _published_ports(config: ClusterConfig) -> Iterator[str]:
    """Say for each port that a node publishes where it answers, and how the machine itself can publish it."""
    host = config.external[0] if config.external else None
    published = [
        f"{_listening(mapping, host.addresses(config.networking.versions) if host is not None else ())} → {name}:{mapping.container_port}"
        for node, name in zip(config.nodes, config.node_names, strict=True)
        for mapping in node.extra_port_mappings
    ]
    if published and host is not None:
        machine = (
            "and on this machine" if config.uplink else "and with --uplink on this machine, too"
        )
        yield f"published ports answer on the external host {host.name}, {machine}: {', '.join(published)}"


def _listening(mapping: PortMapping, addresses: tuple[str, ...]) -> str:
    port = mapping.host_port or mapping.container_port
    at = addresses[0] if mapping.listen_address in _ANY and addresses else mapping.listen_address
    return f"{socket_address(at, port)}/{mapping.protocol}"
