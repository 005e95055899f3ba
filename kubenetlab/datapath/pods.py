"""The sandbox of a pod, and the files that the kubelet writes into its containers.

Source: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (hosts), pkg/kubelet/network/dns/dns.go
(resolv.conf).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from kubenetlab.api.pods import Pod
from kubenetlab.cni.capabilities import PodDns
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.sandboxes import loopback_and_sysctls
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.sandbox import Sandbox

MAX_NAMESERVERS, MAX_SEARCHES = 3, 32


class PodFiles(Struct, frozen=True):
    """Hostname and /etc files that the processes of a namespace see."""

    hostname: str
    hosts: str
    resolv_conf: str


def sandbox(node: NodeView, view: PodView) -> Iterator[Object]:
    """Yield the namespaces of one pod, as they are before CNI ADD."""
    if view.is_host_network:
        yield Sandbox(view.netns, hostname=view.hostname, shares=node.netns)
        return
    yield Sandbox(view.netns, hostname=view.hostname)
    yield from loopback_and_sysctls(view.netns, has_ipv6=node.has_ipv6)


def files(node: NodeView, view: PodView, pod: Pod) -> PodFiles:
    """Return the files of one pod, which depend only on the pod, its node and the cluster's DNS."""
    return PodFiles(
        view.hostname, _hosts(pod, node, view.hostname, view.addresses), _resolv_conf(pod, node)
    )


def node_files(node: NodeView) -> PodFiles:
    """Return the files of a node. Its resolv.conf is empty: it cannot resolve names."""
    return PodFiles(
        node.name,
        _hosts_head() + "".join(f"{address}\t{node.name}\n" for address in node.addresses),
        "",
    )


def host_files(hostname: str, addresses: Sequence[str]) -> PodFiles:
    """Return the files of an external host."""
    return PodFiles(
        hostname, _hosts_head() + "".join(f"{address}\t{hostname}\n" for address in addresses), ""
    )


def _hosts(pod: Pod, node: NodeView, hostname: str, addresses: Sequence[str]) -> str:
    names = [hostname]
    if pod.spec.subdomain:
        names.insert(0, f"{hostname}.{pod.spec.subdomain}.{pod.namespace}.svc.{node.dns_domain}")
    text = f"# Kubernetes-managed hosts file.\n{_hosts_head()}" + "".join(
        "\t".join([address, *names]) + "\n" for address in addresses
    )
    if pod.spec.host_aliases:
        text += "\n# Entries added by HostAliases.\n"
        text += "".join(
            "\t".join([alias.ip, *alias.hostnames]) + "\n" for alias in pod.spec.host_aliases
        )
    return text


def _hosts_head() -> str:
    return (
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::\tip6-localnet\n"
        "fe00::\tip6-mcastprefix\n"
        "fe00::1\tip6-allnodes\n"
        "fe00::2\tip6-allrouters\n"
    )


def _resolv_conf(pod: Pod, node: NodeView) -> str:
    dns = dns_settings(pod, node)
    lines = [f"search {' '.join(dns.searches)}"] if dns.searches else []
    lines += [f"nameserver {server}" for server in dns.servers]
    lines += [f"options {' '.join(dns.options)}"] if dns.options else []
    return "".join(line + "\n" for line in lines)


def dns_settings(pod: Pod, node: NodeView) -> PodDns:
    """Return the settings by dnsPolicy, followed by the entries of dnsConfig without duplicates."""
    policy = pod.spec.dns_policy
    if policy == "ClusterFirst" and pod.spec.host_network:
        policy = "Default"
    servers: list[str] = []
    searches: list[str] = []
    options: dict[str, str | None] = {}
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet"):
        servers = list(node.dns_addresses[:1])
        searches = [
            f"{pod.namespace}.svc.{node.dns_domain}",
            f"svc.{node.dns_domain}",
            node.dns_domain,
        ]
        options = {"ndots": "5"}
    config = pod.spec.dns_config
    servers = _merged(servers, config.nameservers)[:MAX_NAMESERVERS]
    searches = _merged(searches, config.searches)[:MAX_SEARCHES]
    options |= {option.name: option.value for option in config.options}
    texts = (name if value is None else f"{name}:{value}" for name, value in options.items())
    return PodDns(tuple(servers), tuple(searches), tuple(texts))


def _merged(first: Sequence[str], second: Sequence[str]) -> list[str]:
    return list(dict.fromkeys((*first, *second)))
