"""Layer `programs`: the programs in the containers of pods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kubenetlab.api.lab import Decisions
from kubenetlab.api.pods import Pod, is_of_job
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.cluster.cni_agents import is_agent
from kubenetlab.controllers.cluster.kube_proxy import is_kube_proxy
from kubenetlab.controllers.kubelet.stopping import termination_of
from kubenetlab.controllers.kubelet.volumes import file_content
from kubenetlab.datapath import containers, modes
from kubenetlab.datapath.agents.health import agent_config, agent_plan
from kubenetlab.datapath.layers.layer import (
    DesiredObjects,
    Inputs,
    PlanContext,
    PodLayer,
    by_namespace,
)
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.program_config import ProgramConfig, with_config
from kubenetlab.datapath.proxy_views import kube_proxy_config, proxy_stats
from kubenetlab.datapath.startup import is_any_pod_starting
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Origin


def _basis(context: PlanContext, node: NodeView) -> Inputs:
    """Return what the lab tells the programs of system pods, by the pod's uid."""
    configs: dict[str, ProgramConfig] = {}
    for view in node.pods:
        if view.is_host_network:
            pod = context.cluster.get(Pod, view.namespace, view.name)
            if pod is not None and (config := _config(context, node, pod)) is not None:
                configs[pod.uid] = config
    return (configs,)


def _inputs(
    context: PlanContext, node: NodeView, configs: Mapping[str, ProgramConfig]
) -> Iterator[tuple[str, Inputs]]:
    cluster, cache = context.cluster, context.cache
    is_starting = is_any_pod_starting(cluster, cache)
    for view, pod in context.pods_of(node):
        netns, setups = view.netns, setups_of(cache, cluster, pod, view, context.decisions)
        waits = is_starting and cache(("waits", netns), containers.asks_once, pod.spec, setups)
        config = configs.get(pod.uid)
        termination = termination_of(cluster, pod) if pod.is_terminating else None
        signalled = termination.signalled if termination is not None else ()
        yield netns, (view, pod, setups, waits, config, signalled)


def _config(context: PlanContext, node: NodeView, pod: Pod) -> ProgramConfig | None:
    """Return what the lab tells the program of a system pod of a node."""
    if is_kube_proxy(pod):
        return _kube_proxy_config(context, node)
    if is_agent(context.cni.facts.agent, pod):
        plan = agent_plan(node, context.cni_of(node), context.cache)
        return agent_config(context.cluster, pod, plan) if plan is not None else None
    return None


def _kube_proxy_config(context: PlanContext, node: NodeView) -> ProgramConfig | None:
    obj, view = context.cluster.node(node.name), context.proxy_views.of(node.name)
    if obj is None:
        return None
    stats = proxy_stats(view, context.cache)
    return kube_proxy_config(obj, view, stats, modes.proxy_mode(context.networking)[0])


def _objects(
    view: PodView,
    pod: Pod,
    setups: containers.Setups,
    waits: bool,
    config: ProgramConfig | None,
    signalled: tuple[str, ...],
) -> tuple[DesiredObjects, ...]:
    runs = containers.programs(view.netns, pod, setups, waits=waits, signalled=signalled)
    return tuple(
        by_namespace(
            (with_config(run, config) for run in runs), Origin("kubelet", f"Pod {view.full_name}")
        )
    )


def setups_of(
    cache: PlanCache, cluster: Cluster, pod: Pod, view: PodView, decisions: Decisions
) -> containers.Setups:
    """Return the program of each container of a pod, independent of the state of the containers."""
    netns, services = view.netns, containers.numeric_services(cluster, pod)
    ports = cache(("ports", netns), containers.numeric_target_ports, pod.labels, pod.spec, services)
    of_job = is_of_job(pod.metadata)
    files: dict[str, dict[str, str]] = {}
    for name, path in cache(("files", netns), containers.files_read, pod.spec):
        container = pod.container(name)
        if (
            container is not None
            and (text := file_content(cluster, pod, container, path)) is not None
        ):
            files.setdefault(name, {})[path] = text
    return cache(
        ("setups", netns),
        containers.setups_of,
        pod.spec,
        pod.metadata.annotations,
        of_job,
        ports,
        decisions.real_commands,
        files,
    )


LAYER = PodLayer("programs", _basis, _inputs, _objects)
