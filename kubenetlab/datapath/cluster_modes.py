"""Modes of a cluster: those that its document selects, and what they mean for other components."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import structs

from kubenetlab.api.config import ClusterConfig, Networking, has_valid_ranges
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.kinds import kinds_of_plugin
from kubenetlab.api.lab import Decisions, NetworkFacts
from kubenetlab.api.meta import Resource
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.decode import Finding
from kubenetlab.datapath import modes
from kubenetlab.datapath.modes import CNI, PolicyEngine, ServiceProxy
from kubenetlab.datapath.network.bgp import bgp_mode


def decided_cni(config: ClusterConfig, decisions: Decisions) -> CNI:
    """Return the CNI mode with the choices that were made for this lab."""
    name, options = config.networking.cni_mode
    if decisions.cni_mode == name:
        options = decisions.cni_options
    return modes.load("cni", name, options).beside(modes.proxy_mode(config.networking)[0])


def service_proxy(networking: Networking) -> ServiceProxy:
    """Return the implementation of Services: kube-proxy, or the CNI plugin if there is none."""
    proxy = modes.load("proxy", *modes.proxy_mode(networking))
    if proxy.serves:
        return proxy
    return modes.load("cni", *networking.cni_mode).service_proxy or proxy


def policy_engine(networking: Networking, decisions: Decisions | None) -> tuple[str, JsonMapping]:
    """Return name and options of the policy engine of a lab, which may not be the default one."""
    if (
        networking.policy_engine is None
        and decisions is not None
        and decisions.policy_engine in modes.policy_engines(networking)
    ):
        return decisions.policy_engine, {}
    return modes.policy_engine(networking)


def enforced_kinds(networking: Networking, engine: PolicyEngine) -> tuple[type[Resource], ...]:
    """Return the kinds of policies that an engine enforces beside the CNI mode of a lab."""
    cni = modes.load("cni", *networking.cni_mode)
    return kinds_of_plugin(engine.enforced_kinds, cni.facts.plugin)


def policy_engine_of(cluster: Cluster) -> PolicyEngine:
    """Return the policy engine of a cluster."""
    decisions = cluster.get(Decisions, "", "decisions")
    return modes.load("policy", *policy_engine(cluster.config.networking, decisions))


def enforced_kinds_of(cluster: Cluster) -> tuple[type[Resource], ...]:
    """Return the kinds of policies that a cluster enforces."""
    return enforced_kinds(cluster.config.networking, policy_engine_of(cluster))


def network_facts(config: ClusterConfig) -> NetworkFacts:
    """Return the properties of a Cluster document's modes that the controllers need."""
    cni = modes.load("cni", *config.networking.cni_mode)
    proxy = modes.load("proxy", *modes.proxy_mode(config.networking))
    omitted = structs.replace(config.networking, kube_proxy_mode=None, policy_engine=None)
    return structs.replace(
        cni.facts,
        mode=(config.networking.cni_mode[0], plain_options(cni)),
        has_proxy=proxy.serves,
        implied_proxy_mode=modes.proxy_mode(omitted)[0],
        implied_policy_engine=modes.policy_engine(omitted)[0],
    )


def plugin_objects(cluster: Cluster) -> tuple[Resource, ...]:
    """Return the objects that the CNI plugin of the cluster installs."""
    return tuple(modes.load("cni", *cluster.config.networking.cni_mode).manifests(cluster))


def check(obj: Resource) -> Iterator[Finding]:
    """Yield the findings about the modes of a Cluster document; nothing for other objects."""
    if isinstance(obj, ClusterConfig):
        for family in modes.FAMILIES.values():
            yield from _mode_findings(obj, family.name, *family.chosen(obj.networking))
        yield from _policy_findings(obj)
        yield from _bgp_findings(obj)


def _mode_findings(
    config: ClusterConfig, family: str, name: str, options: JsonMapping
) -> Iterator[Finding]:
    """Yield all findings about one mode: an invalid option does not hide those about others."""
    while True:
        mode, findings = modes.try_load(family, name, options)
        yield from findings
        if mode is not None:
            if has_valid_ranges(config.networking):
                yield from mode.config_findings(config)
            return
        invalid = {finding.path[2] for finding in findings if len(finding.path) > 2}
        valid = {key: value for key, value in options.items() if key not in invalid}
        if valid == options:
            return
        options = valid


def _policy_findings(config: ClusterConfig) -> Iterator[Finding]:
    """Yield an error for a policy engine that does not see the packets of the CNI mode."""
    engine, _ = modes.policy_engine(config.networking)
    fitting = modes.policy_engines(config.networking)
    if engine in modes.known("policy") and engine not in fitting:
        name, _ = config.networking.cni_mode
        yield Finding(
            ("networking", "policyEngine"),
            f"{engine} does not see the packets between pods with cni {name}",
            hints=(f"policy engines with cni {name}: {', '.join(fitting)}",),
        )


def _bgp_findings(config: ClusterConfig) -> Iterator[Finding]:
    """Yield a warning for BGP of the router in a cluster whose nodes have none."""
    name, options = config.networking.cni_mode
    mode, _ = modes.try_load("cni", name, options)
    if config.fabric.bgp is not None and mode is not None and bgp_mode(mode) is None:
        yield Finding(
            ("fabric", "bgp"),
            f"cni {name} has no BGP: the router has no sessions, and the setting has no effect",
            hints=("modes with BGP: calico (backend bgp or ipip), kube-router",),
            is_warning=True,
        )


def plain_options(mode: object) -> JsonMapping:
    """Return all options of a mode as they are read back from a stored document."""
    options: JsonMapping = msgspec.json.decode(msgspec.json.encode(mode))
    return options
