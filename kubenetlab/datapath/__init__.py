"""What each component wants in the kernel: the store becomes kernel objects.

    fabric    switch, router, internet; each node as a machine with eth0
    cni       the node's bridge and routes; each pod's link, address and routes
    uplink    the router's way to the machine's own network
    load balancers  the router's ways to Services' addresses
    egress    masquerade to the outside
    hostports  nodes' ports that pods take
    proxy     Services
    programs  what runs in the containers

Everything a node has comes from its NodeView. What was computed for equal inputs is handed back as the very same value, so that
an unchanged namespace need not be looked at again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import structs

from kubenetlab import names
from kubenetlab.api.config import ClusterConfig, ExternalHost, Network
from kubenetlab.api.core import Event
from kubenetlab.api.environment import ConfigMap
from kubenetlab.api.kinds import STORED
from kubenetlab.api.lab import Decisions, NodeReport, Observed, Uplink
from kubenetlab.api.masquerade import CONFIG_MAP, MasqueradeConfig, masquerade_config
from kubenetlab.api.pods import Pod, is_of_job
from kubenetlab.api.store import Cluster
from kubenetlab.controllers import environment
from kubenetlab.controllers.killing import awaited
from kubenetlab.controllers.kube_proxy import is_kube_proxy
from kubenetlab.controllers.starting import is_anybody_starting
from kubenetlab.controllers.stopping import termination_of
from kubenetlab.controllers.volumes import file_text
from kubenetlab.datapath import balanced_ports, containers, egress, fabric, hostports, loadbalancers, modes, pods, uplink
from kubenetlab.datapath.hooks import hooks
from kubenetlab.datapath.memo import Memo
from kubenetlab.datapath.modes import CNI, PodNetwork, ServiceProxy
from kubenetlab.datapath.port_mappings import PublishedPort, published_ports
from kubenetlab.datapath.probes import ProbeSpec, probes
from kubenetlab.datapath.proxy_views import Duty, duty, informed, proxy_view
from kubenetlab.datapath.service_rules import service_rules
from kubenetlab.datapath.view import NodeView, PodView, by_itself, node_views, without_pods
from kubenetlab.errors import BugError
from kubenetlab.hoststate.object import Key, Object, Origin
from kubenetlab.hoststate.rules import Bundle, RuleSet
from kubenetlab.hoststate.sandbox import Settings, Sysctl
from kubenetlab.hoststate.state import Contents, HostState, contents_of

Wanted = tuple[tuple[Object, ...], Origin]
"""Objects that one layer wants for one subject."""


_LOOKED_AT = tuple(kind for kind in STORED if kind not in (Event, NodeReport, Observed))


def basis(cluster: Cluster) -> tuple[object, ...]:
    """What `plan` and `plan_probes` follow from: as long as these are the very same objects, so is what comes out.

    News are first for the controllers, and often change nothing that anybody else looks at; but for whether somebody is still starting.
    """
    return (*cluster.snapshot(_LOOKED_AT), is_anybody_starting(cluster))


def plan(cluster: Cluster, decisions: Decisions, memo: Memo | None = None) -> HostState:
    """Every kernel object that the lab should have, namespace by namespace: fabric, nodes, pods.

    Raises BugError when two layers want the same object differently; a single setting stands above the settings that all have.
    """
    memo = memo or Memo()
    networking = cluster.config.networking
    cni: CNI = modes.load("cni", *networking.cni_mode)
    nodes = node_views(cluster, decisions)
    is_starting = is_anybody_starting(cluster)
    wanted_proxy: ServiceProxy = modes.load("proxy", *networking.proxy_mode)
    wanted: dict[str, list[Wanted]] = {}

    def want(layer: Iterable[Wanted]) -> None:
        for objects, origin in layer:
            wanted.setdefault(objects[0].netns, []).append((objects, origin))

    neighbors = tuple(node.addresses for node in nodes if node.neighbors == "permanent")
    published = published_ports(cluster.config, {node.name: node.addresses for node in nodes})
    want(memo("fabric", _fabric, cluster.config.external, cluster.config.node_networks, neighbors, published))
    want(memo("load balancers", _load_balancers, loadbalancers.ways_in(cluster), tuple(own for node in nodes for own in node.addresses)))
    if (up := cluster.get(Uplink, "", "uplink")) is not None:
        want(memo("uplink", _uplink, up, published, cluster.config))
    want(memo("balanced ports", _balanced_ports, balanced_ports.balanced_ports(cluster)))
    masquerade = memo("masquerade", _masquerade, cluster.get(ConfigMap, *CONFIG_MAP))
    for node in nodes:
        want(memo(("node", node.name), _node, node, cni, masquerade))
        want(memo(("host ports", node.name), _host_ports, node))
        known = proxy_view(cluster, node.name)
        network = known.network(cni.network(node))
        mode: ServiceProxy = modes.load("proxy", *known.mode) if known.mode is not None else wanted_proxy
        proxy = mode.settled(len(known.services))
        rules = service_rules(memo, proxy, known, node, network)
        want(memo(("proxy", node.name), _proxy, without_pods(node), rules, proxy, network))
        for view, pod in _pods_of(cluster, node, memo):
            netns, setups = view.netns, _setups(memo, cluster, pod, view, decisions)
            want(memo(("pod", netns), _pod, node, view, cni, proxy))
            waits = is_starting and memo(("waits", netns), containers.asks_once, pod.spec, setups)
            told = duty(cluster, node.name, networking.proxy_mode[0]) if is_kube_proxy(pod) else None
            termination = termination_of(cluster, pod) if pod.is_terminating else None
            signalled = termination.signalled if termination is not None else ()
            want(memo(("programs", netns), _programs, view, pod, setups, waits, told, signalled))
    merged = {netns: memo(("contents", netns), _merge, netns, tuple(layers)) for netns, layers in wanted.items()}
    return HostState(
        {netns: contents for netns, (contents, _) in merged.items()}, {netns: origins for netns, (_, origins) in merged.items()}
    )


def plan_probes(cluster: Cluster, decisions: Decisions, memo: Memo) -> dict[str, tuple[ProbeSpec, ...]]:
    """What the kubelets ask, by sandbox."""
    wanted: dict[str, tuple[ProbeSpec, ...]] = {}
    for node in node_views(cluster, decisions):
        for view, pod in _pods_of(cluster, node, memo):
            netns, setups = view.netns, _setups(memo, cluster, pod, view, decisions)
            killed = tuple(awaited(cluster, pod))
            wanted[netns] = memo(("probes", netns), _probes, by_itself(node), view, pod, setups, killed)
    return {netns: specs for netns, specs in wanted.items() if specs}


def _setups(memo: Memo, cluster: Cluster, pod: Pod, view: PodView, decisions: Decisions) -> containers.Setups:
    """What a pod's containers run, which does not depend on how they fare."""
    netns, services = view.netns, containers.numeric_services(cluster, pod)
    ports = memo(("ports", netns), containers.numeric_target_ports, pod.labels, pod.spec, services)
    of_job = is_of_job(pod.metadata)
    files: dict[str, dict[str, str]] = {}
    for name, path in memo(("files", netns), containers.files_read, pod.spec):
        container = pod.container(name)
        if container is not None and (text := file_text(cluster, pod, container, path)) is not None:
            files.setdefault(name, {})[path] = text
    return memo(("setups", netns), containers.setups_of, pod.spec, pod.metadata.annotations, of_job, ports, decisions.real_commands, files)


def _fabric(
    external: tuple[ExternalHost, ...],
    node_networks: tuple[Network, ...],
    neighbors: tuple[tuple[str, ...], ...],
    published: tuple[PublishedPort, ...],
) -> tuple[Wanted, ...]:
    layers = [
        (tuple(fabric.switch(names.FABRIC_SWITCH, "0a:58:00:00:00:01")), Origin("fabric", "the wire between the nodes")),
        (tuple(fabric.switch(names.INTERNET_SWITCH, "0a:58:00:00:00:02")), Origin("fabric", "the internet")),
        *_by_namespace(fabric.router(node_networks, neighbors), Origin("fabric", "the router")),
    ]
    versions = [subnet.version for subnet in node_networks]
    for index, host in enumerate(external):  # the first is the client, who is to kind's nodes what the machine with Docker is
        layers += _by_namespace(fabric.external(host, versions, () if index else published), Origin("fabric", f"external host {host.name}"))
    return tuple(layers)


def _uplink(up: Uplink, published: tuple[PublishedPort, ...], config: ClusterConfig) -> tuple[Wanted, ...]:
    return tuple(_by_namespace(uplink.router(up, published, config), Origin("uplink", "the machine's own network")))


def _load_balancers(ways: tuple[loadbalancers.Way, ...], nodes: tuple[str, ...]) -> tuple[Wanted, ...]:
    return tuple(_by_namespace(loadbalancers.routes(ways, nodes), Origin("load balancer", "Services of type LoadBalancer")))


def _balanced_ports(ports: tuple[balanced_ports.BalancedPort, ...]) -> tuple[Wanted, ...]:
    return tuple(_by_namespace(balanced_ports.rules(ports), Origin("load balancer", "Services with ipMode Proxy")))


def _masquerade(config_map: ConfigMap | None) -> MasqueradeConfig | None:
    return masquerade_config(config_map) if config_map is not None else None


def _node(node: NodeView, cni: CNI, masquerade: MasqueradeConfig | None) -> tuple[Wanted, ...]:
    layers = [*_by_namespace(fabric.node(node), Origin("fabric", f"Node {node.name}"))]
    layers += _by_namespace(cni.node(node), Origin(_mode_name("cni", cni), f"Node {node.name}"))
    if cni.facts.has_network:
        layers += _by_namespace(egress.rules(node, masquerade), Origin("ip-masq-agent", f"Node {node.name}"))
    return tuple(layers)


def _host_ports(node: NodeView) -> tuple[Wanted, ...]:
    return tuple(_by_namespace(hostports.rules(node), Origin("cni portmap", f"Node {node.name}")))


def _pod(node: NodeView, pod: PodView, cni: CNI, proxy: ServiceProxy) -> tuple[Wanted, ...]:
    """What a pod needs, in its own namespace and in its node's."""
    return (
        *_by_namespace(pods.sandbox(node, pod), Origin("kubelet", f"Pod {pod.full_name}")),
        *_by_namespace(cni.pod(node, pod), Origin(_mode_name("cni", cni), f"Pod {pod.full_name}")),
        *_by_namespace(proxy.pod(node, pod), Origin(_mode_name("kube-proxy", proxy), f"Pod {pod.full_name}")),
    )


def _proxy(node: NodeView, added: tuple[RuleSet | Object, ...], proxy: ServiceProxy, network: PodNetwork) -> tuple[Wanted, ...]:
    origin = Origin(_mode_name("kube-proxy", proxy), f"Node {node.name}")
    here = (Bundle(node.netns, one) if isinstance(one, RuleSet) else structs.replace(one, netns=node.netns) for one in added)
    return tuple(_by_namespace((*proxy.node(node, network), *here), origin))


def _programs(
    view: PodView, pod: Pod, setups: containers.Setups, waits: bool, told: Duty | None, signalled: tuple[str, ...]
) -> tuple[Wanted, ...]:
    runs = containers.programs(view.netns, pod, setups, waits=waits, signalled=signalled)
    return tuple(_by_namespace((informed(run, told) for run in runs), Origin("kubelet", f"Pod {view.full_name}")))


def _probes(node: NodeView, view: PodView, pod: Pod, setups: containers.Setups, killed: tuple[str, ...]) -> tuple[ProbeSpec, ...]:
    return (*probes(node, view, pod, setups, killed), *hooks(node, view, pod, setups, killed))


def _pods_of(cluster: Cluster, node: NodeView, memo: Memo) -> Iterator[tuple[PodView, Pod]]:
    """The node's pods, with the environment of their containers resolved."""
    for view in node.pods:
        pod = cluster.get(Pod, view.namespace, view.name)
        if pod is not None:
            yield view, environment.resolved(cluster, pod) if memo(("refers", view.netns), environment.refers, pod.spec) else pod


def _by_namespace(objects: Iterable[Object], origin: Origin) -> Iterator[Wanted]:
    groups: dict[str, list[Object]] = {}
    for obj in objects:
        groups.setdefault(obj.netns, []).append(obj)
    for group in groups.values():
        yield tuple(group), origin


def _merge(netns: str, layers: tuple[Wanted, ...]) -> tuple[Contents, dict[Key, Origin]]:
    origins: dict[Key, Origin] = {}
    found: dict[Key, Object] = {}
    for objects, origin in layers:
        for obj in objects:
            other = found.get(obj.key)
            if other is not None and other != obj:
                raise BugError(f"{netns}: {origins[obj.key]} wants “{other}”, {origin} wants “{obj}”")
            found[obj.key] = obj
            origins[obj.key] = origin
    if said := {obj.path for obj in found.values() if isinstance(obj, Sysctl)}:
        found |= {key: obj.without(said) for key, obj in found.items() if isinstance(obj, Settings)}
    return contents_of(found.values()), origins


def _mode_name(component: str, mode: Any) -> str:
    return f"{component} {type(mode).__module__.rpartition('.')[2].replace('_', '-')}"
