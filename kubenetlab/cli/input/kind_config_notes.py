"""Notes about differences to kind, for configuration files written for kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kubenetlab.names import socket_address

if TYPE_CHECKING:
    from kubenetlab.api.config import ClusterConfig, PortMapping
    from kubenetlab.cli.input.manifests import Manifests

KIND_GROUP = "kind.x-k8s.io/"
_ANY = ("", "0.0.0.0", "::")


def kind_notes(manifests: Manifests) -> Iterator[str]:
    """Yield notes about replaced components of kind, and the addresses of published ports."""
    if manifests.config is None:
        return
    config = manifests.cluster_config
    if str(manifests.config.value.get("apiVersion", "")).startswith(KIND_GROUP):
        yield from _replaced_parts(manifests.config.value.get("networking") or {}, config)
    yield from _published_ports(config)


def _replaced_parts(networking: dict[str, object], config: ClusterConfig) -> Iterator[str]:
    from kubenetlab.datapath.modes import proxy_mode

    if not config.networking.disable_default_cni and "cni" not in networking:
        yield (
            "CNI mode bridge replaces kindnet; both route between the nodes' subnets "
            "and masquerade connections to the outside"
        )
    if "kubeProxyMode" not in networking and proxy_mode(config.networking)[0] == "nftables":
        yield "kube-proxy mode is nftables; the default of kind is iptables (--proxy iptables)"


def _published_ports(config: ClusterConfig) -> Iterator[str]:
    """Yield one note with the addresses of the ports that nodes publish."""
    host = config.external[0] if config.external else None
    addresses = host.addresses(config.networking.versions) if host is not None else ()
    published = [
        f"{_listening(mapping, addresses)} → {name}:{mapping.container_port}"
        for node, name in zip(config.nodes, config.node_names, strict=True)
        for mapping in node.extra_port_mappings
    ]
    if published and host is not None:
        machine = "and on this machine" if config.uplink else "and with --uplink on this machine"
        yield (
            f"published ports answer on the external host {host.name}, {machine}: "
            f"{', '.join(published)}"
        )


def _listening(mapping: PortMapping, addresses: tuple[str, ...]) -> str:
    port = mapping.host_port or mapping.container_port
    at = addresses[0] if mapping.listen_address in _ANY and addresses else mapping.listen_address
    return f"{socket_address(at, port)}/{mapping.protocol}"
