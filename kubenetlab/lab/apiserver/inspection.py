"""Data of `inspect`: every node, pod, external host and Service, with pids and paths.

`init_pid` and `agent_pid` are pids in the PID namespace of the machine; all other pids are in the
lab's own PID namespace. Paths in `netns` go through the root of init, where the lab's /proc is
mounted, so that they can be opened outside the lab.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from kubenetlab import names
from kubenetlab.api.core import Node, Service
from kubenetlab.api.faults import Fault
from kubenetlab.api.kinds import find_kind
from kubenetlab.api.lab import Uplink
from kubenetlab.api.meta import Resource
from kubenetlab.api.plugins.cni_agents import StoppedAgent
from kubenetlab.api.pods import Pod, is_of_job
from kubenetlab.api.segments import router_address, segment_networks, segment_of
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.cluster.kube_proxy import NAMESPACE
from kubenetlab.controllers.nodes.ipam import (
    attachment_of,
    gateways,
    network,
    node_ranges,
    pod_addresses,
    pod_ranges,
)
from kubenetlab.datapath import cluster_modes, modes
from kubenetlab.datapath.containers import assumed_ports, setups_of
from kubenetlab.datapath.network import bird
from kubenetlab.datapath.node_sources import node_sources
from kubenetlab.datapath.proxy.local_traffic import LocalTrafficOptions
from kubenetlab.datapath.proxy.services import PRIMARY
from kubenetlab.datapath.services.view import is_proxied
from kubenetlab.hoststate.programs import ListenPort, ProgramRun
from kubenetlab.programs import COMMAND

if TYPE_CHECKING:
    from kubenetlab.hoststate.state import HostState
    from kubenetlab.lab.agent.agent import Agent
    from kubenetlab.observe.inspection import (
        InspectedContainer,
        InspectedEndpoint,
        InspectedFault,
        InspectedPod,
        InspectedProxy,
        InspectedRouter,
        InspectedSandbox,
        InspectedService,
        Inspection,
    )


def inspection(agent: Agent) -> Inspection:
    """Return the document that `inspect -o json` prints."""
    cluster, pids = agent.cluster, agent.sandboxes.pids
    links = agent.builder.links
    versions = cluster.config.networking.versions
    uplink = cluster.get(Uplink, "", "uplink")
    desired = agent.desired_state.state_for(agent.cluster)

    def location(netns: str) -> InspectedSandbox:
        pid = pids.get(netns, 0)
        return {"pid": pid, "netns": links.path(pid) if pid else None, "sandbox": netns}

    ranges = {node.name: pod_ranges(cluster, node) for node in cluster.all(Node)}
    routers: list[InspectedRouter] = [
        {
            "name": netns.rpartition("/")[2],
            **location(netns),
            "addresses": [
                router_address(network, number)
                for network in segment_networks(cluster.config, _segment(cluster))
            ],
            "announced": bird.learned_routes(desired[netns].values()),
        }
        for number, netns in enumerate(names.ROUTERS[: cluster.config.fabric.routers], 1)
    ]
    return {
        "lab": agent.lab,
        "init_pid": links.init_pid,
        "agent_pid": links.outer_pid(os.getpid()),
        "run_directory": str(agent.directory),
        "cni": cluster.config.networking.cni_mode[0],
        "kube_proxy_mode": modes.proxy_mode(cluster.config.networking)[0],
        "service_proxy": _service_proxy(cluster),
        "policy_engine": cluster_modes.policy_engine(cluster.config.networking, agent.decisions)[0],
        "system_namespaces": _system_namespaces(cluster),
        "pod_layout": agent.decisions.cni_options.get("layout", ""),
        "neighbors": agent.decisions.neighbors,
        "nodes": [
            {
                "name": node.name,
                **location(names.node_netns(node.name)),
                "addresses": list(node.addresses),
                "pod_cidrs": node_ranges(cluster, node),
                "pod_addresses": pod_addresses(cluster, node),
                "gateways": gateways(cluster, node),
                "pod_sources": _pod_sources(cluster, node, desired, ranges),
                "node_port_addresses": _node_port_addresses(cluster, node),
                "ready": node.is_ready,
                "agent": _agent_state(cluster, node),
            }
            for node in cluster.all(Node)
        ],
        "pods": [
            _pod(agent, pod, desired, location(names.pod_netns(pod.namespace, pod.name, pod.uid)))
            for pod in cluster.all(Pod)
        ],
        "external": [
            {
                "name": host.name,
                **location(names.external_netns(host.name)),
                "addresses": list(host.addresses(versions)),
                "ports": list(host.ports),
            }
            for host in cluster.config.external
        ],
        "services": [_service(agent, service) for service in cluster.all(Service)],
        "router": routers[0],
        "other_routers": routers[1:],
        "uplink": list(uplink.router) if uplink is not None else [],
        "faults": summarize_faults(cluster),
    }


def _pod_sources(
    cluster: Cluster, node: Node, desired: HostState, ranges: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return the source addresses of a node's packets to pods of other nodes.

    ranges: ranges of the pods of each node.
    """
    others = [cidr for name, own in ranges.items() if name != node.name for cidr in own]
    objects = list(desired[names.node_netns(node.name)].values())
    return [
        address
        for version in cluster.config.networking.versions
        for address in node_sources(objects, ranges[node.name], others, version)
    ]


def _service_proxy(cluster: Cluster) -> InspectedProxy:
    proxy = cluster_modes.service_proxy(cluster.config.networking)
    return {
        "detect_local_mode": proxy.detect_local_mode
        if isinstance(proxy, LocalTrafficOptions)
        else "",
        "dsr": bool(getattr(proxy, "dsr", False)),
    }


def _node_port_addresses(cluster: Cluster, node: Node) -> list[str]:
    """Return the addresses of a node at which node ports answer, of those that others know."""
    proxy = cluster_modes.service_proxy(cluster.config.networking)
    option: Sequence[str] = getattr(proxy, "node_port_addresses", ())
    if not option or PRIMARY in option:
        return list(node.addresses)
    ranges = [ip_network(text, strict=False) for text in option]
    return [
        address
        for address in node.addresses
        if any(ip_address(address) in range_ for range_ in ranges)
    ]


def _segment(cluster: Cluster) -> int:
    """Return the number of the first node's segment."""
    node = next(iter(cluster.all(Node)), None)
    return segment_of(cluster.config, node.addresses[0]) if node is not None else 0


def _system_namespaces(cluster: Cluster) -> list[str]:
    agent = network(cluster).agent
    return list(dict.fromkeys((NAMESPACE, *((agent.namespace,) if agent is not None else ()))))


def _agent_state(cluster: Cluster, node: Node) -> str:
    if network(cluster).agent is None:
        return ""
    return "running" if cluster.get(StoppedAgent, "", node.name) is None else "stopped"


def summarize_faults(cluster: Cluster) -> list[InspectedFault]:
    """Return name, kind and summary of each fault that was created with `break`."""
    return [
        {"name": fault.name, "fault": fault.spec.fault, "summary": fault.spec.summary}
        for fault in cluster.all(Fault)
    ]


def _pod(agent: Agent, pod: Pod, desired: HostState, location: InspectedSandbox) -> InspectedPod:
    attachment = attachment_of(agent.cluster, pod)
    runs = {
        obj.container: obj
        for obj in desired[location["sandbox"]].values()
        if isinstance(obj, ProgramRun)
    }
    setups = setups_of(
        pod.spec,
        pod.metadata.annotations,
        is_of_job(pod.metadata),
        (),
        agent.decisions.real_commands,
    )
    assumed = assumed_ports(agent.cluster, pod)
    containers = [
        _container(
            container.name,
            agent.runtime.pid(location["sandbox"], container.name),
            runs.get(container.name),
            assumed.get(container.name, ()),
            is_real=setups[container.name].program == COMMAND,
        )
        for container in pod.spec.all_containers
    ]
    return {
        "namespace": pod.namespace,
        "name": pod.name,
        "node": pod.spec.node_name,
        **location,
        "addresses": list(pod.addresses),
        "host_network": pod.spec.host_network,
        "workload": _workload(agent.cluster, pod),
        "host_ifname": attachment.host_ifname if attachment else None,
        "phase": pod.status.phase,
        "ready": pod.is_ready,
        "containers": containers,
    }


def _container(
    name: str,
    pid: int | None,
    run: ProgramRun | None,
    assumed: Collection[ListenPort],
    *,
    is_real: bool,
) -> InspectedContainer:
    """Return a container with its program and its ports; empty values if it does not run.

    assumed: ports that no manifest declares.
    """
    listeners = run.listeners if run is not None else ()
    return {
        "name": name,
        "pid": pid,
        "ports": list(dict.fromkeys(listener.port for listener in listeners)),
        "listening": list(
            dict.fromkeys(f"{listener.port}/{listener.protocol}" for listener in listeners)
        ),
        "assumed_ports": [str(listener) for listener in listeners if listener in assumed],
        "program": run.program if run is not None else None,
        "real": is_real,
    }


def _workload(cluster: Cluster, pod: Pod) -> str | None:
    """Return the topmost owner of a pod, such as `Deployment/web`; None for a pod without owner."""
    owner: Resource = pod
    while owner.metadata.owner_references:
        reference = owner.metadata.owner_references[0]
        kind = find_kind(reference.kind)
        parent = cluster.get(kind, owner.namespace, reference.name) if kind is not None else None
        if parent is None or parent.uid != reference.uid:
            break
        owner = parent
    return f"{owner.kind}/{owner.name}" if owner is not pod else None


def _service(agent: Agent, service: Service) -> InspectedService:
    proxy = cluster_modes.service_proxy(agent.cluster.config.networking)
    endpoints: list[InspectedEndpoint] = [
        {
            "address": address,
            "port": port.port,
            "port_name": port.name,
            "node": endpoint.node_name,
            "ready": endpoint.conditions.is_ready,
        }
        for endpoint_slice in agent.cluster.slices_of(service)
        for endpoint in endpoint_slice.endpoints
        for address in endpoint.addresses
        for port in endpoint_slice.ports
        if port.port is not None  # kube-proxy ignores the others, too
    ]
    return {
        "namespace": service.namespace,
        "name": service.name,
        "type": service.spec.type,
        "internal_traffic_policy": service.spec.internal_traffic_policy,
        "external_traffic_policy": service.spec.external_traffic_policy,
        "proxied": is_proxied(service) and proxy.serves,
        "cluster_ips": list(service.cluster_ips),
        "load_balancer_ips": list(service.load_balancer_ips),
        "virtual_ips": list(service.virtual_ips),
        "external_ips": list(service.external_ips),
        "source_ranges": [text.strip() for text in service.spec.load_balancer_source_ranges],
        "ports": [
            {
                "port": port.port,
                "protocol": port.protocol,
                "node_port": port.node_port or None,
                "name": port.name,
            }
            for port in service.spec.ports
        ],
        "endpoints": endpoints,
    }
